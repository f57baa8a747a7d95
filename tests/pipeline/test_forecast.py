"""`task=plan`: it tells what the run will say, of all its parts, and reads nothing that is declared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import QUICK, QUICK_ATTACKS, order

import dptrain
from dptrain.config import parse
from dptrain.contracts import Forecast
from dptrain.data.digits import Digits
from dptrain.pipeline.plan import plan
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.signal import near, signal_to_noise
from dptrain.report.console import Console
from dptrain.report.forecast import rows
from dptrain.report.learned import noise

DECLARED = ("training.sample_rate=0.05", "training.expected_batch_size=50", "tracking=none")


def planned(output: Path, *words: str) -> Forecast:
    asked = order("task=plan", f"output={output}", *QUICK, "performance.estimate=true", *words)
    return plan(parse(asked.config), "quickstart", Console())


@pytest.mark.run
def test_what_is_planned_is_what_is_run(tmp_path: Path) -> None:
    words = (*QUICK, "attack=[membership_loss]", "tracking=none", "control.enabled=false")
    told = dptrain.plan("quickstart", *words, output=tmp_path)
    assert not any(tmp_path.iterdir())
    ran = dptrain.run("quickstart", *words, output=tmp_path)
    assert told.epsilon_by_step[-1][1] == ran.guarantee.epsilon
    assert told.delta_meaning == ran.guarantee.delta_meaning
    assert told.membership_tpr == ran.guarantee.tpr_at_fpr["0.01"]
    limits = {each.metric: each.limit for each in told.detectable}
    lines = ran.document.leakage
    assert set(limits) == {line.metric for line in lines}
    assert all(limits[line.metric] == pytest.approx(line.detection_limit, abs=0.05) for line in lines)


@pytest.mark.run
def test_each_part_of_a_run_has_its_time_and_no_other_has(tmp_path: Path) -> None:
    every = planned(tmp_path, "tracking=none", *QUICK_ATTACKS).briefing.estimate
    assert every is not None
    assert min(every.parts.values()) > 0
    assert every.total == pytest.approx(sum(every.parts.values()))
    few = planned(tmp_path, "tracking=none", "attack=[]", "control.enabled=false").briefing.estimate
    assert few is not None
    assert {name for name, seconds in few.parts.items() if seconds} == {"training", "report"}


@pytest.mark.run
def test_a_declared_number_is_planned_for_without_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("a record was read")

    monkeypatch.setattr(Digits, "load", load)
    told = planned(tmp_path, *DECLARED, "training.steps=1000000", "attack=[membership_loss]")
    assert isinstance(told.briefing.plan, DPSGDPlan)
    assert told.briefing.plan.units == told.briefing.counts.trained_on == 1000
    assert told.epsilon_by_step[-1][0] == 1_000_000
    assert told.briefing.epsilon <= 3.0
    assert "no record was read" in dict(rows(told))["counted"]
    with pytest.raises(AssertionError, match="a record was read"):
        planned(tmp_path, "tracking=none")


@settings(max_examples=8, deadline=None)
@given(
    rate=st.floats(0.005, 0.2),
    steps=st.integers(1000, 2000),
    share=st.sampled_from([0.25, 0.5, 2.0, 4.0]),
    times=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_plans_at_roughly_the_same_epsilon_are(rate: float, steps: int, share: float, times: float) -> None:
    own = DPSGDPlan(
        units=100_000, sample_rate=rate, steps=steps, expected_batch_size=round(1e5 * rate),
        max_grad_norm=1.0, noise_multiplier=max(2.0, 2 * rate * steps**0.5),
    )  # fmt: skip
    other = near(own, batch=round(share * own.expected_batch_size), epochs=times * steps * rate)
    assert other is not None
    spent, wanted = (each.loss().get_epsilon_for_delta(1e-6) for each in (other, own))
    assert spent == pytest.approx(wanted, rel=0.3)


def test_noise_that_leaves_nothing_is_told() -> None:
    digits = DPSGDPlan(
        units=984,
        sample_rate=0.55,
        steps=60,
        expected_batch_size=540,
        max_grad_norm=1.0,
        noise_multiplier=701,
    )  # quickstart at epsilon 0.01
    signal = signal_to_noise(digits, 5514)
    assert signal == pytest.approx(0.08, abs=0.005)
    assert "likely leaves nothing to learn: over all steps it adds up to 12 times" in noise(signal)
    assert "leave little" in noise(2.0)
    assert noise(11.0) == ""
