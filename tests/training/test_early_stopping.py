"""Held-out records choose the weights that are released, in a run that goes on too; the statement says so."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from dptrain.contracts import Budget, Splits
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.tasks import task_of
from dptrain.training import checkpoint
from dptrain.training.loop import evaluate

pytestmark = pytest.mark.run

WILD = {
    "rates": {"steps": 12, "expected_batch_size": 12},
    "evaluations": 12,
    "optimizer": partial(torch.optim.SGD, lr=1.5, momentum=0.9),
}


@pytest.fixture
def splits(splits: Splits) -> Splits:
    """Two in five labels are wrong, so that what the model does on other records goes up and down."""
    wrong = torch.arange(len(splits.train)) % 5 < 2
    labels = torch.where(wrong, (splits.train.labels + 1) % 3, splits.train.labels)
    return replace(splits, train=splits.train.labelled(labels))


@pytest.mark.parametrize(("by", "place", "best"), [("loss", 2, min), ("metric", 1, max)])
def test_the_best_of_all_evaluations_is_released(
    mlp, splits, settings_of, context_of, budget, by, place, best
) -> None:
    mechanism = NonPrivate(settings=settings_of(early_stopping=by, **WILD))
    release, _ = mechanism.fit(mlp, splits, budget, context_of())
    measured = [each[place] for each in release.published]
    assert measured[-1] != best(measured), "the last weights are not the best, or nothing is tested"
    found = evaluate(release.build(), splits.holdout, context_of(), task_of(splits))
    assert found[place - 1] == pytest.approx(best(measured), rel=1e-6)


def test_without_it_the_last_weights_are_released(mlp, splits, settings_of, context_of, budget) -> None:
    release, _ = NonPrivate(settings=settings_of(**WILD)).fit(mlp, splits, budget, context_of())
    found = evaluate(release.build(), splits.holdout, context_of(), task_of(splits))
    assert found[1] == pytest.approx(release.published[-1][2], rel=1e-6)


@pytest.mark.parametrize("kind", [NonPrivate, DPSGD])
def test_a_run_that_goes_on_remembers_the_best(models, splits, settings_of, context_of, folder, kind) -> None:
    budget = Budget(epsilon=None, delta=1e-3, noise_multiplier=1.0)
    mechanism = kind(settings=settings_of(early_stopping="loss", **WILD))
    whole, _ = mechanism.fit(models["mlp"](), splits, budget, context_of())
    steps = [step for step, _, loss in whole.published if loss == min(each[2] for each in whole.published)]
    stop = min(steps[0] + 1, 11)  # beyond the best

    class Killed(Exception):
        pass

    def progress(*, done: int, total: int, epsilon: float) -> None:  # noqa: ARG001
        if done == stop:
            raise Killed

    with pytest.raises(Killed):
        mechanism.fit(models["mlp"](), splits, budget, context_of(folder=folder, progress=progress))
    assert checkpoint.load(folder)["best"] is not None
    resumed, _ = mechanism.fit(models["mlp"](), splits, budget, context_of(folder=folder))
    assert whole.weights.keys() == resumed.weights.keys()
    assert all(torch.equal(whole.weights[name], resumed.weights[name]) for name in whole.weights)


@pytest.mark.parametrize("kind", [NonPrivate, DPSGD])
def test_the_statement_says_that_held_out_records_were_looked_at(
    mlp, splits, settings_of, context_of, budget, kind
) -> None:
    settings = settings_of(early_stopping="loss", evaluations=4)
    for asked, said in ((settings, True), (replace(settings, early_stopping="none"), False)):
        _, guarantee = kind(settings=asked).fit(mlp, splits, budget, context_of())
        outside = " ".join(guarantee.statement().outside_guarantee)
        assert ("held-out records chose which of 4 states of the weights is released" in outside) is said
        assert ("They are of people too" in outside) is said
