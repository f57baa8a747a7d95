"""Regularisers do what they say, to one record or to a batch; those that mix records never reach DP-SGD."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from support import order
from torch import Tensor, nn
from torch.nn import functional as F

from dptrain.assembly.components import assemble
from dptrain.config import parse
from dptrain.contracts import Budget, ConfigError, Objective, Records, Regulariser
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.mechanisms.sufficient_statistics import SufficientStatistics
from dptrain.models.frozen import FrozenFeatures
from dptrain.privacy.independence.check import find_dependence
from dptrain.tasks import Classification, MultiLabel
from dptrain.training.plain import PlainEngine
from dptrain.training.regularisers.bido import RIDGE, BiDO, dependency, gaussian
from dptrain.training.regularisers.label_smoothing import LabelSmoothing
from dptrain.training.regularisers.mix_up import MixUp

pytestmark = pytest.mark.run

TASK = Classification(classes=3)
EVERY = {"label_smoothing": LabelSmoothing(), "mix_up": MixUp(), "bido": BiDO()}


# ---------------------------------------------------------------------- label smoothing


@pytest.mark.parametrize("amount", [0.1, 0.0, -0.05])
def test_smoothed_labels_are_torch_s_where_torch_has_them_and_their_formula_everywhere(amount, rng) -> None:
    logits, labels = torch.randn(5, 3, generator=rng), torch.randint(3, (5,), generator=rng)
    found = LabelSmoothing(amount=amount).of_record(TASK.loss, TASK)(logits, labels)
    targets = (1 - amount) * F.one_hot(labels, 3) + amount / 3
    torch.testing.assert_close(found, -(targets * logits.log_softmax(1)).sum(1))
    if amount >= 0:
        theirs = F.cross_entropy(logits, labels, label_smoothing=amount, reduction="none")
        torch.testing.assert_close(found, theirs)


def test_smoothing_goes_with_declared_frequencies_of_classes(rng) -> None:
    task = Classification(classes=3, prior=(0.2, 0.3, 0.5))
    logits, labels = torch.randn(5, 3, generator=rng), torch.randint(3, (5,), generator=rng)
    found = LabelSmoothing(amount=0.2).of_record(task.loss, task)(logits, labels)
    shifted = logits + torch.tensor(task.prior).log()
    torch.testing.assert_close(found, F.cross_entropy(shifted, labels, label_smoothing=0.2, reduction="none"))


def test_labels_that_are_no_classes_cannot_be_smoothed() -> None:
    task = MultiLabel(labels=2)
    with pytest.raises(ConfigError, match=r"label_smoothing: labels of multi_label are no classes.*leave it"):
        LabelSmoothing().of_record(task.loss, task)


def test_dpsgd_trains_on_smoothed_labels_and_its_control_does(mlp, splits, settings_of, context_of) -> None:
    budget = Budget(epsilon=None, delta=1e-3, noise_multiplier=0.5)
    settings = settings_of(
        regularisers={"label_smoothing": LabelSmoothing(amount=0.5)},
        rates={"steps": 40, "expected_batch_size": 60},
    )
    confident = []
    for mechanism in (DPSGD(settings=settings), NonPrivate(settings=settings)):
        release, _ = mechanism.fit(copy.deepcopy(mlp), splits, budget, context_of())
        confident.append(float(release.predict(splits.train.inputs).max(1).values.mean()))
    release, _ = NonPrivate(settings=replace(settings, regularisers={})).fit(
        mlp, splits, budget, context_of()
    )
    plain = float(release.predict(splits.train.inputs).max(1).values.mean())
    assert max(confident) < 2 / 3 + 0.05 < 0.9 < plain, "with half the labels of all classes, 2/3 is best"


# ---------------------------------------------------------------------- what mixes records


def test_who_mixes_records_follows_from_what_they_override() -> None:
    assert [each.mixes_records for each in EVERY.values()] == [False, True, True]


@pytest.mark.parametrize("name", ["mix_up", "bido"])
def test_what_mixes_records_is_refused_under_dp_before_any_data_are_read(name: str) -> None:
    asked = order(f"regulariser=[{name}]", "data=npz", "data.path=nowhere.npz", "data.classes=[a,b]")
    with pytest.raises(ConfigError, match=rf"regulariser={name} mixes records.*set mechanism=non_private"):
        assemble(parse(asked.config))
    assemble(parse(order(f"regulariser=[{name}]", "mechanism=non_private").config))


@dataclass(frozen=True, kw_only=True)
class Sly(Regulariser):
    """A loss of a record that looks at the others, said to be of each record by itself."""

    def of_record(self, loss, task):  # noqa: ARG002
        return lambda outputs, labels: loss(outputs, labels) * outputs.mean()


def test_a_loss_that_mixes_records_in_secret_is_found_by_trying(mlp, splits, settings_of) -> None:
    with pytest.raises(ConfigError, match="the loss"):
        DPSGD(settings=settings_of(regularisers={"sly": Sly()})).prepare(mlp, splits)
    smoothed = settings_of(regularisers={"label_smoothing": LabelSmoothing(amount=-0.05)})
    DPSGD(settings=smoothed).prepare(mlp, splits)


def test_mechanisms_without_a_loss_refuse_regularisers(splits, settings_of) -> None:
    mechanism = SufficientStatistics(settings=settings_of(regularisers=EVERY), feature_norm=4.0)
    model = FrozenFeatures(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ConfigError, match=r"regulariser=label_smoothing, mix_up, bido: .*takes no steps"):
        mechanism.prepare(model, splits)


def _total(regulariser: Regulariser, model: nn.Module, records: Records) -> Tensor:
    """What the engine makes small of these records, from the seed 5."""
    engine = PlainEngine(
        model, torch.optim.SGD(model.parameters(), lr=0.1), 4, loss=TASK.loss, regularisers=[regulariser]
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return engine.accumulate(records.inputs, records.labels)


def test_mix_up_is_the_loss_between_two_records(mlp, splits) -> None:
    records = splits.train.take(torch.arange(6))
    found = _total(MixUp(alpha=0.4), mlp, records)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        share = float(torch.distributions.Beta(0.4, 0.4).sample())
        partner = torch.randperm(6)
    targets = F.one_hot(records.labels, 3).float()
    mixed = [share * each + (1 - share) * each[partner] for each in (records.inputs, targets)]
    torch.testing.assert_close(found, F.cross_entropy(mlp(mixed[0]), mixed[1], reduction="sum"))
    assert 0.01 < share < 0.99, "both records have a share"


def test_whole_numbers_cannot_be_mixed(splits) -> None:
    whole = Records(torch.zeros(4, 64, dtype=torch.int64), splits.train.labels[:4])
    with pytest.raises(ConfigError, match="whole numbers"):
        _total(MixUp(), nn.Linear(64, 3), whole)


def test_kernels_and_their_dependency_are_those_of_the_plain_formulas(rng) -> None:
    one, other = (torch.randn(5, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    kernels, normalised = [], []
    for rows in (one, other):
        slow = [[float(torch.exp(-((a - b) ** 2).sum() / (2 * 1.5**2 * 2))) for b in rows] for a in rows]
        kernels.append(torch.tensor(slow, dtype=torch.float64))
        torch.testing.assert_close(gaussian(rows, 1.5), kernels[-1])
        centring = torch.eye(5, dtype=torch.float64) - 1 / 5
        centred = centring @ kernels[-1] @ centring
        normalised.append(centred @ torch.linalg.inv(centred + 5 * RIDGE * torch.eye(5)))
    expected = sum(normalised[0][i, j] * normalised[1][j, i] for i in range(5) for j in range(5))
    torch.testing.assert_close(dependency(*kernels), expected)


def test_labels_that_a_layer_tells_apart_count_as_many_as_there_are_but_one(rng) -> None:
    labels = torch.arange(12) % 4
    same = (labels[:, None] == labels).double()
    assert float(dependency(same, same)) == pytest.approx(3, abs=1e-3)
    noise = torch.randn(12, 2, generator=rng, dtype=torch.float64)
    assert float(dependency(gaussian(noise, 50.0), same)) < 2


def test_bido_adds_the_dependencies_of_each_hidden_layer(cnn, splits) -> None:
    records = splits.train.take(torch.arange(8))
    found = _total(BiDO(inputs=3.0, labels=5.0, bandwidth=2.0), cnn, records)
    first = cnn[0](records.inputs)
    second = cnn[3](cnn[2](cnn[1](first)))
    given = gaussian(records.inputs.flatten(1), 2.0)
    wanted = (records.labels[:, None] == records.labels).float()
    loss = F.cross_entropy(cnn(records.inputs), records.labels, reduction="sum")
    for layer in (first, second):
        made = gaussian(layer.flatten(1), 2.0)
        loss = loss + 8 * (3.0 * dependency(made, given) - 5.0 * dependency(made, wanted))
    torch.testing.assert_close(found, loss.detach())
    assert not any(module._forward_hooks for module in cnn.modules())


def test_bido_lessens_what_hidden_layers_tell_of_inputs_and_adds_to_what_they_tell_of_labels(
    mlp, splits, settings_of, context_of, budget
) -> None:
    def dependencies(regularisers: dict[str, Regulariser]) -> list[float]:
        settings = settings_of(
            regularisers=regularisers,
            rates={"steps": 30, "expected_batch_size": 30},
            optimizer=partial(torch.optim.SGD, lr=0.1),
        )
        release, _ = NonPrivate(settings=settings).fit(copy.deepcopy(mlp), splits, budget, context_of())
        hidden = gaussian(release.build()[:2](splits.train.inputs), 5.0)
        labels = (splits.train.labels[:, None] == splits.train.labels).float()
        inputs = gaussian(splits.train.inputs.flatten(1), 5.0)
        return [float(dependency(hidden, each)) for each in (inputs, labels)]

    plain = dependencies({})
    assert dependencies({"bido": BiDO(inputs=1.0, labels=0.0)})[0] < 0.7 * plain[0]
    assert dependencies({"bido": BiDO(inputs=0.0, labels=1.0)})[1] > plain[1]


def test_bido_needs_a_hidden_layer(splits) -> None:
    with pytest.raises(ConfigError, match="no hidden layer"):
        _total(BiDO(), nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), splits.train.take(torch.arange(4)))


# ---------------------------------------------------------------------- of all


def test_regularisers_go_together_and_to_other_processes(mlp, splits) -> None:
    records = splits.train.take(torch.arange(8))
    loss = LabelSmoothing().of_record(TASK.loss, TASK)
    objective: Objective = _summed
    for each in (MixUp(), BiDO()):
        objective = each.of_batch(objective)
    again, smoothed = pickle.loads(pickle.dumps((objective, loss)))
    found = []
    for makes, of_record in ((objective, loss), (again, smoothed)):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            found.append(float(makes(mlp, records.inputs, records.labels, of_record).detach()))
    assert found[0] == found[1]


def _summed(model, inputs, labels, loss) -> Tensor:
    return loss(model(inputs), labels).sum()


def test_what_is_no_regulariser_is_refused() -> None:
    asked = order("+regulariser.mine={_target_: torch.nn.ReLU}", "mechanism=non_private")
    with pytest.raises(ConfigError, match="is no regulariser; derive it from"):
        assemble(parse(asked.config))


def test_a_smoothed_loss_treats_each_record_by_itself(mlp, splits) -> None:
    loss = LabelSmoothing(amount=-0.05).of_record(TASK.loss, TASK)
    assert find_dependence(mlp, forms=splits.forms, labels=TASK.made_up, loss=loss) is None
