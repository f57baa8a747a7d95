"""Membership attacks: the formulas, what interfaces hide, and who sees more than the loss."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from scipy.stats import multivariate_normal, norm
from sklearn.metrics import roc_auc_score
from torch import nn

from dptrain.attacks.lira import Lira, _queries
from dptrain.attacks.membership import LossBets, LossThreshold, log_odds
from dptrain.attacks.rmia import Rmia, _ask, _dominated
from dptrain.config import Evidence
from dptrain.contracts import Access, ConfigError, Records, Release, Shadow, Targets, wants_shadows
from dptrain.tasks import MultiLabel

pytestmark = pytest.mark.run

CONF = Path(__file__).parents[2] / "conf" / "attack"
ATTACKS = {
    "membership_loss": LossThreshold,
    "membership_lira": Lira,
    "membership_rmia": Rmia,
    "audit_losses": LossBets,
}


@dataclass(frozen=True)
class Kept:
    """Shadow models that were trained before."""

    shadows: tuple[Shadow, ...]
    at_once: bool = False

    def train(self, count, *, private):
        assert not private
        return self.shadows[:count]


def targets_of(probes, background, shadows=()):
    return Targets(
        classes=("a", "b", "c"),
        shape=tuple(probes.inputs.shape[1:]),
        bounds=(0.0, 1.0),
        mean=(0.5,),
        background=background,
        probes=probes,
        shadows=Kept(tuple(shadows)),
    )


def scores_of(attack, release, targets, seed=0):
    return attack.run(release, targets, torch.Generator().manual_seed(seed)).scores


# ------------------------------------------------------------------------------------ log-odds


def test_log_odds_are_exact_where_one_minus_p_is_not():
    logits = torch.tensor([[40.0, 0.0, -1.0], [0.0, 1.0, 2.0], [-30.0, 0.0, 0.0]])
    labels = torch.tensor([0, 1, 0])
    exact = logits.double()
    expected = exact[torch.arange(3), labels] - torch.stack(
        [exact[0, 1:].logsumexp(0), exact[1, [0, 2]].logsumexp(0), exact[2, 1:].logsumexp(0)]
    )
    torch.testing.assert_close(log_odds(logits.softmax(-1), labels), expected, rtol=1e-5, atol=1e-5)


def test_log_odds_are_finite_whatever_is_shown():
    labels = torch.tensor([0, 0, 1])
    for shown in (torch.eye(3), torch.zeros(3, 3), torch.full((3, 3), 1e-45), torch.ones(3, 3)):
        assert log_odds(shown, labels).isfinite().all()


def test_a_rounded_zero_is_half_of_what_can_be_shown():
    shown = torch.tensor([[0.99, 0.01, 0.0], [1.0, 0.0, 0.0]])
    expected = torch.tensor([math.log(0.99 / 0.01), math.log(1.0 / 0.005)], dtype=torch.float64)
    torch.testing.assert_close(log_odds(shown, torch.tensor([0, 0])), expected, rtol=1e-5, atol=0)


# ------------------------------------------------------------------------------------ formulas, on tables


class Table(nn.Module):
    """A model that looks its logits up under the record's first number."""

    def __init__(self, logits=None):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(60, 3) if logits is None else logits)

    def forward(self, inputs):
        return self.logits[inputs.flatten(1)[:, 0].long()]


def table(rng):
    return Release(architecture=Table, weights={"logits": 2 * torch.randn(60, 3, generator=rng)})


@pytest.fixture
def tables(rng):
    """20 probes, 40 records of the adversary's, eight shadow models in pairs: all but the target."""
    labels = torch.randint(3, (60,), generator=rng)
    records = Records(torch.arange(60.0)[:, None], labels)
    shadows = []
    for _ in range(4):
        half = torch.randperm(20, generator=rng) < 10
        shadows += [
            Shadow(release=table(rng), members=half),
            Shadow(release=table(rng), members=~half),
        ]
    return targets_of(records.take(torch.arange(20)), records.take(torch.arange(20, 60)), shadows)


def answers(release, records):
    """Log-odds and confidence of each label, one by one."""
    confidences = release.predict(records.inputs).double()
    mine = confidences[torch.arange(len(records)), records.labels]
    return [math.log(p / (1 - p)) for p in mine.tolist()], mine.tolist()


