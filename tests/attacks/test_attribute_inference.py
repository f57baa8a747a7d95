"""Attribute inference finds what a model learned by heart, and nothing in a model that learned nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dptrain.attacks.attribute_inference import AttributeInference, weigh
from dptrain.contracts import Attributes, OutOfQueries, Queries, Records, Release, Sensitive, Targets

pytestmark = pytest.mark.run

MEMBERS = 100
COLUMN = Sensitive(name="blood", columns=(1, 2, 3), values=torch.eye(3), names=("A", "B", "O"))


def table(count: int, rng: torch.Generator, *, telling: float = 0.0) -> Records:
    """Rows of nine numbers around a blood group; labels by chance, or with this probability by the group."""
    inputs = torch.rand(count, 12, generator=rng)
    value = torch.randint(3, (count,), generator=rng)
    inputs[:, 1:4] = torch.eye(3)[value]
    labels = torch.randint(2, (count,), generator=rng)
    told = torch.rand(count, generator=rng) < telling
    return Records(inputs, torch.where(told, (value == 0).long(), labels))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(12, 128), nn.ReLU(), nn.Linear(128, 2))


def release_of(model: nn.Module) -> Release:
    return Release(architecture=lambda: copy.deepcopy(model), weights=model.state_dict())


def learned_by_heart(records: Records, steps: int = 400) -> Release:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(records.inputs), records.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return release_of(model)


def targets_of(probes: Records, background: Records) -> Targets:
    return Targets(
        classes=("well", "ill"),
        shape=(12,),
        bounds=(0.0, 1.0),
        mean=(0.5,) * 12,
        background=background,
        sensitive=(COLUMN,),
        subjects={"blood": Records(COLUMN.hide(probes.inputs), probes.labels)},
    )


def attack(release: Release, targets: Targets) -> Attributes:
    return AttributeInference().run(release, targets, torch.Generator().manual_seed(0))


def accuracy(guesses: Tensor, probes: Records) -> tuple[float, float]:
    """On the members, which come first, and on the others."""
    right = (guesses == COLUMN.read(probes.inputs)).double()
    return float(right[:MEMBERS].mean()), float(right[MEMBERS:].mean())


def test_a_model_that_learned_by_heart_tells_the_column_of_members_only(rng) -> None:
    probes, background = table(2 * MEMBERS, rng), table(150, rng)
    release = learned_by_heart(probes.take(torch.arange(MEMBERS)))
    found = attack(release, targets_of(probes, background))
    members, others = accuracy(found.guesses["blood"], probes)
    imputed, _ = accuracy(found.imputed["blood"], probes)
    assert members > imputed + 0.15
    assert members > others + 0.15


def test_an_untrained_model_tells_nothing(rng) -> None:
    probes, background = table(2 * MEMBERS, rng), table(150, rng)
    found = attack(release_of(network()), targets_of(probes, background))
    members, _ = accuracy(found.guesses["blood"], probes)
    imputed, _ = accuracy(found.imputed["blood"], probes)
    assert abs(members - imputed) < 0.1


def test_imputation_uses_the_label_and_never_the_model(rng) -> None:
    probes, background = table(2 * MEMBERS, rng, telling=0.95), table(300, rng, telling=0.95)
    targets = targets_of(probes, background)
    blind = attack(release_of(network()), targets)
    members, others = accuracy(blind.imputed["blood"], probes)
    assert (members + others) / 2 > 0.55
    sighted = attack(learned_by_heart(probes.take(torch.arange(MEMBERS)), 50), targets)
    assert torch.equal(blind.imputed["blood"], sighted.imputed["blood"])


def test_the_blanked_column_of_the_subjects_is_all_that_is_seen(rng) -> None:
    probes, background = table(60, rng), table(80, rng)
    release = learned_by_heart(probes, 50)
    other = COLUMN.fill(probes.inputs, 2)
    first = attack(release, targets_of(probes, background))
    second = attack(release, targets_of(Records(other, probes.labels), background))
    assert torch.equal(first.guesses["blood"], second.guesses["blood"])


def test_the_same_stream_makes_the_same_guesses(rng) -> None:
    targets, release = targets_of(table(60, rng), table(80, rng)), release_of(network())
    first, second = attack(release, targets), attack(release, targets)
    assert torch.equal(first.guesses["blood"], second.guesses["blood"])
    assert torch.equal(first.imputed["blood"], second.imputed["blood"])


def test_background_may_lack_values_and_classes(rng) -> None:
    probes, background = table(40, rng), table(30, rng)
    for kept in (COLUMN.read(background.inputs) == 1, COLUMN.read(background.inputs) != 1):
        few = background.take(kept.nonzero().squeeze(1))
        one_class = Records(few.inputs, torch.zeros_like(few.labels))
        found = attack(release_of(network()), targets_of(probes, one_class))
        assert found.guesses["blood"].shape == (40,)


def test_trees_are_tried_where_there_are_records_enough(rng) -> None:
    background = table(120, rng)
    value = COLUMN.read(background.inputs)
    background.inputs[:, 0] = torch.tensor([0.1, 0.9, 0.5])[value] + 0.02 * background.inputs[:, 0]
    background.inputs[value == 2, 0] = torch.where(background.inputs[value == 2, 5] < 0.5, 0.0, 1.0)
    probes = background.take(torch.arange(60))
    targets = targets_of(probes, background)
    trees = AttributeInference(records_for_trees=100)
    lines = AttributeInference(records_for_trees=1000)
    release = release_of(network())
    right = [
        float((found.imputed["blood"] == COLUMN.read(probes.inputs)).double().mean())
        for found in (each.run(release, targets, torch.Generator().manual_seed(0)) for each in (trees, lines))
    ]
    assert right[0] > right[1]


def test_every_query_is_counted(rng) -> None:
    release, budgets = release_of(network()), []

    class Counted(Release):
        def queries(self, budget: int | None = None) -> Queries:
            budgets.append(super().queries(budget))
            return budgets[-1]

    counted = Counted(architecture=release.architecture, weights=release.weights)
    attack(counted, targets_of(table(40, rng), table(30, rng)))
    assert sum(each.spent for each in budgets) == 3 * (40 + 30)
    with pytest.raises(OutOfQueries):
        budgets[-1].__class__(release, 10).confidences(torch.zeros(11, 12))


# --------------------------------------------------------------------------- how the model is weighed

FLAT = torch.full((200, 2), 0.5, dtype=torch.float64).log()
HALF = torch.arange(200) % 2


def test_a_loss_that_says_nothing_of_the_background_and_no_less_of_subjects_is_ignored(rng) -> None:
    noise = torch.rand(2, 200, 2, generator=rng, dtype=torch.float64)
    prior = torch.tensor([[0.6, 0.4]], dtype=torch.float64).log().expand(200, 2)
    known = (torch.rand(200, generator=rng) > 0.6).long()
    score = weigh(prior, noise[0], prior, noise[1], known)
    assert float((score.argmax(1) == 0).double().mean()) > 0.9


def test_a_loss_that_finds_the_background_counts(rng) -> None:
    loss = torch.rand(200, 2, generator=rng, dtype=torch.float64) + 0.5
    loss[torch.arange(200), HALF] -= 0.5
    score = weigh(FLAT, loss, FLAT, loss, HALF)
    assert torch.equal(score.argmax(1), loss.argmin(1))
    weight = (score[:, 0] - score[:, 1]) / (loss[:, 1] - loss[:, 0])
    assert float(weight.min()) > 1.0


def test_a_loss_counts_more_where_subjects_are_known_by_heart(rng) -> None:
    heavy = torch.rand(200, 2, generator=rng, dtype=torch.float64) + 1.0  # says nothing of the background
    low = heavy.clone()
    low[:100] = torch.tensor([0.01, 0.2], dtype=torch.float64)
    prior = torch.tensor([[0.4, 0.6]], dtype=torch.float64).log().expand(200, 2)
    score = weigh(prior, low, prior, heavy, HALF)
    assert (score[:100].argmax(1) == 0).all()  # the model overrules the prior
    assert float((score[100:].argmax(1) == 1).double().mean()) > 0.8
