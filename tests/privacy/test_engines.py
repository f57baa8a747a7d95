"""Every engine against a loop that takes one record after the other and clips by hand."""

import copy
import math
from functools import partial

import pytest
import torch
from scipy.stats import chi2
from torch import nn

from dptrain.contracts import ConfigError
from dptrain.privacy.clipping import AUTOMATIC_STABILITY, MARGIN, MARGIN_A_RECORD, Clipper
from dptrain.privacy.dpsgd import ENGINES, DPSGDEngine, RecordGradients, check_choices

pytestmark = pytest.mark.run

record_loss = partial(nn.functional.cross_entropy, reduction="none")

CASES = [
    ("bookkeeping", "flat"),
    ("bookkeeping", "per_layer"),
    ("bookkeeping", "automatic"),
    ("hooks", "flat"),
    ("hooks", "per_layer"),
    ("hooks", "automatic"),
]


@pytest.fixture(params=["mlp", "cnn"])
def model(request, models):
    return models[request.param]()


@pytest.fixture
def batch(splits):
    """Twenty records, some of them bright, so that some gradients are clipped and some are not."""
    inputs = splits.train.inputs[:20].clone()
    inputs[:5] *= 5.0
    return inputs, splits.train.labels[:20]


def engine_of(kind, model, plan, *, lr=1.0, seed=0):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    return DPSGDEngine(kind, model, optimizer, plan, loss=record_loss, generator=generator)


def clip_by_hand(model, gradients, clipping, limit):
    limit *= 1 - MARGIN - 10 * MARGIN_A_RECORD  # of plans that expect ten records
    if clipping == "per_layer":
        owners = [name.rpartition(".")[0] for name, _ in model.named_parameters()]
        share = limit / math.sqrt(len(set(owners)))
        return [
            g
            * min(
                1.0, share / (_norm([h for h, o in zip(gradients, owners, strict=True) if o == owner]) + 1e-6)
            )
            for g, owner in zip(gradients, owners, strict=True)
        ]
    norm = _norm(gradients)
    factor = (
        limit / (norm + AUTOMATIC_STABILITY) if clipping == "automatic" else min(1.0, limit / (norm + 1e-6))
    )
    return [g * factor for g in gradients]


def _norm(gradients):
    return float(torch.cat([g.flatten() for g in gradients]).norm())


def reference_rows(model, batch, clipping, limit):
    """Clipped gradient of each record, by one backward pass a record: (records, parameters)."""
    rows = []
    for one, label in zip(*batch, strict=True):
        loss = record_loss(model(one[None]), label[None]).sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in clip_by_hand(model, gradients, clipping, limit)]))
    return torch.stack(rows)


