"""The check of noise passes what is Gaussian, catches what is cut off or coarse, and counts as it says."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from support import script

pytestmark = pytest.mark.run

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))  # where the processes that it starts find it
check = script("check_noise")


def tallied(name: str, count: int):
    parts = [check.tally(name, *part) for part in check.shares(count, 4)]
    return sum(parts[1:], start=parts[0])


def failed(tally) -> set[str]:
    return {test for test, p in check.p_values(tally).items() if p < check.UNLIKELY}


def test_numbers_that_are_gaussian_pass() -> None:
    found = tallied("dptrain", 2**21)
    assert failed(found) == set()
    assert found.count == found.cells.sum() == 2**21
    assert 4.5 < found.largest < 7.0


def test_a_cut_at_few_standard_deviations_is_caught_by_the_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(chunk: int, count: int, *, block: int) -> torch.Tensor:
        return check.ours(chunk, count, block=block).clamp(-3.9, 3.9)

    monkeypatch.setitem(check.SOURCES, "dptrain", check.Subject(source=cut, limit=3.9))
    assert {"above 4", "below -4"} <= failed(tallied("dptrain", 2**21))


def test_coarse_numbers_are_caught_by_their_repetition_and_wide_ones_by_their_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert failed(tallied("float32", 2**20)) == {"no number twice"}

    def wide(chunk: int, count: int, *, block: int) -> torch.Tensor:
        return 1.01 * check.ours(chunk, count, block=block)

    monkeypatch.setitem(check.SOURCES, "dptrain", check.Subject(source=wide, limit=35.0))
    assert "distribution" in failed(tallied("dptrain", 2**21))


def test_the_cut_source_goes_no_further_and_is_otherwise_the_same() -> None:
    same = check.ours(0, 2**17, block=3)
    assert torch.equal(check.truncated(0, 2**17, block=3), same)
    far = [block for block in range(60) if check.ours(5, 2**17, block=block).abs().max() > 5.0]
    numbers = check.truncated(5, 2**17, block=far[0])
    assert numbers.abs().max() <= 5.0
    assert (numbers != check.ours(5, 2**17, block=far[0])).sum() <= 3


def test_trainings_are_given_away_as_often_as_counting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a training that shows a record 10 times, by values that noise of this reach cannot come to."""
    monkeypatch.setitem(check.SOURCES, "float32", check.Subject(source=check.ours, limit=4.0))
    count, plan = 20_000, check.TRAINING
    share = norm.sf(4.0 - 1 / plan.noise_multiplier)
    expected = count * -math.expm1(plan.steps * math.log1p(-plan.sample_rate * share))
    assert check.given_away("float32", 0, count) == pytest.approx(expected, abs=5 * math.sqrt(expected))
    assert check.given_away("dptrain", 0, count) == 0


def test_outcomes_are_told_apart_by_the_last_bits_of_single_precision_and_not_on_the_grid() -> None:
    """Below a half, float32 is finer than what 1 + noise can come to; a brute-force search agrees."""
    found = check.told_apart(4000)
    assert found["with"] == 0.0
    assert 0.4 < found["without"] < 0.55
    few = (check.TRAINING.noise_std * check.ours(0, 300, block=0)).float().numpy()
    reached = []
    for value in few:
        near = np.float32(value - np.float32(1.0))
        noises = [near]
        for towards in (np.float32(np.inf), np.float32(-np.inf)):
            noise = near
            for _ in range(50):
                noise = np.nextafter(noise, towards)
                noises.append(noise)
        reached.append(np.float32(1.0) + np.array(noises, dtype=np.float32) == value)
    share = 1 - np.mean([each.any() for each in reached])
    assert check.told_apart(300)["without"] == pytest.approx(share)


def test_the_last_line_holds_every_measured_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "PLANS", check.PLANS[1:3])
    assert check.main(["--json", "--draws=3000000", "--trainings=60000"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert set(found) == {
        "ns_per_number", "largest", "limit", "ks_p", "cost", "grid", "caught", "failed", "trainings",
    }  # fmt: skip
    assert found["caught"] == {"truncated_at_5": True, "float32": True}
    assert found["limit"] > 35
    assert all(max(spent.values()) < 1e-3 for spent in found["cost"].values())
