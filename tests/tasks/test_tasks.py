"""What each task computes, beside sklearn and PyTorch, and that a record's loss is its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from torch import Tensor
from torch.nn import functional as F

from dptrain.contracts import Interval, Task, Utility
from dptrain.tasks import Classification, MultiLabel, NextToken, Ordinal, Regression
from dptrain.tasks.means import interval_of_mean
from dptrain.tasks.next_token import IGNORED

TASKS: tuple[Any, ...] = (
    Classification(classes=4),
    Classification(classes=4, prior=(0.4, 0.3, 0.2, 0.1)),
    MultiLabel(labels=3),
    Ordinal(classes=4),
    Regression(bounds=(-2.0, 6.0)),
    NextToken(vocabulary=7, length=5),
)


def made(task: Task, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(count, *task.outputs, generator=rng), task.made_up(count, rng)


def pairs(outputs: Tensor, labels: Tensor) -> Any:
    """In batches of unequal sizes."""
    return list(zip(outputs.split(7), labels.split(7), strict=True))


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_a_loss_is_of_its_own_record_and_made_up_labels_are_labels(task: Task, rng: torch.Generator) -> None:
    outputs, labels = made(task, 10, rng)
    losses = task.loss(outputs, labels)
    assert losses.shape == (10,)
    for row in range(10):
        torch.testing.assert_close(losses[row], task.loss(outputs[[row]], labels[[row]])[0])
    assert task.problem(labels) is None
    assert task.problem(labels.to(torch.int32)) is not None


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_utility_and_the_score_in_training_agree(task: Task, rng: torch.Generator) -> None:
    outputs, labels = made(task, 40, rng)
    score, loss = task.evaluate(pairs(outputs, labels))
    found = task.utility(pairs(task.predict(outputs), labels), confidence=0.9)
    if not isinstance(task, Regression):  # whose predictions are kept within the bounds
        assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.accuracy.value == pytest.approx(score, abs=1e-6)
    assert found.accuracy.low <= score <= found.accuracy.high
    assert (found.metric, found.records) == (task.metric, 40)


def test_classification_beside_sklearn(rng: torch.Generator) -> None:
    task = Classification(classes=4)
    outputs, labels = made(task, 60, rng)
    found = task.utility(pairs(task.predict(outputs), labels), confidence=0.95)
    chances = outputs.double().softmax(-1).numpy()
    assert found.accuracy.value == metrics.accuracy_score(labels, outputs.argmax(-1))
    area = metrics.roc_auc_score(labels, chances, multi_class="ovr")
    assert found.auroc.value == pytest.approx(area, abs=1e-6)
    assert 0 < found.auroc.low < found.auroc.value < found.auroc.high < 1
    assert found.loss == pytest.approx(metrics.log_loss(labels, chances), rel=1e-5)
    assert task.floor(labels) == float(labels.bincount().max()) / 60
    named = outputs.argmax(-1)
    balanced = found.more["balanced_accuracy"]
    assert balanced.value == pytest.approx(metrics.balanced_accuracy_score(labels, named))
    assert balanced.low < balanced.value < balanced.high
    rows = [list(row.values()) for row in found.confusion.values()]
    assert rows == metrics.confusion_matrix(labels, named).tolist()
    recalls = [each.value for each in found.by_class.values()]
    assert recalls == pytest.approx(metrics.recall_score(labels, named, average=None).tolist())
    assert found.scores is not None
    assert found.scores.mean().item() == pytest.approx(found.accuracy.value)


def test_classes_have_names_and_those_without_records_no_recall(rng: torch.Generator) -> None:
    task = Classification(classes=3, names=("a", "b", "c"))
    outputs, labels = torch.randn(30, 3, generator=rng), torch.arange(30) % 2
    outputs[0] = math.nan
    found = task.utility(pairs(task.predict(outputs), labels), confidence=0.95)
    assert list(found.by_class) == ["a", "b"]
    assert list(found.confusion) == ["a", "b", "c"]
    assert sum(sum(row.values()) for row in found.confusion.values()) == 29  # of one nothing is named
    assert found.calibration is None
    assert found.more["balanced_accuracy"].value == pytest.approx(
        sum(each.value for each in found.by_class.values()) / 2
    )
    assert repr(task) == "Classification(classes=3, prior=None)"  # a key of caches, as it was


def test_a_balanced_accuracy_lies_in_its_interval_as_often_as_it_says() -> None:
    rng, task, held = torch.Generator().manual_seed(0), Classification(classes=2), 0
    labels = (torch.arange(120) < 20).long()
    for _ in range(60):
        right = torch.rand(120, generator=rng) < torch.tensor([0.9, 0.6])[labels]
        made = F.one_hot(torch.where(right, labels, 1 - labels), 2).float()
        found = task.utility([(made, labels)], confidence=0.95).more["balanced_accuracy"]
        held += found.low <= 0.75 <= found.high
    assert held >= 54


def test_several_labels_beside_sklearn(rng: torch.Generator) -> None:
    task = MultiLabel(labels=3)
    outputs, labels = made(task, 60, rng)
    found = task.utility(pairs(task.predict(outputs), labels), confidence=0.95)
    named = (outputs > 0).float()
    right = found.more["label_accuracy"]
    assert right.value == pytest.approx(1 - metrics.hamming_loss(labels, named))
    assert found.more["all_labels_right"].value == pytest.approx(metrics.accuracy_score(labels, named))
    assert found.auroc.value == pytest.approx(metrics.roc_auc_score(labels, outputs, average="macro"))
    expected = F.binary_cross_entropy_with_logits(outputs, labels)
    assert task.loss(outputs, labels).mean().item() == pytest.approx(3 * expected.item())
    each = metrics.roc_auc_score(labels, outputs, average=None)
    assert [one.value for one in found.by_class.values()] == pytest.approx(each)


def test_numbers_beside_sklearn(rng: torch.Generator) -> None:
    task = Regression(bounds=(-2.0, 6.0))
    labels = task.made_up(80, rng)
    outputs = ((labels - 2) / 2 + 0.4 * torch.randn(80, generator=rng)).unsqueeze(-1)
    predictions = task.predict(outputs)
    assert float(predictions.min()) >= -2.0
    found = task.utility(pairs(predictions, labels), confidence=0.95)
    told = predictions.squeeze(-1)
    assert found.accuracy.value == pytest.approx(metrics.r2_score(labels, told))
    assert found.more["mean_absolute_error"].value == pytest.approx(
        metrics.mean_absolute_error(labels, told), rel=1e-5
    )
    assert found.more["root_mean_squared_error"].value == pytest.approx(
        metrics.root_mean_squared_error(labels, told), rel=1e-5
    )
    assert metrics.r2_score(labels, labels.mean().expand(80)) == pytest.approx(task.floor(labels), abs=1e-6)
    expected = F.mse_loss(outputs.squeeze(-1), (labels - 2) / 2) / 2
    assert task.loss(outputs, labels).mean().item() == pytest.approx(expected.item())


def test_the_jackknife_leaves_out_each_record_in_turn(rng: torch.Generator) -> None:
    task = Regression(bounds=(0.0, 1.0))
    labels = torch.rand(12, generator=rng).double()
    told = (labels + 0.1 * torch.randn(12, generator=rng)).clamp(0, 1)
    found = task.utility([(told.unsqueeze(-1), labels)], confidence=0.95).accuracy
    whole = metrics.r2_score(labels, told)
    kept = [torch.arange(12) != out for out in range(12)]
    pseudo = [12 * whole - 11 * metrics.r2_score(labels[some], told[some]) for some in kept]
    error = np.std(pseudo, ddof=1) / math.sqrt(12)
    assert found.low == pytest.approx(whole - 2.200985 * error, rel=1e-5)  # Student's t, 11 degrees


def test_next_tokens_beside_a_loop(rng: torch.Generator) -> None:
    task = NextToken(vocabulary=7, length=5)
    outputs, labels = made(task, 20, rng)
    labels[0, 3:] = IGNORED
    labels[1] = IGNORED  # nothing to score
    losses = task.loss(outputs, labels)
    right, expected = [], []
    for row in range(20):
        places = [at for at in range(5) if labels[row, at] != IGNORED]
        each = [float(F.cross_entropy(outputs[row, at], labels[row, at])) for at in places]
        assert float(losses[row]) == pytest.approx(sum(each) / max(1, len(each)), rel=1e-5)
        if places:
            expected.append(sum(each) / len(each))
            right.append(np.mean([int(outputs[row, at].argmax() == labels[row, at]) for at in places]))
    found = task.utility(pairs(task.predict(outputs), labels), confidence=0.95)
    assert found.records == 19
    assert found.accuracy.value == pytest.approx(np.mean(right))
    assert found.more["perplexity"].value == pytest.approx(math.exp(np.mean(expected)), rel=1e-5)
    assert task.problem(labels) is None
    assert task.problem(labels.clamp(min=-1)) is not None


def test_intervals_hold_as_often_as_they_say() -> None:
    rng = torch.Generator().manual_seed(1)
    draws = torch.rand(2000, 30, generator=rng).square()  # of mean 1/3
    held = [interval_of_mean(row, 0.9) for row in draws]
    assert 0.87 <= np.mean([each.low <= 1 / 3 <= each.high for each in held]) <= 0.93
    assert interval_of_mean(torch.ones(10), 0.95).low == pytest.approx(1 - math.log(40) / 10)


def drawn(task: Task, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Predictions that are right to some extent, and labels, of 150 records."""
    labels = task.made_up(150, rng)
    told = F.one_hot(labels, 4).float() if task.of_classes else labels.view(150, -1)
    noise = torch.randn(150, *task.outputs, generator=rng)
    return task.predict(
        1.5 * told + noise if not isinstance(task, Regression) else told / 2 - 1 + noise
    ), labels


