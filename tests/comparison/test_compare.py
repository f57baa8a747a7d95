"""From many runs to points: what belongs together, what is compared, what is claimed, what it costs."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from comparisons import interval, leakage, statement, utility, write_run, write_sweep
from rich.console import Console

from dptrain import tracking
from dptrain.comparison import choose
from dptrain.comparison.compare import compare
from dptrain.comparison.gather import Selection, from_metrics, gather
from dptrain.contracts import ConfigError, DataError, DptrainError, Hashes, Interval, Subgroup, Utility
from dptrain.evidence.intervals import UNDEFINED_AREA
from dptrain.pipeline.tracked import metrics as metrics_of
from dptrain.privacy.written import from_json, plan_of
from dptrain.report.comparison import console, page, sentences, tables
from dptrain.report.comparison.files import write_files
from dptrain.report.comparison.points import HOLDS, MET, NONE, NOT_MET, UNDECIDED, VOID, Comparison
from dptrain.report.document import read_json
from dptrain.sweep.cost import composed, drawn, search_cost
from dptrain.sweep.state import spent_together
from dptrain.tracking import MLflow, Tracked

pytestmark = pytest.mark.run


def compared(*folders: Path, confidence: float = 0.95, **selected) -> Comparison:
    return compare(Selection(folders=folders, **selected), confidence=confidence, command="compare")


def answered(comparison: Comparison, *limits: str):
    return choose.choose(choose.parse(limits, comparison), comparison)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep"), epsilons=(0.5, 2.0, 8.0))


# ---------------------------------------------------------------------- points


def test_runs_that_differ_in_the_seed_alone_are_one_point(sweep):
    found = compared(sweep)
    assert [point.label for point in found.points] == ["ε = 0.5", "ε = 2", "ε = 8"]
    assert {point.seeds for point in found.points} == {(1, 2, 3)}
    assert {point.status for point in found.points} == {HOLDS}
    centres = [point.accuracy.centre for point in found.points]
    assert centres == sorted(centres)
    assert all(point.accuracy.method == "mean of 3 seeds, t interval" for point in found.points)


def test_other_settings_make_other_points_and_name_them(tmp_path):
    for seed in (1, 2):
        for width in (16, 128, 64):
            write_run(tmp_path / f"{seed}-{width}", seed=seed, config={"model": {"channels": [width]}})
    found = compared(tmp_path)
    assert [point.label for point in found.points] == [f"ε = 1, channels = [{n}]" for n in (16, 64, 128)]
    assert [point.series for point in found.points] == [
        "channels = [16]",
        "channels = [64]",
        "channels = [128]",
    ]


def test_what_follows_from_an_override_is_not_named_beside_it(tmp_path):
    wide = {"model": {"channels": [64], "strides": [2]}}
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", overrides=("model=wide",), config=wide)
    assert {point.series for point in compared(tmp_path).points} == {
        "model = as in the recipe",
        "model = wide",
    }


def test_mechanisms_are_named_and_ranked_at_each_budget(tmp_path):
    for seed in (1, 2, 3):
        for epsilon in (1.0, 3.0):
            for name, noise, accuracy in (("dpsgd", "independent", 0.7), ("banded", "banded", 0.8)):
                write_run(
                    tmp_path / f"{name}-{epsilon}-{seed}",
                    seed=seed,
                    epsilon=epsilon,
                    accuracy=accuracy + 0.001 * seed - 0.3 * (name == "banded" and epsilon < 2),
                    overrides=(f"mechanism={name}",),
                    config={"mechanism": {"_target_": "mine.steps.DPSGD", "noise": noise}},
                )
    found = compared(tmp_path)
    assert {point.series for point in found.points} == {"mechanism = dpsgd", "mechanism = banded"}
    said = list(sentences.overview(found))
    assert said[0].startswith("At **ε = 1** accuracy is highest with **mechanism = dpsgd**, 0.702")
    assert said[1].startswith("At **ε = 3** accuracy is highest with **mechanism = banded**, 0.802")
    assert all(sentence.endswith("apart from each other.") for sentence in said[:2])


def test_a_class_that_nobody_named_by_a_file_is_called_by_its_name(tmp_path):
    for seed, name in ((1, "Own"), (1, "Other")):
        config = {"model": {"_target_": f"mine.models.{name}"}}
        write_run(tmp_path / name, seed=seed, accuracy=0.7, config=config)
    assert {point.series for point in compared(tmp_path).points} == {"model = Own", "model = Other"}


def test_it_is_said_until_how_many_answers_a_private_prediction_is_ahead(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path / f"a-{seed}", seed=seed, accuracy=0.8 + 0.001 * seed)
        write_run(
            tmp_path / f"b-{seed}",
            seed=seed,
            accuracy=0.6 + 0.001 * seed,
            overrides=("mechanism=private_prediction",),
            config={"mechanism": {"answers": 1000}},
            mechanism="PrivatePrediction",
            holdout_by_step=((100, 0.9, 1.0), (1000, 0.7, 1.0)),
        )
    found = compared(tmp_path)
    (said,) = [sentence for sentence in sentences.overview(found) if "break-even" in sentence]
    assert said.startswith("mechanism = private_prediction gives 1,000 answers and no model.")
    assert "for 309 answers (break-even)" in said
    write_files(found, tmp_path / "page")
    assert '"by_answers"' in (tmp_path / "page" / "comparison.json").read_text()


def test_a_seed_used_twice_counts_once(tmp_path):
    for number, accuracy in enumerate((0.8, 0.9)):
        write_run(tmp_path / str(number), seed=1, accuracy=accuracy)
    (point,) = compared(tmp_path).points
    assert point.seeds == (1,)
    assert point.accuracy.values == pytest.approx([0.85])
    assert point.accuracy.interval is None


def test_one_seed_claims_nothing(tmp_path):
    for epsilon in (1.0, 4.0):
        write_run(tmp_path / f"{epsilon}", epsilon=epsilon)
    found = compared(tmp_path)
    assert [point.accuracy.method for point in found.points] == ["no interval: 1 seed"] * 2
    (pair,) = found.neighbours
    assert pair.paired.p_value is None
    assert pair.paired.test == "too few pairs: 1"


def test_neighbours_are_compared_seed_by_seed(sweep):
    found = compared(sweep)
    assert [(each.before, each.after) for each in found.neighbours] == [
        ("ε = 0.5", "ε = 2"),
        ("ε = 2", "ε = 8"),
    ]
    first = found.neighbours[0].paired
    before, after = found.points[0].accuracy, found.points[1].accuracy
    assert first.difference.values == pytest.approx(
        [a - b for a, b in zip(after.values, before.values, strict=True)]
    )
    assert first.test == "paired t test"


def test_the_price_of_privacy_is_paired_with_the_run_s_own_twin(sweep):
    point = compared(sweep).points[0]
    twins = point.control_accuracy.values
    assert point.cost.difference.values == pytest.approx(
        [a - b for a, b in zip(point.accuracy.values, twins, strict=True)]
    )


def test_a_void_guarantee_bounds_nothing_and_stands_on_no_frontier(tmp_path):
    for seed in (1, 2, 3):
        write_run(
            tmp_path / f"{seed}",
            seed=seed,
            accuracy=0.99,
            guarantee={"void_reason": "a public seed"},
        )
        write_run(tmp_path / f"4-{seed}", epsilon=4.0, seed=seed)
    void, sound = compared(tmp_path).points
    assert (void.status, void.void_reason, void.membership_bound) == (VOID, "a public seed", None)
    assert {line.bound for line in void.lines} == {None}
    assert not void.pareto
    assert sound.pareto
    assert not compared(tmp_path).neighbours


def test_where_every_guarantee_is_void_tables_are_written_and_no_figure(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / f"{seed}", seed=seed, guarantee={"void_reason": "a public seed"})
    found = compared(tmp_path)
    written = write_files(found, tmp_path / "files")
    assert {path.name for path in written} == {"comparison.json", "points.csv"}
    assert "VOID" in page.as_html(found)


def test_points_that_another_beats_are_off_the_frontier(tmp_path):
    for epsilon, accuracy in ((1.0, 0.8), (2.0, 0.75), (4.0, 0.9)):
        write_run(tmp_path / f"{epsilon}", epsilon=epsilon, accuracy=accuracy)
    assert [point.pareto for point in compared(tmp_path).points] == [True, False, True]


def test_a_run_without_privacy_is_a_point_without_a_guarantee(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", epsilon=math.inf, twin=None)
    private, plain = compared(tmp_path).points
    assert (plain.label, plain.status, plain.epsilon) == ("not private", NONE, math.inf)
    assert plain.membership_bound == 1.0
    assert private.status == HOLDS


def test_the_worst_subgroup_of_each_point_is_named_and_older_reports_have_none(tmp_path):
    def reached(value: float) -> Utility:
        of = {"f": value, "m": 0.9}
        found = tuple(
            Subgroup(column="sex", name=name, records=200, value=Interval(value=at, low=at, high=at))
            for name, at in of.items()
        )
        return replace(utility(0.85, 0.03), by_subgroup=found)

    for epsilon, least in ((1.0, 0.6), (8.0, 0.8)):
        write_run(tmp_path / f"{epsilon}", epsilon=epsilon, utility=reached(least))
    found = compared(tmp_path)
    assert [(point.worst.centre, point.worst_for) for point in found.points] == [
        (0.6, ("sex = f",)), (0.8, ("sex = f",)),
    ]  # fmt: skip
    table = tables.utility(found)
    assert table.heads[-1] == "worst for"
    assert table.rows[0][-1].startswith("sex = f: 0.600")
    write_run(tmp_path / "older" / "a")
    older = compared(tmp_path / "older")
    assert older.points[0].worst is None
    assert tables.utility(older).heads[-1] == "seeds"


def test_numbers_are_compared_by_their_metric_and_their_largest_error(tmp_path):
    """Nothing is called accuracy, errors may pass one, and R2 fall below zero."""
    for seed, (r2, error) in enumerate(((-0.3, 6.0), (-0.1, 4.0), (-0.2, 5.0)), start=1):
        found = (
            Subgroup(column="sex", name="f", records=40, value=Interval(value=error, low=3.0, high=7.0)),
            Subgroup(column="sex", name="m", records=40, value=Interval(value=2.0, low=1.0, high=3.0)),
        )
        of_numbers = Utility(
            accuracy=Interval(value=r2, low=r2 - 0.1, high=r2 + 0.1), auroc=UNDEFINED_AREA, loss=0.1,
            records=80, metric="r2", scored="mean_absolute_error", by_subgroup=found,
        )  # fmt: skip
        write_run(tmp_path / str(seed), seed=seed, utility=of_numbers)
    found = compared(tmp_path)
    (point,) = found.points
    assert point.worst_for == ("sex = f, mean absolute error",)
    assert point.worst.centre == 5.0
    assert point.worst.interval.high > 5.0
    assert point.accuracy.interval.low < -0.2
    heads = tables.utility(found).heads
    assert heads[1] == "R2"
    assert "AUROC" not in heads
    assert "ccuracy" not in page.as_html(found)
    assert "AUROC" not in page.as_html(found)
    out = io.StringIO()
    console.show(found, Console(file=out, width=120))
    assert "R2" in out.getvalue()
    assert [each.outcome for each in answered(found, "r2>=.5").judged] == [NOT_MET]
    with pytest.raises(ConfigError, match=r"'accuracy' in .* not measured here; use .* r2"):
        choose.parse(["accuracy>=.5"], found)


# ---------------------------------------------------------------------- what is refused or missing


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"name": "digits", "source": "bundled", "test": 400}}, r"data differs: .*phantom.*digits"),
        (
            {"data": {"name": "phantom", "source": "generated", "test": 99}},
            "test records differs: 400 .*; 99",
        ),
        ({"config": {"data": {"noise": 0.3}, "privacy": {"epsilon": 1.0}}}, None),
        ({"guarantee": {"unit": "patient"}}, "unit of privacy differs: record .*; patient"),
        ({"guarantee": {"adjacency": "replace_one"}}, "adjacency differs"),
        ({"config": {"privacy": {"epsilon": 1, "delta": 1e-6}}}, "privacy.delta differs: None .*; 1e-06"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(tmp_path, changes, said):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=2, **changes)
    if said is None:  # a setting that only one of them names tells nothing
        compared(tmp_path)
        return
    with pytest.raises(DataError, match=said) as error:
        compared(tmp_path)
    assert "--tag" in str(error.value)


def test_each_seed_may_hold_out_as_many_records_as_it_draws(tmp_path):
    def drawn(folder, seed, test, **data):
        settings = {"test_fraction": 0.15, "split_key": None, **data}
        count = {"name": "digits", "source": "bundled", "test": test}
        write_run(
            tmp_path / folder, seed=seed, data=count, config={"data": settings, "privacy": {"epsilon": 1.0}}
        )

    drawn("a", 0, 244)
    drawn("b", 1, 269)
    compared(tmp_path)
    drawn("c", 0, 99)
    with pytest.raises(DataError, match=r"test records of seed 0 differs: 244 .*; 99"):
        compared(tmp_path)


def test_a_key_holds_out_the_same_records_whatever_the_seed(tmp_path):
    for seed, test in ((0, 244), (1, 269)):
        data = {"name": "digits", "source": "bundled", "test": test}
        config = {"data": {"test_fraction": 0.15, "split_key": "key.bin"}, "privacy": {"epsilon": 1.0}}
        write_run(tmp_path / str(seed), seed=seed, data=data, config=config)
    with pytest.raises(DataError, match=r"test records differs: 244 .*; 269"):
        compared(tmp_path)


def test_other_generated_data_is_other_data(tmp_path):
    for noise in (0.1, 0.3):
        write_run(tmp_path / f"{noise}", config={"data": {"noise": noise}, "privacy": {"epsilon": 1.0}})
    with pytest.raises(DataError, match=r"data.noise differs: 0.1 .*; 0.3"):
        compared(tmp_path)


@pytest.mark.parametrize(("weights", "count"), [("b", 2), ("a", 1)])
def test_a_copy_of_an_unfinished_run_that_ended_otherwise_is_another(
    weights: str, count: int, tmp_path: Path
) -> None:
    for name, each in (("one", "a"), ("other", weights)):
        hashes = Hashes(weights=each)
        write_run(tmp_path / name, guarantee={"hashes": hashes}, order={"tracked_as": "0123"})
    found, _ = gather(Selection(folders=(tmp_path,)))
    assert len(found) == count


def test_runs_without_a_report_are_missing_and_told(tmp_path):
    write_run(tmp_path / "a")
    (write_run(tmp_path / "b", seed=2) / "report.json").unlink()
    (write_run(tmp_path / "c", seed=3, order={"error": "out of memory"}) / "report.json").unlink()
    (write_run(tmp_path / "d", seed=4) / "report.json").write_text("{")
    write_run(tmp_path / "e", seed=5, config={"task": "audit", "seed": 5})
    missing = {each.name: each.why for each in compared(tmp_path).missing}
    assert set(missing) == {"b", "c", "d", "e"}
    assert "no report.json" in missing["b"]
    assert "out of memory" in missing["c"]
    assert "cannot be read" in missing["d"]
    assert "no training" in missing["e"]


def test_nothing_at_all_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no finished run in"):
        compared(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        compared(tmp_path / "nowhere")


def test_a_report_alone_is_read_by_its_command(tmp_path):
    for seed in (1, 2):
        (write_run(tmp_path / f"{seed}", epsilon=2.0, seed=seed) / "run.json").unlink()
    (point,) = compared(tmp_path).points
    assert (point.label, point.seeds) == ("ε = 2", (1, 2))


# ---------------------------------------------------------------------- the search


def test_all_models_together_cost_what_their_losses_compose_to(sweep):
    found = compared(sweep)
    last = from_json(read_json(sweep / "8-3" / "report.json")["guarantee"])
    others = Path(sweep).parent / "others"
    others.mkdir(exist_ok=True)
    for path in sweep.iterdir():
        if path.name != "8-3" and not (others / path.name).exists():
            (others / path.name).symlink_to(path)
    expected = spent_together(others / "8-3", plan_of(last), 1e-4, draws=drawn(last), unit="record")[
        "epsilon_together"
    ]
    assert found.cost.together == pytest.approx(expected, rel=1e-6)
    assert found.cost.alone == 8.0
    assert found.cost.models == 9
    assert found.cost.together > composed([plan_of(last)], 1e-4, draws=drawn(last))


def test_what_the_composition_does_not_hold_is_said():
    unknown = replace(statement(1.0), steps=None)
    cost = search_cost([statement(1.0), statement(2.0, void_reason="a test"), statement(math.inf), unknown])
    assert cost.models == 1
    assert len(cost.left_out) == 3
    assert "1 model is void" in cost.left_out[0]
    assert "no number here does" in cost.selection


# ---------------------------------------------------------------------- limits


def test_the_smallest_epsilon_that_meets_every_limit_is_chosen(sweep):
    answer = answered(compared(sweep), "accuracy>=.8", "membership.bound<=.5")
    assert answer.met == ("ε = 2", "ε = 8")
    assert answer.cheapest == "ε = 2"
    assert answer.sentence == "ε = 2 meets every limit, at the smallest ε of those that do. So does ε = 8."


def test_a_limit_that_no_point_meets_is_named(sweep):
    answer = answered(compared(sweep), "accuracy>=.9", "epsilon<=.1")
    assert answer.met == ()
    assert answer.sentence.startswith("No point meets every limit. epsilon<=.1: met by none.")


def test_limits_are_held_against_the_conservative_end(sweep):
    found = compared(sweep)
    (point,) = [point for point in found.points if point.label == "ε = 2"]
    low = min(point.accuracy.interval.low, point.accuracy_ends[0])
    assert low < point.accuracy.centre
    for limit, outcome in ((low - 1e-6, MET), (low + 1e-6, NOT_MET), (point.accuracy.centre, NOT_MET)):
        (condition,) = choose.parse([f"accuracy>={limit:.8f}"], found)
        assert choose.judge(condition, point).outcome == outcome


def test_the_wider_of_seeds_and_trials_decides(tmp_path):
    for seed, accuracy in ((1, 0.7), (2, 0.8), (3, 0.9)):
        write_run(tmp_path / f"{seed}", seed=seed, accuracy=accuracy)
    found = compared(tmp_path)
    (one,) = answered(found, "accuracy>=.5").judged
    assert one.basis == "interval over seeds"
    (other,) = answered(found, "leakage.membership_loss.auc<=.9").judged
    assert other.basis == "the runs' own intervals"
    assert other.used == pytest.approx(0.5 + 0.03 + 0.01 * math.sin(2) + 0.05, abs=0.01)


def test_an_area_is_held_against_the_runs_own_intervals_too(tmp_path):
    """Seeds that share test records may agree, whatever other test records would say."""
    for seed in (1, 2, 3):
        write_run(tmp_path / f"{seed}", seed=seed, accuracy=0.85 + 0.0001 * seed)
    found = compared(tmp_path)
    (point,) = found.points
    assert point.auroc_ends == pytest.approx((0.8752, 0.9052), abs=1e-4)
    outcomes = [each.outcome for each in answered(found, "auroc>=.87", "auroc>=.88").judged]
    assert outcomes == [MET, NOT_MET]
    assert answered(found, "auroc>=.87").judged[0].basis == "the runs' own intervals"


@pytest.mark.parametrize(
    ("limit", "fields"),
    [
        ("auroc>={}", ("auroc_low", "auroc_high")),
        ("accuracy>={}", ("accuracy_low", "accuracy_high")),
        ("leakage.membership_loss.auc<={}", ("low", "high")),
        ("leakage.membership_loss.auc.control<={}", ("control_low", "control_high")),
    ],
)
def test_without_intervals_of_their_own_runs_meet_no_limit_but_may_miss_one(tmp_path, limit, fields):
    for seed in (1, 2, 3):
        folder = write_run(tmp_path / f"{seed}", seed=seed)
        report = json.loads((folder / "report.json").read_text())
        for field in fields:
            report["utility"].pop(field, None)
            for line in report["leakage"]:
                if "auroc" not in limit and field in line:
                    line[field] = None
        (folder / "report.json").write_text(json.dumps(report))
    found = compared(tmp_path)
    easy, hard = (0.1, 0.99) if ">" in limit else (0.99, 0.1)
    one, other = answered(found, limit.format(easy), limit.format(hard)).judged
    assert (one.outcome, one.basis) == (UNDECIDED, choose.NO_INTERVAL)
    assert other.outcome == NOT_MET


def test_a_control_is_held_against_its_runs_own_intervals(sweep):
    limits = ("leakage.membership_loss.auc.control<=.88", "leakage.membership_loss.auc.control<=.86")
    outcomes = {each.outcome for each in answered(compared(sweep), limits[0]).judged}
    assert outcomes == {MET}
    assert {each.outcome for each in answered(compared(sweep), limits[1]).judged} == {NOT_MET}


def test_few_seeds_decide_nothing_but_what_is_proved(tmp_path):
    write_run(tmp_path / "a", accuracy=0.9)
    found = compared(tmp_path)
    answer = answered(found, "accuracy>=.5", "membership.bound<=.1", "epsilon<=2")
    assert [each.outcome for each in answer.judged] == [UNDECIDED, MET, MET]
    assert answer.met == ()
    assert "Undecided: ε = 1" in answer.sentence


def test_a_void_guarantee_meets_no_limit(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path / f"{seed}", seed=seed, guarantee={"void_reason": "a public seed"})
    (one,) = answered(compared(tmp_path), "accuracy>=.1").judged
    assert (one.outcome, one.basis) == (NOT_MET, "the guarantee is void")


def test_what_no_theorem_bounds_meets_no_limit_on_its_bound(sweep):
    answer = answered(compared(sweep), "leakage.class_inversion.evaluator_accuracy.bound<=1")
    assert {each.outcome for each in answer.judged} == {NOT_MET}
    assert answered(compared(sweep), "leakage.audit_canaries.value<=9").met
    assert not answered(compared(sweep), "leakage.audit_canaries.high<=9").met  # a lower bound is no ceiling


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("precision>=.5", "--limit: 'precision' in .* is not measured here"),
        ("balanced_accuracy>=.5", "not measured here"),
        ("leakage.lira.auc<=.6", "'lira', which this run does not make"),
        ("leakage.membership_loss.low<=bound", "must end in a number"),
        ("loss<=.5", "not measured here"),
        ("accuracy", "cannot be read"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(sweep, text, said):
    with pytest.raises(ConfigError, match=said):
        choose.parse([text], compared(sweep))


# ---------------------------------------------------------------------- MLflow


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> tuple[str, dict[str, str]]:
    """A store with a sweep's parent, two finished children, one that failed, and a run beside them."""
    import mlflow

    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ids = {}
        with MLflow(uri=uri).open("sweep", folder) as parent:
            parent.tags({"recipe": "invented"})
        for seed in (1, 2, 3, 4):
            run = write_run(folder / f"{seed}", seed=seed, epsilon=2.0)
            try:
                with MLflow(uri=uri).open(f"job-{seed}", run) as tracker:
                    ids[f"job-{seed}"] = tracker.run_id
                    tracker.tags({"recipe": "invented", "guarantee": "holds", "unit": "record"})
                    if seed != 4:
                        tracker.tags({"mlflow.parentRunId": parent.run_id})
                    config = json.loads((run / "run.json").read_text())["config"]
                    tracker.params(config)
                    if seed == 3:
                        raise RuntimeError("out of memory")
                    tracker.artifact(run / "report.json", "report")
            except RuntimeError:
                pass
        ids["parent"] = parent.run_id
        mlflow.set_tracking_uri(None)
    return uri, ids


