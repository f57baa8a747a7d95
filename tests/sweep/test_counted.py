"""What has begun in a sweep is counted for good: whatever becomes of limits, folders, files and settings."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support import QUICK, order

from dptrain.cli import main as cli
from dptrain.comparison.compare import compare
from dptrain.comparison.gather import Selection
from dptrain.contracts import Budget, ConfigError, DataError, SweepTotal
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.guarantee import DPGuarantee
from dptrain.privacy.written import from_json, plan_from_json, plan_to_json, to_json
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.sweep import budget
from dptrain.sweep import state as sweeps
from dptrain.sweep.cost import Remembered, composed, search_cost
from dptrain.sweep.selection import trials

pytestmark = pytest.mark.run

DELTA, DRAWS = 1e-5, 1000
FEW = (*QUICK, "attack=[]", "control.enabled=false", "tracking=none")


@pytest.fixture
def plan(make_plan_of: Callable[..., DPSGDPlan]) -> DPSGDPlan:
    return make_plan_of(steps=100)


def train(folder: Path, plan: DPSGDPlan | None, limit: float | None = None, unit: str = "record") -> None:
    """Let a job begin, and remember it, as a run does."""
    budget.reserve(folder.parent, folder.name, plan, delta=DELTA, draws=DRAWS, unit=unit, max_epsilon=limit)
    runs.start(folder, order())
    spent = None if plan is None else sweeps.spent_of(plan, delta=DELTA, draws=DRAWS, unit=unit)
    sweeps.note_begun(folder, spent)


def total(plan: DPSGDPlan, count: int) -> float:
    epsilon = composed([plan] * count, DELTA, draws=count * DRAWS)
    assert epsilon is not None
    return epsilon


def together(folder: Path, plan: DPSGDPlan) -> float:
    found = sweeps.spent_together(folder, plan, DELTA, draws=DRAWS, unit="record")
    return float(found["epsilon_together"])


def test_a_limit_that_comes_later_counts_what_began_before(tmp_path: Path, plan: DPSGDPlan) -> None:
    for job in "abc":
        train(tmp_path / job, plan)
    with pytest.raises(ConfigError, match="of which 3 trainings are counted"):
        train(tmp_path / "d", plan, total(plan, 3) + 1e-6)
    train(tmp_path / "d", plan, total(plan, 4) + 1e-6)
    assert budget.counted(tmp_path)["epsilon_counted"] == pytest.approx(total(plan, 4))


def test_a_limit_holds_where_a_later_job_names_none(tmp_path: Path, plan: DPSGDPlan) -> None:
    limit = total(plan, 2) + 1e-6
    train(tmp_path / "a", plan, limit)
    train(tmp_path / "b", plan)
    with pytest.raises(ConfigError, match="would bring the sweep"):
        train(tmp_path / "c", plan)
    train(tmp_path / "c", plan, total(plan, 3) + 1e-6)  # a larger one is said aloud


def test_a_search_does_not_begin_where_results_are(tmp_path: Path, plan: DPSGDPlan) -> None:
    train(tmp_path / "a", plan)
    with pytest.raises(ConfigError, match="Start a new search"):
        budget.begin(tmp_path, max_epsilon=8.0, direction=None)
    assert not budget.searching(tmp_path)


def test_a_sweep_with_a_limit_has_no_job_that_is_not_private(tmp_path: Path, plan: DPSGDPlan) -> None:
    train(tmp_path / "a", None)
    with pytest.raises(ConfigError, match="1 of the trainings that began here are not private"):
        train(tmp_path / "b", plan, 8.0)


def test_what_is_counted_is_never_lowered(
    tmp_path: Path, plan: DPSGDPlan, make_plan_of: Callable[..., DPSGDPlan]
) -> None:
    train(tmp_path / "a", plan, 8.0)
    with pytest.raises(ConfigError, match="a was counted with another plan"):
        train(tmp_path / "a", make_plan_of(steps=100, units=9000, sample_rate=0.001), 8.0)
    assert budget.counted(tmp_path)["epsilon_counted"] == pytest.approx(total(plan, 1))


def test_a_job_whose_folder_is_gone_is_counted(tmp_path: Path, plan: DPSGDPlan) -> None:
    for job in "ab":
        train(tmp_path / job, plan)
    shutil.rmtree(tmp_path / "a")
    assert together(tmp_path / "c", plan) == pytest.approx(total(plan, 3))


def test_units_of_privacy_are_not_mixed(tmp_path: Path, plan: DPSGDPlan) -> None:
    train(tmp_path / "a", plan, unit="group")
    with pytest.raises(ConfigError, match="by the unit record, others here by group"):
        train(tmp_path / "b", plan, 8.0)
    found = sweeps.spent_together(tmp_path / "b", plan, DELTA, draws=DRAWS, unit="record")
    assert found["epsilon_together"] == pytest.approx(total(plan, 1))
    assert "Private by another unit than record, of which nothing follows here: 1." in found["sentence"]


class Told:
    """A plan of one's own, of one kind of neighbours."""

    adjacency = "add_remove"

    def __init__(self, plan: DPSGDPlan) -> None:
        self.interval, self.loss = plan.interval, plan.loss