@pytest.mark.parametrize(
    "task", [MultiLabel(labels=3), Ordinal(classes=4), Regression(bounds=(-2.0, 6.0))], ids=repr
)
def test_intervals_beside_a_bootstrap_of_records(task: Task, rng: torch.Generator) -> None:
    """By scikit-learn's measures: as wide as theirs over resampled records, and around the same value."""
    made, labels = drawn(task, rng)
    found = task.utility([(made, labels)], confidence=0.95)

    def measures(at: Tensor) -> dict[str, float]:
        told, known = made[at], labels[at]
        if isinstance(task, MultiLabel):
            return {"metric": float(metrics.roc_auc_score(known, told, average="macro"))}
        if isinstance(task, Regression):
            told = told.squeeze(-1)
            return {
                "metric": metrics.r2_score(known, told),
                "mean_absolute_error": metrics.mean_absolute_error(known, told),
                "root_mean_squared_error": metrics.root_mean_squared_error(known, told),
            }
        told = told.argmax(-1)
        return {
            "metric": metrics.accuracy_score(known, told),
            "mean_absolute_grade_error": metrics.mean_absolute_error(known, told),
            "quadratic_weighted_kappa": metrics.cohen_kappa_score(known, told, weights="quadratic"),
        }

    whole = measures(torch.arange(150))
    again = [measures(torch.randint(150, (150,), generator=rng)) for _ in range(400)]
    for name, value in whole.items():
        interval = found.accuracy if name == "metric" else found.more[name]
        low, high = np.quantile([each[name] for each in again], [0.025, 0.975])
        assert interval.value == pytest.approx(value, abs=1e-6), name
        assert interval.high - interval.low == pytest.approx(high - low, rel=0.3), name
        assert interval.low == pytest.approx(low, abs=0.25 * (high - low)), name


