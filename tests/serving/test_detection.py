"""Detection: detectors alone, false alarms at the declared rate, alarms and what follows, retention."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from services import SHAPE, make_service, network
from sqlalchemy import select

from dptrain.contracts import ConfigError
from dptrain.serving.detection.calibration import calibrate
from dptrain.serving.detection.detectors import (
    ClassConcentration,
    Distances,
    NearDuplicates,
    OffManifold,
)
from dptrain.serving.detection.features import Facts, Features, Manifold
from dptrain.serving.detection.guard import Detection
from dptrain.serving.detection.history import History
from dptrain.serving.detection.traffic import NormalTraffic
from dptrain.serving.keys import DAY
from dptrain.serving.ledger import QueryBudget
from dptrain.serving.recording import Recording
from dptrain.serving.tables import ALARMS, QUERIES

DETECTORS = {
    "off_manifold": OffManifold(),
    "near_duplicates": NearDuplicates(),
    "distances": Distances(),
    "concentration": ClassConcentration(),
}
SECRET = b"0123456789abcdef0123456789abcdef"
QUICK = {
    "detectors": DETECTORS,
    "length": 20,
    "checks": (10, 20),
    "sessions": 60,
    "session_false_alarms": 0.05,
}


def normal(count: int, seed: int) -> torch.Tensor:
    """Inputs with a bright quarter each, (count, 64)."""
    rng = torch.Generator().manual_seed(seed)
    inputs = 0.3 * torch.rand(count, *SHAPE, generator=rng)
    for row, quarter in enumerate(torch.randint(3, (count,), generator=rng).tolist()):
        down, right = divmod(quarter, 2)
        inputs[row, 0, 4 * down : 4 * down + 4, 4 * right : 4 * right + 4] += 0.6
    return inputs.flatten(1)


def features(reference: torch.Tensor | None = None) -> Features:
    manifold = None if reference is None else Manifold.fit(reference)
    return Features(torch.zeros(64), torch.ones(64), SECRET, manifold)


def named(inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network()(inputs.view(-1, *SHAPE)).softmax(-1)


def facts_of(made: Features, inputs: torch.Tensor):
    return made(inputs, named(inputs))


def test_the_manifold_is_the_gaussian_that_scikit_learn_fits():
    from sklearn.decomposition import PCA

    inputs = normal(300, 1).double()
    manifold = Manifold.fit(inputs)
    fitted = PCA(n_components=manifold.directions.shape[1], svd_solver="full").fit(inputs.numpy())
    # Log-likelihoods of a Gaussian are distances, but for a factor and a constant.
    likelihood = torch.from_numpy(fitted.score_samples(normal(50, 2).double().numpy()))
    distance = manifold.distance(normal(50, 2).double())
    slope = (likelihood - likelihood.mean()) / (distance - distance.mean())
    torch.testing.assert_close(slope, torch.full_like(slope, -64 / 2), rtol=1e-3, atol=0)


def test_fingerprints_find_what_is_nearly_the_same_and_nothing_else():
    made = features()
    inputs = normal(2, 3)
    changed = inputs[:1].clone()
    changed[0, :4] = 1 - changed[0, :4]
    history = History(10)
    scores = [
        history.add(facts_of(made, each), DETECTORS | {"off_manifold": ClassConcentration()})[
            "near_duplicates"
        ]
        for each in (inputs[:1], inputs[1:], changed, inputs[:1])
    ]
    assert scores[0] == 0.0
    assert scores[1] < 0.3
    assert scores[2] > 0.5
    assert scores[3] > 0.5  # the very same as the first is left out, the changed one is not
    assert not np.array_equal(
        made(inputs, named(inputs)).marks, Features(*_unit(), b"other", None)(inputs, named(inputs)).marks
    )


def _unit() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(64), torch.ones(64)


def test_sketches_keep_distances():
    made, inputs = features(), normal(200, 4)
    sketch = torch.from_numpy(facts_of(made, inputs).sketch)
    ratio = torch.pdist(sketch) / torch.pdist(inputs)
    assert 0.9 < float(ratio.mean()) < 1.1
    assert float(ratio.std()) < 0.25


@pytest.mark.run
def test_normal_sessions_raise_false_alarms_at_the_declared_rate_at_most():
    """On other normal inputs than those that the thresholds come from; the attack is noticed."""
    made, traffic = features(normal(400, 5)), NormalTraffic()
    settings = {"checks": (10, 20), "sessions": 150, "session_false_alarms": 0.1}
    rng = np.random.default_rng(0)
    found = calibrate(
        facts_of(made, normal(400, 6)), DETECTORS, traffic, query_false_alarms={"off_manifold": 0.05},
        rng=rng, **settings,
    )  # fmt: skip
    fresh = facts_of(made, normal(2000, 7))
    odd = sum(
        score_of(found, fresh, rows) > found.session_threshold
        for rows in traffic.sessions(fresh, 20, 300, rng)
    )
    assert odd < 0.1 * 300  # halves of few inputs differ more than all of them do from others: it errs below
    single = np.log(fresh.distance) > found.query_thresholds["off_manifold"]
    assert 0.02 < single.mean() < 0.09
    attack = facts_of(made, torch.rand(20, 64, generator=torch.Generator().manual_seed(8)))
    assert score_of(found, attack, np.arange(20)) > found.session_threshold


@pytest.mark.run
def test_of_few_inputs_the_rate_is_held_too():
    """By each draw of the inputs that thresholds come from, twice as many as a session has queries."""
    alarms, detectors = [], {"off_manifold": OffManifold()}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        found = calibrate(
            far(200, rng), detectors, NormalTraffic(), checks=(10, 50, 100), sessions=100,
            session_false_alarms=0.02, query_false_alarms={}, rng=rng,
        )  # fmt: skip
        fresh = far(4000, rng)
        scores = [
            found.of_session(fresh.take(rows), detectors)
            for rows in NormalTraffic().sessions(fresh, 100, 20, rng)
        ]
        alarms.append(int((np.array(scores) > found.session_threshold).sum()))
    assert sum(alarms) <= 0.02 * 240 + 5  # 2 % is declared; two standard deviations
    assert max(alarms) <= 4  # of 20, twelve times


def test_the_fewer_the_inputs_the_odder_a_session_must_be():
    """As far as sessions about one half of them are from what is normal by the other."""
    thresholds = []
    for inputs in (100, 10_000):
        rng = np.random.default_rng(0)
        found = calibrate(
            far(inputs, rng), {"off_manifold": OffManifold()}, NormalTraffic(), checks=(100,), sessions=100,
            session_false_alarms=0.02, query_false_alarms={}, rng=rng,
        )  # fmt: skip
        thresholds.append(found.session_threshold)
    assert thresholds[0] > 1.2 * thresholds[1]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    length=st.integers(1, 60),
    seed=st.integers(0, 2**32),
)
def test_people_ask_about_an_input_again_only_where_they_say_so_or_have_no_other(sizes, length, seed):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    traffic = NormalTraffic(resubmitted=0.0)
    for rows in traffic.rows(classes, length, 3, np.random.default_rng(seed)):
        asked = np.bincount(rows, minlength=len(classes))
        for each in range(len(sizes)):
            of_class = asked[classes == each]
            assert of_class.max() - of_class.min() <= 1


def far(count: int, rng: np.random.Generator) -> Facts:
    """Inputs that differ in how far off they are only."""
    return Facts(
        sketch=np.zeros((count, 32), np.float32), marks=np.zeros((count, 24), np.uint64),
        distance=np.exp(rng.normal(size=count)), answer=np.zeros(count, np.int64),
    )  # fmt: skip


def score_of(found, facts, rows) -> float:
    return found.of_session(facts.take(rows), DETECTORS)


def test_a_rate_that_so_few_sessions_cannot_tell_is_refused():
    with pytest.raises(ConfigError, match=r"sessions=50 cannot tell .* 0.01; give at least 99"):
        calibrate(
            facts_of(features(), normal(20, 1)), {}, NormalTraffic(), checks=(10,), sessions=50,
            session_false_alarms=0.01, query_false_alarms={}, rng=np.random.default_rng(0),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"actions": ("scold",)}, "actions="),
        ({"query_action": "refuse"}, "query_action=refuse is unknown"),
        ({"checks": (20, 10)}, "checks="),
        ({"detectors": {}}, "detectors="),
        ({"checks": (10, 201)}, "checks="),
        ({"query_detectors": ("smell",)}, "query_detectors="),
        ({"checks": (0, 10)}, "checks="),
        ({"checks": (-5, 10)}, "checks="),
        *[({"session_false_alarms": rate}, "session_false_alarms=") for rate in (0.0, 1.0, float("nan"))],
        *[({"query_false_alarms": rate}, "query_false_alarms=") for rate in (-0.1, 1.0, float("nan"))],
    ],
)
def test_what_is_no_detection_is_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        Detection(**{"detectors": DETECTORS, **wrong})


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


def body(inputs: torch.Tensor) -> bytes:
    import json

    return json.dumps({"inputs": inputs.view(-1, *SHAPE).tolist()}).encode()


@pytest.fixture(scope="module")
def calibration() -> torch.Tensor:
    return normal(400, 9)


@pytest.mark.run
def test_probing_is_noticed_answered_with_the_prior_and_held_back(tmp_path, calibration):
    clock = Clock()
    guards = {
        "detection": Detection(**QUICK, actions=("slow", "coarsen", "lock"), slow_seconds=0.5),
        "record": Recording(),
        "budget": QueryBudget(),
    }
    service = make_service(tmp_path, guards, calibration=calibration, clock=clock)
    prober = service.keys.caller(service.keys.make(tenant="gang", scopes=["predict"], days=None))
    noise = torch.rand(20, 64, generator=torch.Generator().manual_seed(1))
    answers = [service.answer(prober, body(each[None]), "application/json") for each in noise]
    prior = [[pytest.approx(1 / 3)] * 3]
    assert [answer["predictions"] == prior for answer, _ in answers].count(True) > 15
    assert answers[0][1] == 0.0
    assert answers[-1][1] == 0.5
    alarms = service.store.rows(select(ALARMS))
    assert {each.scope for each in alarms} == {"key", "tenant"}
    assert all(each.score < 0.05 and "deviates" in each.reason for each in alarms)
    assert alarms[0].queries == 10
    clock.now += 2
    (kept,) = service.keys.all()
    assert kept.locked == "probing was noticed"
    rows = service.store.rows(select(QUERIES))
    assert len(rows) == 20
    assert {each.outcome for each in rows} <= {"answered", "coarse"}
    assert all(each.raw is None and len(each.sketch) == 128 for each in rows)
    service.close()


@pytest.mark.run
@pytest.mark.parametrize("action", ["coarsen", "refuse", "slow"])
def test_an_alarm_within_a_batch_holds_for_the_rest_of_it(tmp_path, calibration, action):
    from dptrain.serving.keys import ANYONE

    guard = Detection(**QUICK, actions=(action,), query_action="log")
    service = make_service(tmp_path, {"detection": guard}, calibration=calibration, keys=False)
    noise = torch.rand(16, 64, generator=torch.Generator().manual_seed(1))
    answer, _ = service.answer(ANYONE, body(noise), "application/json")
    service.close()
    prior = [row == [pytest.approx(1 / 3)] * 3 for row in answer["predictions"]]
    assert prior == [False] * 9 + [action != "slow"] * 7


@pytest.mark.run
def test_normal_queries_pass_and_a_restart_forgets_no_session(tmp_path, calibration):
    clock = Clock()
    guards = {"detection": Detection(**QUICK), "record": Recording(), "budget": QueryBudget()}
    inputs = normal(8, 10)
    for start in (0, 4):
        service = make_service(tmp_path, guards, calibration=calibration, clock=clock, keys=False)
        for each in inputs[start : start + 4]:
            from dptrain.serving.keys import ANYONE

            service.answer(ANYONE, body(each[None]), "application/json")
        watch = service.guards["detection"]
        assert watch.sessions.every[("key", "anyone")].count == start + 4
        assert watch.sessions.every[("tenant", "anyone")].count == start + 4
        service.close()
    rows = service.store.rows(select(QUERIES.c.outcome))
    assert [each.outcome for each in rows].count("answered") >= 7


def test_records_are_purged_after_their_days_and_inputs_kept_only_if_asked(tmp_path):
    from dptrain.serving.keys import ANYONE

    clock = Clock()
    service = make_service(tmp_path, {"record": Recording(days=2, raw=True)}, clock=clock, keys=False)
    inputs = normal(2, 1)
    service.answer(ANYONE, body(inputs), "application/json")
    rows = service.store.rows(select(QUERIES))
    assert np.array_equal(np.frombuffer(rows[1].raw, np.float32), inputs[1].numpy())
    clock.now += 2 * DAY + 1
    service.answer(ANYONE, body(inputs[:1]), "application/json")
    assert len(service.store.rows(select(QUERIES))) == 1
    service.close()
    assert (tmp_path / "serving.sqlite").stat().st_mode & 0o077 == 0


@pytest.mark.run
def test_decoys_do_not_hide_the_odd_queries_among_them():
    """A tenth of the queries lie where one in fifty normal ones does: the mean stays normal."""
    made, only = features(normal(400, 5)), {"off_manifold": OffManifold()}
    found = calibrate(
        facts_of(made, normal(400, 6)), only, NormalTraffic(resubmitted=0.0), checks=(100,), sessions=60,
        session_false_alarms=0.05, query_false_alarms={}, rng=np.random.default_rng(0),
    )  # fmt: skip
    many = facts_of(made, normal(3000, 11))
    order, (_, high) = np.argsort(np.log(many.distance)), found.tails["off_manifold"]
    beyond = order[np.log(many.distance[order]) > high][:12]  # the least odd of the odd
    rows = np.concatenate([order[np.linspace(0, len(order) - 61, 88).astype(int)], beyond])
    score = found.of_session(many.take(rows), only)
    means = replace(found, tails={}, ranges={100: {name: found.ranges[100][name] for name in only}})
    assert score > found.session_threshold > means.of_session(many.take(rows), only)


def test_a_history_says_what_calibration_reckons_with():
    found = calibrate(
        facts_of(features(normal(400, 5)), normal(400, 6)), DETECTORS, NormalTraffic(), checks=(10,),
        sessions=20, session_false_alarms=0.05, query_false_alarms={}, rng=np.random.default_rng(0),
    )  # fmt: skip
    history = History(10, found.tails)
    for row in range(10):
        history.add(facts_of(features(normal(400, 5)), normal(10, 3)).take(np.array([row])), DETECTORS)
    assert history.means().keys() == found.ranges[10].keys()


@pytest.mark.run
def test_probing_that_rests_before_each_check_is_noticed(tmp_path, calibration):
    from dptrain.serving.keys import ANYONE

    clock, guard = Clock(), Detection(**QUICK)
    service = make_service(tmp_path, {"detection": guard}, calibration=calibration, clock=clock, keys=False)
    noise = torch.rand(18, 64, generator=torch.Generator().manual_seed(1))
    for start in (0, 9):
        service.answer(ANYONE, body(noise[start : start + 9]), "application/json")
        clock.now += 1801
    assert {each.scope for each in service.store.rows(select(ALARMS))} == {"key", "tenant"}
    service.close()