@pytest.mark.parametrize("variance", ["fixed", "per_record"])
def test_lira_is_the_ratio_of_two_normal_densities(tables, rng, variance):
    target, probes = table(rng), tables.probes
    seen = answers(target, probes)[0]
    shadows = [(answers(shadow.release, probes)[0], shadow.members) for shadow in tables.shadows.shadows]

    def side(member):
        groups = [[odds[n] for odds, members in shadows if members[n] == member] for n in range(20)]
        means = [sum(group) / 4 for group in groups]
        variances = [
            sum((x - mean) ** 2 for x in group) / 3 for group, mean in zip(groups, means, strict=True)
        ]
        return means, [sum(variances) / 20] * 20 if variance == "fixed" else variances

    (m1, v1), (m0, v0) = side(True), side(False)
    expected = [
        norm.logpdf(seen[n], m1[n], v1[n] ** 0.5) - norm.logpdf(seen[n], m0[n], v0[n] ** 0.5)
        for n in range(20)
    ]
    online = scores_of(Lira(shadows=8, variance=variance), target, tables)
    assert online.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3)
    offline = scores_of(Lira(shadows=8, variance=variance, mode="offline"), target, tables)
    expected = [(seen[n] - m0[n]) / v0[n] ** 0.5 for n in range(20)]
    assert offline.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_below_64_shadow_models_the_variance_is_pooled(tables, rng):
    target = table(rng)
    default = scores_of(Lira(shadows=8), target, tables)
    assert torch.equal(default, scores_of(Lira(shadows=8, variance="fixed"), target, tables))
    many = replace(tables, shadows=Kept(tables.shadows.shadows * 8))
    default = scores_of(Lira(shadows=64), target, many)
    assert torch.equal(default, scores_of(Lira(shadows=64, variance="per_record"), target, many))


