"""What guards do to people, over the seeds of a point: sessions are independent, their queries are not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from dptrain.comparison.guarded import guarded

QUERIES = 200  # of a session


def run(sessions: int, flagged: float, withheld: float) -> Any:
    """A run that was served, and its sessions of normal traffic; 0: there were none."""
    normal = {
        "sessions": sessions,
        "queries": QUERIES * sessions,
        "flagged": {"value": flagged},
        "withheld": {"value": withheld},
    }
    latency = dict.fromkeys(("p50", "p99", "bare_p50", "bare_p99"), 1.0)
    guarding = {
        "guards": ["detection"],
        "probing": [],
        "normal": normal if sessions else None,
        "latency": latency,
    }
    return SimpleNamespace(report={"guarding": guarding})


def test_all_seeds_sessions_are_taken_together() -> None:
    found = guarded([run(100, 0.02, 0.01), run(50, 0.04, 0.02)], 0.95)
    assert found is not None
    assert found.flagged is not None
    assert found.withheld is not None
    assert (found.sessions, found.queries) == (150, 30_000)
    assert found.flagged.value == 4 / 150
    assert abs(found.withheld.value - 2 / 150) < 1e-12
    assert found.withheld.high - found.withheld.low > 0.02  # of 30,000 independent queries: a tenth of it


def test_without_normal_traffic_there_is_no_share() -> None:
    found = guarded([run(0, 0.0, 0.0)], 0.95)
    assert found is not None
    assert (found.sessions, found.flagged, found.withheld) == (0, None, None)


def test_the_share_withheld_holds_as_often_as_it_says() -> None:
    rng, turns, held, flagged = np.random.default_rng(0), 400, 0, 0.03
    for _ in range(turns):
        runs = []
        for sessions in (40, 60):
            alarms = rng.random(sessions) < flagged  # and all queries from there on are withheld
            withheld = np.round(alarms * rng.random(sessions) * QUERIES).mean() / QUERIES
            runs.append(run(sessions, float(alarms.mean()), float(withheld)))
        found = guarded(runs, 0.95)
        assert found is not None
        assert found.withheld is not None
        held += found.withheld.low <= flagged / 2 <= found.withheld.high
    assert held >= 0.95 * turns