def test_neighbours_of_two_kinds_are_composed_for_both(make_plan_of: Callable[..., DPSGDPlan]) -> None:
    kinds = "add_remove", "replace_one"
    one, other = (make_plan_of(steps=100, adjacency=each) for each in kinds)
    found = composed([one, other], DELTA, draws=0)
    alike = [composed([make_plan_of(steps=100, adjacency=each)] * 2, DELTA, draws=0) for each in kinds]
    assert found == max(each for each in alike if each is not None)
    told = Told(one)
    assert composed([told, other], DELTA, draws=0) == float("inf"), "of the other kind it tells nothing"


def test_a_sum_that_proves_nothing_is_read_back_as_such(make_plan_of: Callable[..., DPSGDPlan]) -> None:
    plan = make_plan_of()
    budget = Budget(epsilon=None, delta=DELTA, noise_multiplier=plan.noise_multiplier)
    total = SweepTotal(runs=2, epsilon_together=math.inf, not_private=0, sentence="")
    statement = replace(DPGuarantee(plan=plan, budget=budget).statement(), sweep=total)
    written = json.loads(json.dumps(to_json(statement)).replace("Infinity", "null"))
    assert from_json(written).sweep == total


def test_choosing_by_figures_outside_of_a_guarantee_is_not_said_to_be_covered(
    tmp_path: Path, plan: DPSGDPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DPSGDPlan, "measured_outside", True, raising=False)
    found = sweeps.spent_together(tmp_path / "a", plan, DELTA, draws=DRAWS, unit="record")
    assert not found["choice_covered"]
    assert "chooses among them" not in found["sentence"]
    one = Remembered(sweep=None, plan=plan, draws=DRAWS, unit="record", reported=True)
    budget = Budget(epsilon=None, delta=DELTA, noise_multiplier=plan.noise_multiplier)
    statement = DPGuarantee(plan=plan, budget=budget).statement()
    assert "the composition covers it" not in search_cost([statement], [one]).selection
    assert "the composition covers it" in search_cost([statement]).selection


# ---------------------------------------------------------------------- whole runs


def jobs_of(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob(runs.REPORT))


def test_a_job_of_a_recipe_in_a_folder_lies_in_its_sweep(tmp_path: Path) -> None:
    found = runs.new_folder(tmp_path / "sweep_a", "mine/fast")
    assert found.parent == tmp_path / "sweep_a"
    assert found.name.endswith("_mine_fast")


def test_a_job_that_is_resumed_from_within_counts_the_others(
    tmp_path: Path, plan: DPSGDPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "sweep_a" / "a", plan)
    monkeypatch.chdir(tmp_path / "sweep_a" / "a")
    folder, _ = runs.find(".", tmp_path)
    assert (folder.parent, folder.name) == (tmp_path / "sweep_a", "a")
    (tmp_path / "link").symlink_to(tmp_path / "sweep_a" / "a")
    assert runs.find(str(tmp_path / "link"), tmp_path)[0] == folder


