"""What a search may spend: stated in advance, counted before training, by jobs side by side too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
from support import by_opacus

from dptrain.contracts import Budget, ConfigError, Randomness, Statement
from dptrain.privacy.accountant import DPSGDPlan, privacy_loss
from dptrain.privacy.guarantee import DPGuarantee
from dptrain.sweep import budget as sweep_budget
from dptrain.sweep import state as sweeps
from dptrain.sweep.cost import composed, search_cost

pytestmark = pytest.mark.run

DELTA = 1e-5
DRAWS = 1000  # numbers of noise of a training
RECORDS = {"draws": DRAWS, "unit": "record"}


@pytest.fixture
def plan(make_plan_of: Callable[..., DPSGDPlan]) -> DPSGDPlan:
    return make_plan_of(steps=100)


def copies(plan: DPSGDPlan, count: int) -> float:
    """Epsilon of some trainings by one plan."""
    return float(privacy_loss(plan).self_compose(count).get_epsilon_for_delta(DELTA))


def admits(folder: Path, plan: DPSGDPlan, limit: float | None, job: str, delta: float = DELTA) -> bool:
    """Whether a job may begin."""
    try:
        sweep_budget.reserve(folder, job, plan, delta=delta, **RECORDS, max_epsilon=limit)
    except ConfigError:
        return False
    return True


def test_a_sweep_without_a_limit_counts_nothing(tmp_path: Path, plan: DPSGDPlan) -> None:
    assert admits(tmp_path, plan, None, "a")
    assert sweep_budget.counted(tmp_path) == {}


def test_a_grid_is_composed_and_ends_at_its_limit(tmp_path: Path, plan: DPSGDPlan) -> None:
    limit = copies(plan, 3) + 1e-6
    assert [admits(tmp_path, plan, limit, job) for job in "abcd"] == [True, True, True, False]
    told = sweep_budget.counted(tmp_path)
    assert told["counted"] == 3
    assert told["epsilon_counted"] == pytest.approx(copies(plan, 3))
    assert told["max_epsilon"] == limit
    assert "holds where the trainings were chosen in advance" in told["rule"]


def test_a_job_that_goes_on_is_counted_once(tmp_path: Path, plan: DPSGDPlan) -> None:
    limit = copies(plan, 1) + 1e-6
    assert admits(tmp_path, plan, limit, "a")
    assert admits(tmp_path, plan, limit, "a")
    assert not admits(tmp_path, plan, limit, "b")


def test_a_cheaper_job_may_still_fit(
    tmp_path: Path, plan: DPSGDPlan, make_plan_of: Callable[..., DPSGDPlan]
) -> None:
    cheap = make_plan_of(steps=1, noise_multiplier=20.0)
    limit = copies(plan, 1) + 0.05
    assert [admits(tmp_path, each, limit, job) for each, job in ((plan, "a"), (plan, "b"), (cheap, "c"))] == [
        True, False, True,
    ]  # fmt: skip


def test_the_total_holds_at_the_smallest_delta_of_any_job(tmp_path: Path, plan: DPSGDPlan) -> None:
    assert admits(tmp_path, plan, 100.0, "a", delta=1e-7)
    assert admits(tmp_path, plan, 100.0, "b", delta=1e-3)
    assert sweep_budget.counted(tmp_path)["epsilon_counted"] == composed([plan, plan], 1e-7, draws=2 * DRAWS)


def test_a_training_without_privacy_fits_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stays within no epsilon"):
        sweep_budget.reserve(tmp_path, "a", None, delta=DELTA, **RECORDS, max_epsilon=8.0)


def test_jobs_side_by_side_count_each_other(tmp_path: Path, plan: DPSGDPlan) -> None:
    limit = copies(plan, 3) + 1e-6
    with ThreadPool(8) as threads:
        admitted = threads.map(partial(admits, tmp_path, plan, limit), map(str, range(8)))
    assert sum(admitted) == 3


def test_a_search_states_its_total_and_looks_for_the_best(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sweep.max_epsilon=null: .* such as sweep.max_epsilon=8"):
        sweep_budget.begin(tmp_path, max_epsilon=None, direction="maximize")
    with pytest.raises(ConfigError, match="direction=maximize"):
        sweep_budget.begin(tmp_path, max_epsilon=8.0, direction="minimize")
    assert not list(tmp_path.iterdir())
    assert not sweep_budget.searching(tmp_path)
    sweep_budget.begin(tmp_path, max_epsilon=8.0, direction="maximize")
    assert sweep_budget.searching(tmp_path)


def test_results_do_not_change_what_a_search_may_spend(tmp_path: Path, plan: DPSGDPlan) -> None:
    sweep_budget.begin(tmp_path, max_epsilon=2.0, direction="maximize")
    with pytest.raises(ConfigError, match="begun with 2"):
        sweep_budget.begin(tmp_path, max_epsilon=9.0, direction="maximize")
    for job in "abcdefgh":
        admits(tmp_path, plan, 99.0, job)  # nor does a job's own word
    assert 0 < sweep_budget.counted(tmp_path)["epsilon_counted"] <= 2.0


def test_a_search_is_counted_by_a_filter_whose_order_is_fixed_first(
    tmp_path: Path, plan: DPSGDPlan, make_plan_of: Callable[..., DPSGDPlan]
) -> None:
    sweep_budget.begin(tmp_path, max_epsilon=8.0, direction="maximize")
    sweep_budget.reserve(tmp_path, "a", plan, delta=DELTA, **RECORDS, max_epsilon=8.0)
    order = sweeps.read_state(tmp_path).search.order
    sweep_budget.reserve(tmp_path, "b", make_plan_of(steps=500), delta=DELTA, **RECORDS, max_epsilon=8.0)
    assert sweeps.read_state(tmp_path).search.order == order
    told = sweep_budget.counted(tmp_path)
    assert "filter" in told["rule"]
    both = composed([plan, make_plan_of(steps=500)], DELTA, draws=2 * DRAWS)
    assert both is not None
    assert told["epsilon_counted"] > both


def test_a_search_never_states_less_than_its_filter_proves(tmp_path: Path, plan: DPSGDPlan) -> None:
    assert sweep_budget.stated(tmp_path / "a", plan, DELTA, **RECORDS).epsilon_together == pytest.approx(
        copies(plan, 1)
    )
    sweep_budget.begin(tmp_path, max_epsilon=8.0, direction="maximize")
    sweep_budget.reserve(tmp_path, "a", plan, delta=DELTA, **RECORDS, max_epsilon=8.0)
    found = sweep_budget.stated(tmp_path / "a", plan, DELTA, **RECORDS)
    assert found.epsilon_together == found.epsilon_counted > copies(plan, 1)


# ---------------------------------------------------------------------- several on one page


def statement_of(folder: Path, plan: DPSGDPlan, job: str) -> Statement:
    """What the job of this name says of itself and its sweep when it has just trained."""
    sweep_budget.reserve(folder, job, plan, delta=DELTA, **RECORDS, max_epsilon=8.0)
    budget = Budget(epsilon=None, delta=DELTA, noise_multiplier=plan.noise_multiplier)
    stated = DPGuarantee(plan=plan, budget=budget).statement()
    drawn = Randomness(secret=True, cryptographic=True, source="a test", draws=DRAWS)
    return replace(stated, randomness=drawn, sweep=sweep_budget.stated(folder / job, plan, DELTA, **RECORDS))


@pytest.mark.filterwarnings("ignore:Optimal order")
def test_two_searches_on_one_page_are_added_up(
    tmp_path: Path, make_plan_of: Callable[..., DPSGDPlan]
) -> None:
    long, short = make_plan_of(steps=500), make_plan_of(steps=20, sample_rate=0.05)
    stated = []
    for name, plan in (("one", long), ("other", short)):
        sweep_budget.begin(tmp_path / name, max_epsilon=8.0, direction="maximize")
        stated += [statement_of(tmp_path / name, plan, job) for job in "ab"]
        sweep_budget.reserve(tmp_path / name, "failed", plan, delta=DELTA, **RECORDS, max_epsilon=8.0)
        stated.append(statement_of(tmp_path / name, plan, "c"))
    orders = [each.sweep.order for each in stated]
    assert len(set(orders)) == 2
    found = search_cost(stated)
    counted = [each.sweep.epsilon_counted for each in (stated[2], stated[5])]
    by_each = [by_opacus([long] * 4 + [short] * 4, order) for order in set(orders)]
    assert found.together == pytest.approx(max(by_each), rel=1e-3)
    assert found.together is not None
    assert found.together > max(counted)
    assert "Rényi" in found.rule
    alone = replace(statement_of(tmp_path / "grid", long, "d"), sweep=None)
    beside = search_cost([*stated, alone])
    by_each = [by_opacus([long] * 5 + [short] * 4, order) for order in set(orders)]
    assert beside.together == pytest.approx(max(by_each), rel=1e-3)
    assert search_cost(list(reversed(stated))).together == found.together


@pytest.mark.filterwarnings("ignore:Optimal order")
@pytest.mark.parametrize("orders", [(4.4, 3.8), (3.8, 4.4)])
def test_an_order_that_results_of_another_search_may_have_chosen_lowers_nothing(
    orders: tuple[float, float], tmp_path: Path, make_plan_of: Callable[..., DPSGDPlan]
) -> None:
    plan = make_plan_of(steps=500, noise_multiplier=2.0, sample_rate=0.1)
    one = statement_of(tmp_path, plan, "a")
    stated = [
        replace(one, sweep=replace(one.sweep, id=str(order), order=order, plans=(asdict(plan),) * 4))
        for order in orders
    ]
    found = search_cost(stated)
    assert found.together is not None
    assert found.together >= by_opacus([plan] * 8, orders[0]) * (1 - 1e-3), "of the search that began first"


def test_beside_a_search_a_run_that_no_filter_covers_leaves_no_number(
    tmp_path: Path, plan: DPSGDPlan
) -> None:
    sweep_budget.begin(tmp_path, max_epsilon=8.0, direction="maximize")
    searched = statement_of(tmp_path, plan, "a")
    other = replace(searched, adjacency="replace_one", sweep=None)
    found = search_cost([searched, other])
    assert found.together is None
    assert "replace_one" in found.rule
    assert search_cost([other, other]).together is not None


def test_a_grid_whose_statements_hold_no_plan_is_composed_of_what_it_counted(
    tmp_path: Path, plan: DPSGDPlan
) -> None:
    stated = [replace(statement_of(tmp_path, plan, job), sample_rate=None) for job in "ab"]
    found = search_cost(stated)
    assert found.together == pytest.approx(copies(plan, 2), rel=1e-6)
    assert found.models == 2


def test_two_grids_with_limits_on_one_page_are_composed(tmp_path: Path, plan: DPSGDPlan) -> None:
    stated = [statement_of(tmp_path / name, plan, job) for name in ("one", "other") for job in "ab"]
    found = search_cost(stated)
    assert found.together == pytest.approx(copies(plan, 4), rel=1e-6)
    assert found.rule == "the losses of all, composed"