class Sums(nn.Module):
    """A model of images that a shift and a mirror change."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(16, 3))

    def forward(self, inputs):
        return inputs.flatten(1) @ self.weight


def test_several_queries_of_a_record_are_jointly_normal(rng):
    probes = Records(torch.rand(12, 1, 4, 4, generator=rng), torch.randint(3, (12,), generator=rng))

    def model():
        return Release(architecture=Sums, weights={"weight": torch.randn(16, 3, generator=rng)})

    half = torch.arange(12) < 6
    shadows = [Shadow(release=model(), members=half if n % 2 else ~half) for n in range(8)]
    target, attack = model(), Lira(shadows=8, queries_per_record=3)

    def odds(release):
        return torch.stack(
            [log_odds(release.predict(part.inputs), part.labels) for part in _queries(probes, 3)], 1
        )

    expected = torch.zeros(12, dtype=torch.float64)
    for sign, member in ((1, True), (-1, False)):
        chosen = [[odds(s.release)[n] for s in shadows if s.members[n] == member] for n in range(12)]
        means = [torch.stack(each).mean(0) for each in chosen]
        pooled = sum(torch.stack(each).T.cov() for each in chosen) / 12
        for n in range(12):
            expected[n] += sign * multivariate_normal.logpdf(odds(target)[n], means[n], pooled)
    found = scores_of(attack, target, targets_of(probes, probes, shadows))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_an_image_is_asked_about_as_it_is_moved_and_mirrored():
    image = torch.arange(6.0).view(1, 1, 2, 3)
    found = [query.inputs.flatten().tolist() for query in _queries(Records(image, torch.tensor([0])), 4)]
    assert found == [
        [0, 1, 2, 3, 4, 5],
        [0, 0, 1, 3, 3, 4],
        [1, 2, 2, 4, 5, 5],
        [2, 1, 0, 5, 4, 3],
    ]
    assert len(_queries(Records(torch.zeros(5, 8), torch.zeros(5, dtype=torch.int64)), 4)) == 1


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_rmia_counts_the_records_that_are_dominated(tables, rng, mode, gamma):
    target, a = table(rng), 0.4
    x, z = tables.probes, tables.background
    shadows = [
        (answers(s.release, x)[1], answers(s.release, z)[1], s.members) for s in tables.shadows.shadows[:4]
    ]

    def offline(without):
        return ((1 + a) * without + 1 - a) / 2

    ratios_z = [
        p / offline(sum(shadow[1][n] for shadow in shadows) / 4) for n, p in enumerate(answers(target, z)[1])
    ]
    ratios_x = []
    for n, p in enumerate(answers(target, x)[1]):
        inside = [shadow[0][n] for shadow in shadows if shadow[2][n]]
        outside = [shadow[0][n] for shadow in shadows if not shadow[2][n]]
        mean = (sum(inside) / 2 + sum(outside) / 2) / 2 if mode == "online" else offline(sum(outside) / 2)
        ratios_x.append(p / mean)
    counts = [sum(mine >= gamma * theirs for theirs in ratios_z) for mine in ratios_x]
    found = scores_of(Rmia(shadows=4, mode=mode, gamma=gamma, offline_a=a), target, tables)
    assert (found * 41).floor().tolist() == counts
    order = sorted(range(20), key=lambda n: ratios_x[n])
    assert found.argsort().tolist() == order  # and ties are broken by the record's own ratio


def test_rmia_asks_for_the_mean_of_several_labels():
    shown = torch.rand(5, 400, dtype=torch.float64).float() * 0.8 + 0.1
    labels = (torch.rand(5, 400) < 0.5).float()
    release = Release(predictions=lambda _: shown, task=MultiLabel(labels=400))
    right = torch.where(labels.bool(), shown, 1 - shown).double()
    torch.testing.assert_close(_ask(release, Records(torch.zeros(5, 1), labels)), right.log().mean(1).exp())


def test_gamma_times_as_large_is_large_enough():
    found = _dominated(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 1.0, 1.0, 3.0]), 2.0)
    assert (found * 5).floor().tolist() == [1, 3]


# ------------------------------------------------------------------------------------ interfaces


class LabelOnly:
    name = "label"

    def __call__(self, confidences):
        return nn.functional.one_hot(confidences.argmax(1), confidences.shape[1]).float()


class Rounded:
    name = "rounded"

    def __call__(self, confidences):
        return (10 * confidences).round() / 10


class Silent:
    name = "silent"

    def __call__(self, confidences):
        return torch.zeros_like(confidences)


QUICK = [
    LossThreshold(),
    LossBets(reference_steps=2),
    LossBets(shadows=8),
    Lira(shadows=8),
    Lira(shadows=8, variance="per_record"),
    Lira(shadows=8, mode="offline"),
    Lira(shadows=8, mode="offline", variance="per_record"),
    Rmia(),
    Rmia(mode="offline", offline_a=1.0),
]


@pytest.mark.parametrize("attack", QUICK, ids=str)
@pytest.mark.parametrize("output", [LabelOnly(), Rounded(), Silent()], ids=lambda output: output.name)
def test_scores_stay_finite_behind_every_interface(tables, rng, attack, output):
    found = scores_of(attack, replace(table(rng), output=output), tables)
    assert found.shape == (20,)
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("attack", "models"),
    [
        (LossThreshold(), 1),
        (LossBets(reference_steps=1), 2),
        (LossBets(shadows=4), 5),
        (Lira(shadows=8, queries_per_record=3), 9),
        (Rmia(shadows=4), 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_model_is_asked_once_and_behind_the_releases_interface(tables, rng, attack, models):
    asked = []

    def counting(confidences):
        asked.append(len(confidences))
        return confidences

    scores_of(attack, replace(table(rng), output=counting), tables)
    assert len(asked) == models


# ------------------------------------------------------------------------------------ who sees more


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 3))


def fit(records, seed, steps=150):
    model = network(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(records.inputs), records.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Release(architecture=network, weights=model.state_dict())


def noisy(count, rng):
    """Three overlapping classes: some records are easy, some are not, and a network learns each by heart."""
    inputs = torch.randn(count, 12, generator=rng)
    logits = 2.0 * inputs[:, :3] + torch.randn(count, 3, generator=rng)
    return Records(inputs, logits.argmax(1))


@pytest.fixture(scope="module")
def learnt_by_heart():
    """Three targets that were trained on half of 300 probes, their members, and 16 shadow models."""
    rng = torch.Generator().manual_seed(11)
    probes, background = noisy(300, rng), noisy(300, rng)
    shadows = []
    for seed in range(0, 16, 2):
        half = torch.randperm(300, generator=rng) < 150
        shadows += [
            Shadow(release=fit(probes.take(members.nonzero().flatten()), 1 + seed + n), members=members)
            for n, members in enumerate((half, ~half))
        ]
    coins = torch.randint(2, (3, 300), generator=rng).bool()
    releases = [fit(probes.take(members.nonzero().flatten()), 100 + n) for n, members in enumerate(coins)]
    return releases, coins, targets_of(probes, background, shadows)


def areas(attack, world, output=None):
    """The area under the curve, averaged over the targets."""
    releases, coins, targets = world
    found = [
        roc_auc_score(members, scores_of(attack, replace(release, output=output), targets))
        for release, members in zip(releases, coins, strict=True)
    ]
    return sum(found) / len(found)


def test_shadow_models_see_more_than_the_loss(learnt_by_heart):
    loss = areas(LossThreshold(), learnt_by_heart)
    assert loss > 0.55
    for attack in (Lira(mode="offline"), Rmia(mode="offline"), Lira(), Rmia(shadows=16), Rmia(shadows=4)):
        assert areas(attack, learnt_by_heart) > loss + 0.03, attack
    assert areas(Lira(), learnt_by_heart) > areas(Lira(mode="offline"), learnt_by_heart)


def test_rounding_hides_little_from_shadow_models(learnt_by_heart):
    """A zero that stood for next to nothing would outweigh all else that is shown, and hide much."""
    for attack in (Lira(), Rmia(shadows=16)):
        assert areas(attack, learnt_by_heart, Rounded()) > areas(attack, learnt_by_heart) - 0.03


def test_a_reference_says_how_hard_a_record_is(learnt_by_heart):
    plain = areas(LossBets(reference_steps=0), learnt_by_heart)
    assert plain == areas(LossThreshold(), learnt_by_heart)
    assert areas(LossBets(), learnt_by_heart) > plain + 0.01


def test_shadow_models_say_it_better_than_a_reference(learnt_by_heart):
    """Both of a pair together: each record is in one of the two."""
    assert areas(LossBets(shadows=2), learnt_by_heart) > areas(LossBets(), learnt_by_heart) + 0.02


def test_without_shadow_models_bets_fall_back_on_a_reference(tables, rng):
    nobody = replace(tables, shadows=None)  # of a model that was trained elsewhere
    one = LossBets(shadows=2, reference_steps=2).run(table(rng), nobody, torch.Generator().manual_seed(0))
    assert one.scores.isfinite().all()
    assert not wants_shadows(LossBets())
    assert wants_shadows(LossBets(shadows=2))


def test_where_trainings_take_no_steps_there_are_many(tables, rng):
    shadows = tables.shadows.shadows
    assert len(shadows) >= 8
    target = table(rng)
    few, many = (
        scores_of(
            Lira(shadows=4, shadows_at_once=8),
            target,
            replace(tables, shadows=Kept(shadows, at_once=at_once)),
        )
        for at_once in (False, True)
    )
    assert torch.equal(few, scores_of(Lira(shadows=4), target, tables))
    assert torch.equal(many, scores_of(Lira(shadows=8), target, tables))


def test_bets_are_on_the_probes_and_as_many_as_were_fixed(tables, rng):
    found = LossBets(guesses=8, reference_steps=0).run(table(rng), tables, rng)
    assert (LossBets.game, found.guesses) == ("audit_records", 8)
    assert LossBets(reference_steps=0).run(table(rng), tables, rng).guesses is None


# ------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("attack", "wrong"),
    [
        (Lira, {"shadows": 5}),
        (Lira, {"shadows": 2}),
        (Lira, {"mode": "sideways"}),
        (Lira, {"variance": "none"}),
        (Lira, {"queries_per_record": 9}),
        (Rmia, {"shadows": 3}),
        (Rmia, {"mode": "sideways"}),
        (Rmia, {"population": 0}),
        (Rmia, {"gamma": 0.5}),
        (Rmia, {"offline_a": 1.5}),
    ],
)
def test_what_cannot_be_is_refused_by_name(attack, wrong):
    ((key, value),) = wrong.items()
    with pytest.raises(ConfigError, match=rf"^{key}={value} "):
        attack(**wrong)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_file_says_every_default(name):
    attack = ATTACKS[name]
    path = CONF / f"{name}.yaml"
    assert path.read_text().startswith(f"# @package attack.{name}\n# ")
    said = yaml.safe_load(path.read_text())
    assert said.pop("_target_") == f"{attack.__module__}.{attack.__name__}"
    if said.get("shadows") == "${evidence.shadows}":  # one number for all attacks that share them
        said["shadows"] = Evidence().shadows
    assert said == {each.name: getattr(attack(), each.name) for each in fields(attack)}
    assert attack.needs == {Access.CONFIDENCES}
    assert attack.game in ("membership", "audit_records")
    assert wants_shadows(attack()) == (said.get("shadows", 0) > 0)