def test_a_sweep_is_found_by_its_parent(store):
    uri, ids = store
    found = compared(uri=uri, parents=(ids["parent"],))
    (point,) = found.points
    assert point.seeds == (1, 2)
    assert point.label == "ε = 2"
    assert [(each.name, each.why) for each in found.missing] == [("job-3", "failed: out of memory")]


def test_runs_are_found_by_tag_and_id_and_the_parent_is_none_of_them(store):
    uri, ids = store
    assert compared(uri=uri, tags={"recipe": "invented"}).points[0].seeds == (1, 2, 4)
    chosen = (ids["job-1"], ids["job-4"])
    assert compared(uri=uri, ids=chosen).points[0].seeds == (1, 4)
    assert compared(uri=uri, parents=(ids["parent"],), ids=(ids["job-4"],)).points[0].seeds == (1, 2, 4)


def test_a_run_met_in_its_folder_and_in_mlflow_is_one(store):
    uri, ids = store
    folder = Path(uri.removeprefix("sqlite:///")).parent
    found, _ = gather(Selection(folders=(folder / "1",), uri=uri, ids=(ids["job-1"], ids["job-2"])))
    assert sorted(run.seed for run in found) == [1, 2]


@pytest.mark.parametrize(
    "selected", [{"ids": ("nothing",)}, {"tags": {"recipe": "x"}, "experiment": "elsewhere"}]
)
def test_what_the_store_does_not_hold_is_told(store, selected):
    with pytest.raises(DptrainError, match=r"tracking\.(uri|experiment)="):
        compared(uri=store[0], **selected)


