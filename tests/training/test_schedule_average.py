"""Learning rates and averaged weights, step by step."""

import pytest
import torch
from torch import nn

from dptrain.contracts import ConfigError
from dptrain.training.schedule import factor, make_average, make_schedule


def rates(name, *, steps, warmup_steps=0):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = make_schedule(optimizer, name, steps=steps, warmup_steps=warmup_steps)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_constant_stays():
    assert rates("constant", steps=3) == [2.0, 2.0, 2.0]


def test_linear_goes_down_in_equal_parts():
    assert rates("linear", steps=4) == [2.0, 1.5, 1.0, 0.5]


def test_cosine_is_halfway_in_the_middle():
    seen = rates("cosine", steps=10)
    assert seen[0] == 2.0
    assert seen[5] == pytest.approx(1.0)
    assert seen == sorted(seen, reverse=True)
    assert factor("cosine", 10, steps=10, warmup_steps=0) == pytest.approx(0.0)


def test_warmup_rises_to_the_full_rate_before_the_decay():
    assert rates("linear", steps=6, warmup_steps=2) == [1.0, 2.0, 2.0, 1.5, 1.0, 0.5]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_no_step_has_a_rate_of_zero_or_less(name):
    for steps in (1, 2, 7):
        for warmup_steps in range(steps + 2):
            assert min(rates(name, steps=steps, warmup_steps=warmup_steps)) > 0.0


def test_an_unknown_schedule_is_refused():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    with pytest.raises(ConfigError, match=r"training\.schedule=steep is unknown; choose one of constant"):
        make_schedule(optimizer, "steep", steps=1, warmup_steps=0)


def averages(decay, values):
    model = nn.Linear(1, 1, bias=False)
    average = make_average(model, decay)
    seen = []
    for value in values:
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
        seen.append(average.module.weight.item())
    return seen


def test_the_average_follows_its_recurrence():
    values = [3.0, -1.0, 2.0, 5.0]
    expected, now = [], 0.0
    for count, value in enumerate(values):
        # AveragedModel takes the first weights as they are.
        decay = 0.0 if count == 0 else min(0.9, (1 + count) / (10 + count))
        now = decay * now + (1 - decay) * value
        expected.append(now)
    assert averages(0.9, values) == pytest.approx(expected)


def test_the_start_is_forgotten():
    assert averages(0.5, [100.0] + [1.0] * 30)[-1] == pytest.approx(1.0, abs=1e-5)


def test_averaging_leaves_the_model_alone():
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    average = make_average(model, 0.9)
    average.update_parameters(model)
    assert torch.equal(model.weight, before)
    assert average.module.weight is not model.weight