def summed(model):
    """The sum that the engine has accumulated, all parameters in a row."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat(
        [
            (torch.zeros_like(p) if p.summed_grad is None else p.summed_grad.to(p.dtype)).flatten()
            for p in parameters
        ]
    )


def sum_of(kind, model, plan, inputs, labels):
    model = copy.deepcopy(model)
    engine = engine_of(kind, model, plan)
    engine.accumulate(inputs, labels)
    return summed(model)


@pytest.mark.parametrize(("kind", "clipping"), CASES)
def test_sum_equals_the_slow_loop(model, batch, make_plan_of, kind, clipping):
    limit = float(reference_rows(model, batch, "flat", math.inf).norm(dim=1).median())
    reference = reference_rows(model, batch, clipping, limit)
    lengths = reference.norm(dim=1)
    if clipping == "flat":
        assert (lengths < 0.99 * limit).any()
        assert (lengths > 0.99 * limit).any()
    found = sum_of(kind, model, make_plan_of(clipping=clipping, max_grad_norm=limit), *batch)
    torch.testing.assert_close(found, reference.sum(0), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("kind", "clipping"), CASES)
def test_adding_or_removing_a_record_moves_the_sum_by_at_most_max_grad_norm(
    model, batch, make_plan_of, kind, clipping
):
    plan = make_plan_of(clipping=clipping, max_grad_norm=0.7)
    inputs, labels = batch
    inputs = torch.cat([inputs, 1e4 * inputs[:1]])
    labels = torch.cat([labels, (labels[:1] + 1) % 3])
    whole = sum_of(kind, model, plan, inputs, labels)
    for left_out in (0, 7, 20):
        kept = [i for i in range(21) if i != left_out]
        difference = whole - sum_of(kind, model, plan, inputs[kept], labels[kept])
        assert difference.norm() <= plan.sensitivity


@pytest.mark.parametrize("kind", ENGINES)
def test_record_gradients_are_the_difference_that_a_record_makes(model, batch, make_plan_of, kind):
    plan = make_plan_of(max_grad_norm=0.7)
    inputs, labels = batch
    rows = RecordGradients(model, record_loss, Clipper.of(model, "flat", 0.7))(inputs, labels)
    whole = sum_of(kind, model, plan, inputs, labels)
    for record in (0, 9, 19):
        kept = [i for i in range(20) if i != record]
        difference = whole - sum_of(kind, model, plan, inputs[kept], labels[kept])
        torch.testing.assert_close(rows[record], difference, rtol=1e-3, atol=2e-5)


def test_record_gradients_without_a_clipper_are_whole_and_leave_no_trace(model, batch):
    before = copy.deepcopy(model.state_dict())
    rows = RecordGradients(model, record_loss, None)(*batch)
    torch.testing.assert_close(rows, reference_rows(model, batch, "flat", math.inf), rtol=1e-4, atol=1e-5)
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ENGINES)
def test_images_that_lie_channels_last(models, batch, make_plan_of, kind):
    class ChannelsLast(nn.Module):
        def forward(self, images):
            return images.contiguous(memory_format=torch.channels_last)

    model, (inputs, labels) = models["cnn"](), batch
    scattered = nn.Sequential(ChannelsLast(), model[0], ChannelsLast(), *model[1:])
    expected = reference_rows(model, batch, "flat", 0.7)
    found = sum_of(kind, scattered, make_plan_of(max_grad_norm=0.7), inputs, labels)
    torch.testing.assert_close(found, expected.sum(0), rtol=1e-3, atol=2e-5)
    rows = RecordGradients(scattered, record_loss, Clipper.of(scattered, "flat", 0.7))(inputs, labels)
    torch.testing.assert_close(rows, expected, rtol=1e-3, atol=2e-5)


def test_record_gradients_follow_the_weights(mlp, batch):
    gradients = RecordGradients(mlp, record_loss, None)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.mul_(1.5)
    stale = gradients(*batch)
    gradients.follow(mlp)
    torch.testing.assert_close(
        gradients(*batch), reference_rows(mlp, batch, "flat", math.inf), rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(stale, gradients(*batch))


@pytest.mark.parametrize(("kind", "clipping"), CASES)
@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e38])
def test_a_poisoned_record_is_as_if_it_were_absent(model, batch, make_plan_of, kind, clipping, poison):
    plan = make_plan_of(clipping=clipping)
    inputs, labels = batch
    without = sum_of(kind, model, plan, inputs, labels)
    bad = inputs[:1].clone()
    bad[0, 0, 2, 2] = poison
    both = torch.cat([inputs[:4], bad, inputs[4:]]), torch.cat([labels[:4], labels[:1], labels[4:]])
    found = sum_of(kind, model, plan, *both)
    if poison == 1e38:  # finite: it may count, but no more than any record
        assert torch.isfinite(found).all()
        assert (found - without).norm() <= plan.max_grad_norm
    else:
        torch.testing.assert_close(found, without, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_batch_of_poisoned_records_is_an_empty_one(mlp, batch, make_plan_of, kind):
    inputs, labels = batch
    engine = engine_of(kind, mlp, make_plan_of())
    engine.accumulate(torch.full_like(inputs, math.nan), labels)
    assert engine.optimizer.dropped == 20
    engine.update()
    assert all(torch.isfinite(p).all() for p in mlp.parameters())


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_physical_batches_change_nothing(model, batch, make_plan_of, kind, size):
    plan = make_plan_of(noise_multiplier=0.5)
    whole, parts = copy.deepcopy(model), copy.deepcopy(model)
    one, many = engine_of(kind, whole, plan), engine_of(kind, parts, plan)
    for _ in range(2):
        one.accumulate(*batch)
        one.update()
        for inputs, labels in zip(batch[0].split(size), batch[1].split(size), strict=True):
            many.accumulate(inputs, labels)
        many.update()
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("physical", [1, 5])
def test_noise_has_the_planned_spread_and_comes_once_a_logical_batch(
    mlp, models, batch, make_plan_of, kind, physical
):
    """Sum of squares over the released gradient, less the exact sum, against the chi-square distribution."""
    plan = make_plan_of(noise_multiplier=1.3, max_grad_norm=0.4, expected_batch_size=7)
    inputs, labels = batch
    engine = engine_of(kind, mlp, plan, lr=1.0, seed=5)
    engine.keep_noise()
    squares, freedom = 0.0, 0
    before = models["mlp"]()
    for _ in range(10):
        before.load_state_dict(mlp.state_dict())
        for part in torch.arange(20).chunk(physical):
            engine.accumulate(inputs[part], labels[part])
        engine.update()
        steps = torch.cat(
            [(a - b).detach().flatten() for a, b in zip(before.parameters(), mlp.parameters(), strict=True)]
        )
        noise = 7 * steps - reference_rows(before, (inputs, labels), "flat", 0.4).sum(0)
        torch.testing.assert_close(noise, engine.noise(), rtol=0, atol=1e-4)
        squares += float(noise.double().square().sum())
        freedom += noise.numel()
    statistic = squares / (1.3 * 0.4) ** 2
    assert chi2.ppf(1e-4, freedom) < statistic < chi2.ppf(1 - 1e-4, freedom)


@pytest.mark.parametrize("kind", ENGINES)
def test_noise_is_independent_from_step_to_step_and_centred(mlp, make_plan_of, kind):
    engine = engine_of(kind, mlp, make_plan_of())
    engine.keep_noise()
    rows = []
    for _ in range(30):
        engine.update()
        rows.append(engine.noise())
    noise = torch.stack(rows)
    count = noise.numel()
    assert abs(float(noise.mean())) < 4 / count**0.5
    assert abs(float((noise[1:] * noise[:-1]).mean())) < 4 / count**0.5


@pytest.mark.parametrize("kind", ENGINES)
def test_an_empty_batch_takes_a_noisy_step(mlp, make_plan_of, kind):
    before = copy.deepcopy(mlp)
    engine = engine_of(kind, mlp, make_plan_of(), lr=1.0)
    assert engine.accumulate(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)) == 0.0
    engine.update()
    moved = torch.cat(
        [(a != b).flatten() for a, b in zip(before.parameters(), mlp.parameters(), strict=True)]
    )
    # On a grid of a 64th of its spread, noise is exactly zero once in 160 times.
    assert moved.float().mean() > 1 - 2 / 160


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("records", [0, 1, 20])
def test_the_divisor_is_the_plans_constant(mlp, batch, make_plan_of, kind, records):
    inputs, labels = batch
    plan = make_plan_of(noise_multiplier=0.0, expected_batch_size=50)
    before = copy.deepcopy(mlp)
    engine = engine_of(kind, mlp, plan, lr=1.0)
    engine.accumulate(inputs[:records], labels[:records])
    engine.update()
    expected = torch.zeros(sum(p.numel() for p in mlp.parameters()))
    if records:
        first = inputs[:records], labels[:records]
        expected = reference_rows(before, first, "flat", 1.0).sum(0) / 50
    moved = torch.cat([(a - b).flatten() for a, b in zip(before.parameters(), mlp.parameters(), strict=True)])
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ENGINES)
def test_frozen_parameters_stay_and_are_not_counted(mlp, batch, make_plan_of, kind):
    mlp[1].requires_grad_(False)
    frozen = mlp[1].weight.clone()
    engine = engine_of(kind, mlp, make_plan_of())
    engine.keep_noise()
    engine.accumulate(*batch)
    engine.update()
    assert torch.equal(mlp[1].weight, frozen)
    assert engine.noise().numel() == 12 * 3 + 3


@pytest.mark.parametrize("kind", ENGINES)
def test_summed_loss_is_returned(mlp, batch, make_plan_of, kind):
    expected = record_loss(mlp(batch[0]), batch[1]).sum()
    torch.testing.assert_close(engine_of(kind, mlp, make_plan_of()).accumulate(*batch), expected.detach())


@pytest.mark.parametrize(
    ("engine", "clipping", "message"),
    [
        ("magic", "flat", "mechanism.engine=magic is unknown; choose one of bookkeeping, hooks"),
        ("hooks", "none", "mechanism.clipping=none is unknown"),
        ("ghost", "flat", "mechanism.engine=ghost is unknown; use bookkeeping, which does all that it did"),
    ],
)
def test_choices_are_refused_with_their_cure(engine, clipping, message):
    with pytest.raises(ConfigError, match=message):
        check_choices(engine, clipping)
