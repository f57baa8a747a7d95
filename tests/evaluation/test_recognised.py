"""The permutation test of class inversions: certifies two classes, and seldom raises a false alarm."""

import math

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from dptrain.config import Evidence
from dptrain.contracts import Images, Records, Release, Splits, Targets
from dptrain.evaluation.games.class_inversion.game import ClassInversion
from dptrain.evaluation.games.class_inversion.recognised import (
    least_p_value,
    most_certified,
    p_value,
    recognised,
)
from dptrain.evaluation.stage import Subject, in_random_order

TRIALS = 300


class Proved:
    delta = 1e-5

    def epsilon(self, delta=None):  # noqa: ARG002
        return 3.0


class Reader:
    """An evaluator that reads log-odds off the inputs themselves."""

    accuracy = 1.0

    def classify(self, inputs):
        return inputs.argmax(1)

    def log_odds(self, inputs):
        return inputs


def splits_of(classes):
    none = Records(torch.zeros(classes, classes), torch.arange(classes))
    return Splits(
        name="read", source="here", train=none, holdout=none, test=none,
        classes=tuple(map(str, range(classes))), bounds=(0.0, 1.0), mean=(0.0,), std=(1.0,),
    )  # fmt: skip


def inversions(table):
    """One image a class, of which the reader reads this row of a table (classes, classes)."""
    return Images(inputs=table, labels=torch.arange(len(table)))


def line_of(released, control, untrained, rng):
    splits = splits_of(len(released))
    return recognised(
        inversions(released), None if control is None else inversions(control),
        list(map(inversions, untrained)), splits, Reader(), Proved(), rng,
        means=torch.zeros(len(released), len(released)), confidence=0.95, permutations=1000,
    )  # fmt: skip


def blind(classes, rng, scale=1.0):
    """Margins of a model whose classes have names by chance, heavy in the tails; those of a class alike."""
    tails = torch.randn(classes, classes, generator=rng) / torch.randn((), generator=rng).abs().clamp(min=0.1)
    return scale * (tails + torch.randn(classes, generator=rng))


@pytest.mark.parametrize(("classes", "untrained"), [(2, 11), (3, 3), (10, 3)])
def test_blind_inversions_seldom_raise_an_alarm(classes, untrained, rng):
    alarms = 0
    for _ in range(TRIALS):
        scale = float(torch.rand((), generator=rng)) + 0.1  # of all models of one trial
        tables = [blind(classes, rng, scale) for _ in range(untrained + 1)]
        alarms += p_value(tables[0], tables[1:], rng, permutations=200) <= 0.05
    assert binomtest(alarms, TRIALS, 0.05, alternative="greater").pvalue > 1e-3
    assert alarms > 0, "a test that never alarms is not of this level"


def test_two_classes_are_certified_beside_eleven_untrained_models_and_not_beside_three(rng):
    shown = torch.tensor([[2.0, -2.0], [-2.0, 2.0]])
    nothing = [0.1 * torch.randn(2, 2, generator=rng) for _ in range(11)]
    line = line_of(shown, nothing[0], nothing, rng)
    assert line.verdict.startswith("leakage detected")
    assert line.details["p_value"] == pytest.approx(1 / 24)
    assert line.detection_limit == 1.0 > line.floor
    few = line_of(shown, shown, nothing[:3], rng)
    assert (
        few.verdict == "attack too weak to tell: with so few classes and 3 untrained models p is 0.12 at best"
    )
    assert few.detection_limit < few.floor
    resisted = line_of(nothing[0], shown, nothing[1:], rng)
    assert resisted.verdict.startswith("resisted: recognised no better than")


def test_a_model_that_favours_one_class_is_no_evidence(rng):
    """Of an untrained model all inversions may look like one class: half of them are right."""
    one_sided = torch.tensor([[5.0, -5.0], [5.0, -5.0]])
    others = [0.1 * torch.randn(2, 2, generator=rng) for _ in range(11)]
    assert line_of(one_sided, None, others, rng).details["p_value"] > 0.05


def test_where_untrained_models_know_the_names_only_models_are_exchanged(rng):
    """As where nothing but a part that another layer reads is trained."""
    knowing = [torch.eye(4) * (3 + each) for each in torch.rand(12, generator=rng)]
    line = line_of(4.5 * torch.eye(4), knowing[0], knowing[1:], rng)
    assert line.details["p_value"] == line.details["least_p_value"] == pytest.approx(1 / 12)
    assert line.verdict.startswith("attack too weak to tell: with so few classes")
    many = [torch.eye(4) * (3 + each) for each in torch.rand(40, generator=rng)]
    assert line_of(4.5 * torch.eye(4), None, many, rng).verdict.startswith("leakage detected")


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 100])
def test_the_game_asks_for_untrained_models_enough(classes):
    game = ClassInversion(evidence=Evidence())
    least = least_p_value(classes, game.baselines(splits_of(classes)), permutations=1000)
    assert least <= 0.05
    (said,) = game.detectable(splits_of(classes), None, Proved())
    assert said.limit == most_certified(classes, least, 0.95) == 1.0


def test_the_null_counts_every_order_once(rng):
    table = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 3.0]], dtype=torch.float64)
    assert p_value(table, [], rng, permutations=1000) == pytest.approx(1 / 6)
    assert p_value(table, [torch.zeros_like(table)], rng, permutations=1000) == pytest.approx(1 / 12)
    assert p_value(table, [table], rng, permutations=1000) == pytest.approx(2 / 12), "as good as the best"
    few = p_value(table, [torch.zeros_like(table)], rng, permutations=5)
    assert few >= 1 / 6, "drawn at random where there are more orders"
    assert math.isclose(least_p_value(10, 3, permutations=1000), 1 / 1001)


def test_weights_in_random_order_are_the_same_numbers_and_leave_what_is_frozen():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    weights = model.state_dict()
    dealt = in_random_order(model, weights, 3)
    assert torch.equal(dealt["0.weight"], weights["0.weight"])
    assert not torch.equal(dealt["2.weight"], weights["2.weight"])
    assert torch.equal(dealt["2.weight"].flatten().sort().values, weights["2.weight"].flatten().sort().values)
    assert torch.equal(in_random_order(model, weights, 3)["2.weight"], dealt["2.weight"])
    release = Release(weights=weights, architecture=lambda: model)
    subject = Subject(release=release, targets={"one": Targets.of(splits_of(2))}).untrained(3)
    assert torch.equal(subject.release.weights["2.weight"], dealt["2.weight"])


def test_a_release_of_nothing_but_noise_is_one_order_of_its_weights_among_many():
    """However large the noise; beside margins of fresh weights it would be called a leak half of the time."""
    alarms, rng = 0, torch.Generator().manual_seed(5)
    evaluator = torch.randn(12, generator=rng, dtype=torch.float64)
    for _ in range(TRIALS):
        model = nn.Linear(12, 2, bias=False)
        model.weight.data = 30.0 * torch.randn(2, 12, generator=rng)
        weights = model.state_dict()
        tables = [
            _inverted(each["weight"], evaluator)
            for each in (weights, *(in_random_order(model, weights, seed) for seed in range(11)))
        ]
        alarms += p_value(tables[0], tables[1:], rng, permutations=1000) <= 0.05
    assert binomtest(alarms, TRIALS, 0.05, alternative="greater").pvalue > 1e-3


def _inverted(weight, evaluator):
    """What an evaluator says of each class's direction: log-odds (2, 2)."""
    seen = (weight[0] - weight[1]).double() @ evaluator
    return torch.stack([torch.stack([seen, -seen]), torch.stack([-seen, seen])])