def test_a_label_that_all_have_is_left_out_and_a_perfect_one_has_an_interval() -> None:
    labels = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    task = MultiLabel(labels=2, names=("mass", "edema"))
    found = task.utility([((labels + 0.1) / 2, labels)], confidence=0.95)
    assert list(found.by_class) == ["edema"]
    assert found.accuracy.value == 1.0
    assert found.accuracy.low < 0.5
    assert math.isnan(task.utility([(labels * torch.nan, labels)], confidence=0.95).accuracy.value)


@given(outputs=st.lists(st.floats(-30, 30), min_size=5, max_size=5), grade=st.integers(0, 4))
def test_the_ordinal_loss_is_that_of_borders(outputs: list[float], grade: int) -> None:
    logits = torch.tensor([outputs], dtype=torch.float64)
    chances = logits.softmax(-1)[0]
    above = chances.flip(0).cumsum(0).flip(0)[1:]  # the chance to lie above each border
    truth = (torch.arange(4) < grade).double()
    expected = -(truth * above.log() + (1 - truth) * chances.cumsum(0)[:-1].log()).sum()
    assert float(Ordinal(classes=5).loss(logits, torch.tensor([grade]))) == pytest.approx(
        float(expected), rel=1e-6, abs=1e-9
    )
    assert bool((above.diff() <= 1e-12).all())


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_other_labels_are_labels_and_others_and_likelier_labels_are_told(
    task: Task, rng: torch.Generator
) -> None:
    outputs, labels = made(task, 30, rng)
    others = task.mislabelled(labels, torch.rand(30, generator=rng))
    assert task.problem(others) is None
    assert bool((others != labels).reshape(30, -1).any(-1).all())
    said = task.log_likelihood(task.predict(outputs), labels)
    assert said.shape == (30,)
    assert bool(task.log_likelihood(task.predict(outputs) * torch.nan, labels).isfinite().all())