def told_to_mlflow(seed: int) -> Tracked:
    """A run whose report is gone from the store."""
    lines = leakage(0.55 + seed / 100, 0.02, 0.8, 2.0)
    report = SimpleNamespace(
        utility=utility(0.85 + seed / 100, 0.03),
        control=utility(0.95, 0.02),
        costs=(),
        floor_accuracy=0.2,
        guarantee=statement(2.0),
        epsilon_by_step=(),
        leakage=(*lines, replace(lines[0], interface="top_k", value=interval(0.51, 0.05))),
        seconds={},
    )
    return Tracked(
        run_id=str(seed),
        name=f"job-{seed}",
        status="FINISHED",
        params={"seed": str(seed), "privacy.epsilon": "2.0", "privacy.adjacency": "add_remove"},
        tags={"guarantee": "holds", "recipe": "invented", "data": "phantom", "unit": "record"},
        metrics={name: value for name, value, _ in metrics_of(report)},  # type: ignore[arg-type]
        report=None,
    )


def test_metrics_are_read_where_the_report_is_gone():
    run = told_to_mlflow(0)
    read = from_metrics(run)
    assert read["guarantee"]["epsilon"] == 2.0
    assert read["utility"]["accuracy"] == 0.85
    lines = {(line["attack"], line["metric"], line["interface"]): line for line in read["leakage"]}
    assert len(lines) == 5
    assert lines["membership_loss", "tpr_at_fpr_0.01", ""]["value"] == 0.02
    assert lines["membership_loss", "tpr_at_fpr_0.01", ""]["bound"] == 0.047
    assert lines["membership_loss", "auc", "top_k"]["value"] == 0.51
    assert lines["class_inversion", "evaluator_accuracy", ""]["bound"] is None
    assert from_metrics(replace(run, metrics={})) is None


def test_runs_without_reports_are_compared_by_what_is_known(monkeypatch):
    monkeypatch.setattr(tracking, "read_runs", lambda *_, **__: [told_to_mlflow(seed) for seed in (1, 2, 3)])
    found = compared(ids=("all",))
    (point,) = found.points
    assert (point.label, point.epsilon, point.seeds) == ("ε = 2", 2.0, (1, 2, 3))
    assert point.membership_bound is None
    assert found.cost.together is None
    assert "3 models are recorded without a plan" in found.cost.left_out[0]
    outcomes = [each.outcome for each in answered(found, "accuracy>=.8", "membership.bound<=.1").judged]
    assert outcomes == [MET, UNDECIDED]


def test_a_delta_of_one_over_the_units_composes_to_no_number():
    found = search_cost([statement(1.0, units=10_000), statement(2.0, units=9_000)])
    assert found.together is None
    assert "delta 0.0001 is not below 1 / 10,000" in found.rule
