"""Confidences alone show what a model knows of its classes, within the budget, by any interface."""

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from dptrain.attacks.query_inversion import QueryInversion, margins
from dptrain.attacks.search_space import SNAPSHOTS, SearchSpace, Trail
from dptrain.contracts import Access, Records, Release, Targets

pytestmark = pytest.mark.run


def targets(shape: tuple[int, ...], classes: int, *, bounds=(0.0, 1.0), mean=(0.4,)) -> Targets:
    nobody = Records(torch.zeros(0, *shape), torch.zeros(0, dtype=torch.int64))
    names = tuple(str(c) for c in range(classes))
    return Targets(classes=names, shape=shape, bounds=bounds, mean=mean, background=nobody)


def linear(shape: tuple[int, ...], classes: int) -> Release:
    size = math.prod(shape)
    weights = torch.randn(classes, size, generator=torch.Generator().manual_seed(0))
    return Release(
        architecture=lambda: nn.Sequential(nn.Flatten(), nn.Linear(size, classes, bias=False)),
        weights={"1.weight": weights},
    )


def digits() -> tuple[Records, Records]:
    inputs, labels = load_digits(return_X_y=True)
    records = Records(torch.tensor(inputs, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels))
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(0))
    return records.take(order[:900]), records.take(order[900:])


def fitted(architecture, records: Records | None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture()
        if records is not None:
            optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
            for _ in range(300):
                chosen = torch.randint(len(records), (64,))
                loss = F.cross_entropy(model(records.inputs[chosen]), records.labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Tanh(), nn.AdaptiveAvgPool2d(4),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def test_a_model_shows_its_classes_and_an_untrained_one_does_not():
    theirs, mine = digits()

    def another() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    judge = fitted(another, mine)

    def success(records: Records | None) -> tuple[float, float]:
        release = Release(architecture=network, weights=fitted(network, records).state_dict())
        found = QueryInversion(queries=12000).run(
            release, targets((1, 8, 8), 10, mean=(0.3,)), torch.Generator().manual_seed(1)
        )
        first, last = (
            float((judge(inputs).argmax(1) == found.labels).double().mean())
            for inputs in (found.trail[0][1], found.inputs)
        )
        return first, last

    early, control = success(theirs)
    _, floor = success(None)
    assert control > 0.6
    assert control > early
    assert floor < 0.35


@pytest.mark.parametrize(
    ("shape", "bounds", "mean"),
    [
        ((1, 9, 12), (0.0, 1.0), (0.4,)),
        ((3, 8, 8), (-1.0, 1.0), (0.0, 0.1, -0.2)),
        ((7,), (-2.0, 3.0), (0.5,)),
        ((7,), (0.0, 1.0), tuple(c / 10 for c in range(7))),
    ],
)
def test_any_input_in_bounds_and_repeatable(shape, bounds, mean):
    given, public = linear(shape, 3), targets(shape, 3, bounds=bounds, mean=mean)
    attack = QueryInversion(queries=500)
    one, two, other = (attack.run(given, public, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.inputs.shape == (6, *shape)
    assert one.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert one.inputs.min() >= bounds[0]
    assert one.inputs.max() <= bounds[1]
    assert torch.equal(one.inputs, two.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    assert given.predict(one.inputs[::2]).argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("queries", [1, 2, 5, 11, 12, 64, 999, 1000])
def test_no_query_beyond_the_budget(queries):
    found = QueryInversion(queries=queries).run(
        linear((4,), 3), targets((4,), 3), torch.Generator().manual_seed(0)
    )
    spent = [when for when, _ in found.trail]
    assert spent == sorted(set(spent))
    assert queries - 12 < spent[-1] <= queries  # less than a pair for each of six restarts is left
    assert torch.equal(found.trail[-1][1], found.inputs)
    assert all(inputs.shape == found.inputs.shape for _, inputs in found.trail)
    if queries >= 999:
        assert len(spent) >= SNAPSHOTS - 2


class Blunt:
    """An interface that shows labels alone, or always the same."""

    name = "blunt"

    def __init__(self, same: bool) -> None:
        self.same = same

    def __call__(self, confidences: torch.Tensor) -> torch.Tensor:
        if self.same:
            return torch.eye(confidences.shape[1])[0].expand(len(confidences), -1)
        return F.one_hot(confidences.argmax(1), confidences.shape[1]).float()


def test_labels_alone_serve_as_confidences():
    given = replace(linear((1, 6, 6), 3), output=Blunt(same=False))
    found = QueryInversion(queries=4000).run(given, targets((1, 6, 6), 3), torch.Generator().manual_seed(0))
    assert given.predict(found.inputs).argmax(1).tolist() == found.labels.tolist()


def test_pairs_move_apart_until_the_answers_change():
    given = replace(linear((6,), 3), output=Blunt(same=False))
    near = QueryInversion(queries=4000, opening=0.0, radius=1e-3)  # too near to leave the mean's class
    found = near.run(given, targets((6,), 3), torch.Generator().manual_seed(0))
    assert given.predict(found.inputs).argmax(1).tolist() == found.labels.tolist()


def test_an_interface_that_says_nothing_gives_the_mean():
    given = replace(linear((1, 6, 6), 3), output=Blunt(same=True))
    found = QueryInversion(queries=800).run(given, targets((1, 6, 6), 3), torch.Generator().manual_seed(0))
    assert torch.allclose(found.inputs, torch.full_like(found.inputs, 0.4))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
def test_the_size_of_the_logits_does_not_matter(scale):
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = margins((scale * logits).softmax(1))
    assert torch.isfinite(found).all()
    assert 0.5 < found.std(1).mean() < 2
    assert torch.equal(found.argmax(1), logits.argmax(1))


def test_the_space_is_the_inputs_of_most_variance_at_its_scale():
    space = SearchSpace(
        targets=targets((2, 10, 14), 2, bounds=(-1e3, 1e3), mean=(3.0, 4.0)),
        frequencies=5,
        decay=1.0,
        contrast=1e-3,
    )
    assert space.size == 2 * 5 * 5
    assert torch.equal(space.inputs(torch.zeros(50))[:, 0, 0], torch.tensor([3.0, 4.0]))
    drawn = space.inputs(torch.randn(4000, 50, generator=torch.Generator().manual_seed(0)))
    assert drawn.var(dim=0).mean().sqrt() == pytest.approx(2.0, rel=0.02)  # a thousandth of the width


def test_snapshots_double():
    trail = Trail(1024)
    for spent in range(1, 1024):
        if trail.due(spent):
            trail.keep(spent, torch.tensor(spent))
    kept = trail.end(1024, torch.tensor(1024))
    assert [spent for spent, _ in kept] == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert [int(inputs) for _, inputs in kept] == [spent for spent, _ in kept]


def test_the_file_says_every_default():
    path = Path(__file__).parents[2] / "conf" / "attack" / "class_inversion_queries.yaml"
    assert path.read_text().startswith("# @package attack.class_inversion_queries\n")
    said = yaml.safe_load(path.read_text())
    assert said.pop("_target_") == "dptrain.attacks.query_inversion.QueryInversion"
    assert said == {each.name: getattr(QueryInversion(), each.name) for each in fields(QueryInversion)}
    assert QueryInversion.needs == {Access.CONFIDENCES}