def test_a_deterministic_job_counts_as_no_privacy(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep_a"
    for deterministic in ("true", "false"):
        asked = order(f"deterministic={deterministic}", *FEW, f"output={tmp_path}")
        asked = runs.Order(**{**vars(asked), "sweep": True})
        cli.main(asked, sweep)
    void, private = (read_json(each / runs.REPORT)["guarantee"] for each in jobs_of(sweep))
    assert void["sweep"] is None
    assert private["sweep"]["not_private"] == 1
    assert private["sweep"]["epsilon_together"] == pytest.approx(private["epsilon"])
    limited = order("deterministic=true", *FEW, "seed=5", "sweep.max_epsilon=8", f"output={tmp_path}")
    cli.main(runs.Order(**{**vars(limited), "sweep": True}), tmp_path / "sweep_b")
    assert jobs_of(tmp_path / "sweep_b") == []


def test_a_trial_whose_folder_is_gone_has_failed(tmp_path: Path, plan: DPSGDPlan) -> None:
    runs.start(tmp_path / "a", order())
    spent = sweeps.spent_of(plan, delta=DELTA, draws=DRAWS, unit="record", trial=3)
    sweeps.note_begun(tmp_path / "a", spent)
    shutil.rmtree(tmp_path / "a")
    assert trials.failures(tmp_path) == {3}


# ---------------------------------------------------------------------- plans as they are read back


@pytest.mark.parametrize("name", ["adjacency", "sampling", "steps"])
@pytest.mark.parametrize("value", [None, "other", -1, float("nan")])
def test_a_damaged_plan_is_not_read_as_a_cheaper_one(plan: DPSGDPlan, name: str, value: object) -> None:
    constants = plan_to_json(plan)
    assert plan_from_json(constants) == plan
    damaged = {key: each for key, each in constants.items() if key != name}
    with pytest.raises(DataError, match="train the run again"):
        plan_from_json(damaged)
    with pytest.raises(DataError, match="train the run again"):
        plan_from_json({**constants, name: value})


# ---------------------------------------------------------------------- the page


def test_what_trained_and_failed_is_part_of_the_price(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep_a"
    for decay in ("0", "1e30"):
        asked = order(f"+optimizer.weight_decay={decay}", *FEW, f"output={tmp_path}")
        cli.main(runs.Order(**{**vars(asked), "sweep": True}), sweep)
    (done,) = jobs_of(sweep)
    cli.main(runs.Order(**{**vars(order("seed=7", *FEW, f"output={tmp_path}")), "sweep": True}), sweep)
    lost = next(path for path in jobs_of(sweep) if path != done)
    (lost / runs.REPORT).write_text("{")
    found = compare(Selection(folders=(sweep,)), command="")
    both = [each for each in sweeps.trainings(sweep).values() if each is not None]
    assert len(both) == 3
    alone = read_json(done / runs.REPORT)["guarantee"]["epsilon"]
    assert found.cost.together is not None
    assert found.cost.together > 1.3 * alone
    assert "2 more of them have no report here" in found.cost.rule
    assert "cannot be read" in {each.name: each.why for each in found.missing}[lost.name]


def test_of_mechanisms_that_state_no_plan_the_sweep_remembers_it(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep_a"
    for words in ((), ("mechanism=banded", "mechanism.bands=2", "training.expected_batch_size=100")):
        asked = order(*words, *FEW, f"output={tmp_path}")
        cli.main(runs.Order(**{**vars(asked), "sweep": True}), sweep)
    found = compare(Selection(folders=(sweep,)), command="").cost
    together = [
        read_json(each / runs.REPORT)["guarantee"]["sweep"]["epsilon_together"] for each in jobs_of(sweep)
    ]
    assert found.together == pytest.approx(max(together), rel=1e-4)
    assert (found.models, found.left_out, found.rule) == (2, (), "the losses of all, composed")
