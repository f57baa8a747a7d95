"""Names of classes alone lead into the classes, within the budget, and to the mean where there is no lead."""

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from dptrain.attacks.label_inversion import LabelInversion
from dptrain.contracts import Access, Records, Release, Targets

pytestmark = pytest.mark.run


def targets(shape: tuple[int, ...], classes: int) -> Targets:
    nobody = Records(torch.zeros(0, *shape), torch.zeros(0, dtype=torch.int64))
    names = tuple(str(c) for c in range(classes))
    return Targets(classes=names, shape=shape, bounds=(0.0, 1.0), mean=(0.5,), background=nobody)


def linear(shape: tuple[int, ...], classes: int, *, bias: torch.Tensor | None = None) -> Release:
    size = math.prod(shape)
    weights = torch.randn(classes, size, generator=torch.Generator().manual_seed(0))
    offset = -0.5 * weights.sum(1) if bias is None else bias  # nothing at the mean
    return Release(
        architecture=lambda: nn.Sequential(nn.Flatten(), nn.Linear(size, classes)),
        weights={"1.weight": weights, "1.bias": offset},
    )


class LabelsAlone:
    name = "labels"

    def __call__(self, confidences: torch.Tensor) -> torch.Tensor:
        return torch.eye(confidences.shape[1])[confidences.argmax(1)]


def test_inputs_move_away_from_the_borders():
    given = linear((1, 6, 6), 4)
    shown = replace(given, output=LabelsAlone())  # nothing but labels is looked at
    found = LabelInversion(queries=6000).run(shown, targets((1, 6, 6), 4), torch.Generator().manual_seed(0))
    model = given.build()

    def margin(inputs: torch.Tensor) -> float:
        logits = model(inputs)
        own = logits.gather(1, found.labels[:, None]).squeeze(1)
        others = logits.scatter(1, found.labels[:, None], -torch.inf).amax(1)
        return float((own - others).mean())

    assert model(found.inputs).argmax(1).tolist() == found.labels.tolist()
    assert margin(found.inputs) > 1.5 * margin(found.trail[0][1])


@pytest.mark.parametrize("shape", [(1, 9, 12), (3, 8, 8), (7,)])
def test_any_input_in_bounds_and_repeatable(shape):
    given, public, attack = linear(shape, 3), targets(shape, 3), LabelInversion(queries=1500)
    one, two, other = (attack.run(given, public, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.inputs.shape == (6, *shape)
    assert one.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert one.inputs.min() >= 0
    assert one.inputs.max() <= 1
    assert torch.equal(one.inputs, two.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    assert not torch.equal(one.trail[0][1][0], one.trail[0][1][1])  # each from a start of its own


@pytest.mark.parametrize("queries", [1, 3, 12, 64, 999, 1000])
def test_no_query_beyond_the_budget(queries):
    found = LabelInversion(queries=queries).run(
        linear((4,), 3), targets((4,), 3), torch.Generator().manual_seed(0)
    )
    spent = [when for when, _ in found.trail]
    assert spent == sorted(set(spent))
    assert spent[-1] <= queries
    assert torch.equal(found.trail[-1][1], found.inputs)
    if queries >= 999:
        assert spent[-1] > queries - 12


def test_a_class_that_is_never_named_stays_the_mean():
    bias = torch.tensor([0.0, 0.0, -1e6])
    found = LabelInversion(queries=1000).run(
        linear((1, 6, 6), 3, bias=bias), targets((1, 6, 6), 3), torch.Generator().manual_seed(0)
    )
    assert torch.equal(found.inputs[4:], torch.full((2, 1, 6, 6), 0.5))
    assert not torch.equal(found.inputs[0], found.inputs[4])


def test_the_file_says_every_default():
    path = Path(__file__).parents[2] / "conf" / "attack" / "class_inversion_labels.yaml"
    assert path.read_text().startswith("# @package attack.class_inversion_labels\n")
    said = yaml.safe_load(path.read_text())
    assert said.pop("_target_") == "dptrain.attacks.label_inversion.LabelInversion"
    assert said == {each.name: getattr(LabelInversion(), each.name) for each in fields(LabelInversion)}
    assert LabelInversion.needs == {Access.LABELS}
