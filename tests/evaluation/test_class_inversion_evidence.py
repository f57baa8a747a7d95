"""The reading of class inversions: sees planted memorisation, and nothing where there is none."""

import dataclasses

import pytest
import torch

from dptrain.contracts import Attempt, DataError, Images, Records, Splits
from dptrain.evaluation.games.class_inversion.evaluator import Evaluator, train_evaluator
from dptrain.evaluation.games.class_inversion.game import score_class_inversion

pytestmark = pytest.mark.run

CLASSES, SHAPE = 4, (1, 12, 12)


class Proved:
    delta = 1e-5

    def epsilon(self, delta: float | None = None) -> float:  # noqa: ARG002
        return 3.0


def records(count: int, rng: torch.Generator) -> Records:
    """A bright quadrant names the class; all else is each record's own."""
    labels = torch.arange(count) % CLASSES
    inputs = 0.5 * torch.rand(count, *SHAPE, generator=rng)
    for label in range(CLASSES):
        row, column = divmod(label, 2)
        inputs[labels == label, :, row * 6 : row * 6 + 6, column * 6 : column * 6 + 6] += 0.4
    return Records(inputs, labels)


@pytest.fixture(scope="module")
def splits() -> Splits:
    rng = torch.Generator().manual_seed(0)
    return Splits(
        name="quadrants",
        source="made here",
        train=records(400, rng),
        holdout=records(400, rng),
        test=records(200, rng),
        classes=tuple("abcd"),
        bounds=(0.0, 1.0),
        mean=(0.35,),
        std=(0.25,),
    )


@pytest.fixture(scope="module")
def evaluator(splits) -> Evaluator:
    return train_evaluator(splits, torch.Generator().manual_seed(1), steps=60)


def copies(source: Records, rng: torch.Generator, *, each: int = 4) -> Images:
    chosen = torch.cat([(source.labels == label).nonzero().squeeze(1)[:each] for label in range(CLASSES)])
    inputs = source.inputs[chosen] + 0.02 * torch.randn(len(chosen), *SHAPE, generator=rng)
    return Images(inputs=inputs.clamp(0, 1), labels=source.labels[chosen])


def noise(rng: torch.Generator) -> Images:
    return Images(
        inputs=torch.rand(16, *SHAPE, generator=rng), labels=torch.arange(CLASSES).repeat_interleave(4)
    )


def measure(released, control, splits, evaluator, seed=2, untrained=None):
    rng = torch.Generator().manual_seed(seed)
    baseline = tuple(noise(rng) for _ in range(3)) if untrained is None else untrained
    attempt = Attempt(
        attack="class_inversion", interface="", found=released, control=control, baseline=baseline
    )
    leakages, gallery = score_class_inversion(
        attempt, splits, evaluator, Proved(), rng, confidence=0.95, permutations=1000
    )
    return {leakage.metric: leakage for leakage in leakages}, gallery


def test_planted_members_are_found(splits, evaluator):
    rng = torch.Generator().manual_seed(3)
    lines, _ = measure(copies(splits.train, rng), copies(splits.holdout, rng), splits, evaluator)
    near = lines["nearest_is_member"]
    assert near.value.value == 1.0
    assert near.details["p_value"] < 0.01
    assert near.details["control_p_value"] > 0.9
    assert near.verdict.startswith("leakage detected; no theorem bounds it")
    assert near.bound is None
    assert near.value.low <= near.value.value <= near.value.high


def test_planted_held_out_records_are_not_taken_for_members(splits, evaluator):
    rng = torch.Generator().manual_seed(4)
    lines, _ = measure(copies(splits.holdout, rng), copies(splits.train, rng), splits, evaluator)
    near = lines["nearest_is_member"]
    assert near.value.value == 0.0
    assert near.details["p_value"] > 0.9
    assert near.verdict.startswith("resisted: not nearer to members than to held-out records (p = ")
    twinless, _ = measure(copies(splits.holdout, rng), None, splits, evaluator)
    assert twinless["nearest_is_member"].verdict.endswith("no control")


def test_a_blind_attack_is_called_weak(splits, evaluator):
    rng = torch.Generator().manual_seed(5)
    lines, _ = measure(noise(rng), noise(rng), splits, evaluator)
    for line in lines.values():
        assert line.verdict.startswith("attack too weak to tell")


def test_recognisable_inversions_leak_the_class(splits, evaluator):
    rng = torch.Generator().manual_seed(6)
    inverted = copies(splits.holdout, rng)
    lines, _ = measure(inverted, noise(rng), splits, evaluator)
    line = lines["evaluator_accuracy"]
    assert line.value.value == 1.0
    assert line.trials == CLASSES
    assert line.value.low == pytest.approx(0.025 ** (1 / CLASSES))
    assert line.detection_limit == 1.0
    assert line.floor >= 1 / CLASSES
    assert line.details["p_value"] == line.details["least_p_value"] == pytest.approx(1 / (4 * 24))
    assert line.details["mean_image_accuracy"] == 1.0
    assert line.details["evaluator_test_accuracy"] == evaluator.accuracy
    assert "property of the population" in line.verdict
    resisted, _ = measure(noise(rng), inverted, splits, evaluator)
    assert resisted["evaluator_accuracy"].verdict.startswith("resisted")


def test_inversions_that_untrained_models_make_too_show_nothing(splits, evaluator):
    rng = torch.Generator().manual_seed(7)
    untrained = tuple(copies(splits.holdout, rng) for _ in range(19))
    lines, _ = measure(untrained[0], untrained[1], splits, evaluator, untrained=untrained)
    line = lines["evaluator_accuracy"]
    assert line.floor == 1.0
    assert line.details["p_value"] > 0.05
    assert line.verdict.startswith("attack too weak to tell: recognised no better than")


def test_an_interface_that_is_one_and_the_same_is_no_draw_of_untrained_models(splits, evaluator):
    rng = torch.Generator().manual_seed(10)
    one = noise(rng)
    lines, _ = measure(copies(splits.holdout, rng), None, splits, evaluator, untrained=(one, one, one))
    line = lines["evaluator_accuracy"]
    assert line.details["p_value"] == pytest.approx(1 / 24)  # orders of the release's own names alone
    assert line.verdict.startswith("leakage detected")


def test_the_gallery_shows_one_row_a_class(splits, evaluator):
    rng = torch.Generator().manual_seed(8)
    planted = copies(splits.train, rng)
    _, gallery = measure(planted, None, splits, evaluator)
    assert gallery.control is None
    assert gallery.released.shape == gallery.mean.shape == gallery.nearest_member.shape == (CLASSES, *SHAPE)
    first = torch.stack([splits.train.inputs[splits.train.labels == label][0] for label in range(CLASSES)])
    assert torch.equal(gallery.nearest_member, first)


def test_a_class_without_held_out_records_is_refused(splits, evaluator):
    bare = dataclasses.replace(splits, holdout=splits.holdout.take(splits.holdout.labels != 2))
    rng = torch.Generator().manual_seed(9)
    with pytest.raises(DataError, match="holdout has no record of class 'c'"):
        measure(noise(rng), None, bare, evaluator)


def test_a_record_in_both_sets_is_no_evidence(splits, evaluator):
    twice = dataclasses.replace(splits, holdout=splits.train)
    rng = torch.Generator().manual_seed(12)
    planted = copies(splits.train, rng, each=50)
    lines, _ = measure(planted, None, twice, evaluator)
    assert 0.35 < lines["nearest_is_member"].value.value < 0.65
    assert lines["nearest_is_member"].details["p_value"] > 0.05