def test_the_likelihood_of_numbers_is_that_of_normal_errors_whatever_their_unit(rng: torch.Generator) -> None:
    """So that models whose errors are of unlike sizes can be compared."""
    labels, noise = torch.rand(400, generator=rng), torch.randn(400, generator=rng)
    for sigma in (0.01, 0.05):
        found = Regression(bounds=(0.0, 1.0)).log_likelihood((labels + sigma * noise)[:, None], labels)
        spread = 4 * sigma * float(noise.square().mean().sqrt())
        expected = -(4 * sigma * noise.double() / spread).square() / 2 - math.log(spread)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        unit = Regression(bounds=(0.0, 1000.0))
        other = unit.log_likelihood(1000 * (labels + sigma * noise)[:, None], 1000 * labels)
        torch.testing.assert_close(other, found, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_copies_of_records_make_no_measure_surer_where_it_is_known_whose_they_are(
    task: Task, rng: torch.Generator
) -> None:
    outputs, labels = made(task, 60, rng)
    predictions = task.predict(outputs)
    one = task.utility(pairs(predictions, labels), confidence=0.95)
    many = predictions.repeat_interleave(8, 0), labels.repeat_interleave(8, 0)
    whose = torch.arange(60).repeat_interleave(8)
    known = task.utility(pairs(*many), confidence=0.95, groups=whose)
    alone = task.utility(pairs(*many), confidence=0.95)

    def measures(found: Utility) -> list[Interval]:
        every = [found.accuracy, *found.more.values(), *found.by_class.values()]
        return [*every, *([found.auroc] if task.of_classes else [])]

    for first, second, third in zip(*map(measures, (one, known, alone)), strict=True):
        if math.isfinite(first.value):
            assert second.value == pytest.approx(first.value, abs=0.05)
            assert second.high - second.low > 0.85 * (first.high - first.low)
            assert third.high - third.low < 0.6 * (first.high - first.low)
    again = task.utility(pairs(predictions, labels), confidence=0.95, groups=torch.arange(60))
    assert measures(again) == measures(one) or any(math.isnan(each.value) for each in measures(one))
