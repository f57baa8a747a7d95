"""A private selection: how many trials and which candidates is drawn in secret; one model is released."""

from __future__ import annotations

import inspect
import io
import json
import math
import random
import re
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from omegaconf import OmegaConf
from scipy.stats import chisquare
from support import QUICK, command, finish, order

from dptrain.cli import hydra as hydra_cli
from dptrain.cli import main as cli
from dptrain.cli import multirun
from dptrain.comparison.compare import compare
from dptrain.comparison.gather import Selection
from dptrain.config import parse
from dptrain.contracts import BrokenGuarantee, ConfigError, DptrainError, Streams
from dptrain.contracts.rounding import rounded_up
from dptrain.pipeline import train
from dptrain.pipeline.experiment import Experiment
from dptrain.privacy import selection
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.written import to_json
from dptrain.report.document import read_json
from dptrain.report.statement_schema import schema
from dptrain.runs import folder as runs
from dptrain.runs import keyed
from dptrain.sweep import budget as sweep_budget
from dptrain.sweep import score
from dptrain.sweep import state as sweeps
from dptrain.sweep.selection import candidates, terms, trials
from dptrain.tasks import Regression
from dptrain.tracking import NullRun
from dptrain.training import checkpoint, loop

pytestmark = pytest.mark.run

QUICKLY = (
    "tracking=none", "attack=[]", "control.enabled=false", "performance.threads=1", "training.evaluations=1",
    "privacy.delta=1e-4",
    "sweep.candidates={optimizer.lr:[0.1,0.2],training.steps:[2,40],mechanism.max_grad_norm:[1.0,2.0]}",
)  # fmt: skip
TRIALS = 3
NOISY = ("privacy.epsilon=null", "privacy.noise_multiplier=2")  # nothing to calibrate


def asked(output: Path, *overrides: str) -> runs.Order:
    words = ("+sweep=private_selection", f"output={output}", *QUICKLY, *overrides)
    return replace(order(*words), sweep=True)


def trial(output: Path, number: int, *overrides: str) -> runs.Order:
    return asked(output, f"sweep.trial={number}", *overrides)


def noted(folder: Path) -> dict[str, Any]:
    return sweeps.read_state(folder).agreed.model_dump()


def agreed(folder: Path, begun: Path, *, trials: int) -> Path:
    """A sweep's new folder with the terms of one that has begun, and so many trials drawn."""
    folder.mkdir()
    (folder / keyed.SECRET).write_bytes((begun / keyed.SECRET).read_bytes())
    (folder / sweeps.STATE).write_text(json.dumps({"selection": {**noted(begun), "trials": trials}}))
    return folder


@pytest.fixture
def fixed_number(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Decide how many trials are drawn."""
    return lambda number: monkeypatch.setattr(trials, "draw_count", lambda _: number)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose number of trials is drawn, and three it is."""
    folder = tmp_path_factory.mktemp("begun") / "sweep_a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "draw_count", lambda _: TRIALS)
        trials.begin(folder, asked(folder.parent).config)
    return folder


@pytest.fixture(scope="module")
def done(begun: Path) -> Path:
    """The same with its trials done: the second fails in its training, the third was killed before."""
    output = begun.parent
    killed = trials.as_drawn(trial(output, 3), begun, choose=lambda values: values[0])
    runs.start(begun / "killed", killed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NullRun, "model", lambda *_: pytest.fail("a trial's model went to the tracker"))
        cli.main(trial(output, 1), begun)

        def fail(_: Any) -> None:
            raise DptrainError("training diverged")

        with patch.context() as diverging:
            diverging.setattr(loop, "_check_finite", fail)
            cli.main(trial(output, 2), begun)
        cli.main(trial(output, 2), begun)
        cli.main(trial(output, 3, "performance.threads=2"), begun)
    with pytest.raises(SystemExit) as caught:
        multirun.conclude(begun)
    assert caught.value.code == cli.FAILED
    return begun


def folders(sweep_folder: Path) -> dict[int, Path]:
    return {
        runs.read(path.parent).config["sweep"]["trial"]: path.parent
        for path in sweep_folder.glob(f"*/{runs.ORDER}")
    }


# ---------------------------------------------------------------------- before it


def test_the_terms_cover_every_candidate_and_are_known_before_any_is_drawn(begun: Path) -> None:
    agreed = noted(begun)["terms"]
    plans = [DPSGDPlan(**plan) for plan in noted(begun)["plans"]]
    assert sorted({plan.steps for plan in plans}) == [2, 40]
    assert {plan.max_grad_norm for plan in plans} == {1.0, 2.0}
    count = selection.RunCount(mean=10.0, shape=1.0)
    loss = selection.selected(selection.mixture(plans), count)
    ideal = loss.get_epsilon_for_delta(1e-4)
    assert ideal < agreed["epsilon"] < ideal + 1e-4, "with what its noise costs"
    for plan in plans:
        assert agreed["epsilon"] >= selection.selected(selection.renyi(plan), count).get_epsilon_for_delta(
            1e-4
        )
    assert 2.99 < agreed["epsilon_alone"] <= 3.0 < agreed["epsilon"]
    assert (agreed["candidates"], agreed["score"]) == (8, "holdout.accuracy")
    assert "trials" not in agreed, "how many there are is a secret of the team"


def test_the_number_of_trials_is_drawn_once(begun: Path) -> None:
    before = (begun / sweeps.STATE).read_text()
    values = asked(begun.parent, f"sweep.resume={begun}", "performance.threads=2").config
    again = trials.begin(begun, {**values, "device": "mps"})  # which the trials' machine alone need have
    assert to_json(again) == noted(begun)["terms"]
    assert (begun / sweeps.STATE).read_text() == before
    assert trials.trials(str(begun)) == "1,2,3"


def test_one_trial_is_done_once_however_it_is_asked_for(begun: Path) -> None:
    one, same = trial(begun.parent, 1), trial(begun.parent, 1, "performance.threads=2")
    with sweeps.alone(begun, one):
        held = {path.name for path in (begun / ".locks").iterdir()}
    with sweeps.alone(begun, same):
        assert {path.name for path in (begun / ".locks").iterdir()} == held


TERMS = {
    "search": "a", "epsilon": 5.0, "delta": 1e-5, "tpr_at_fpr": {"0.01": 0.4}, "epsilon_alone": 3.0,
    "unit": "record", "distribution": "geometric", "mean_runs": 10.0, "shape": 1.0, "runs_99": 44,
    "candidates": 8, "score": "holdout.accuracy", "theorem": "t", "accountant": "a", "sentence": "s",
}  # fmt: skip


def test_two_searches_draw_two_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        terms,
        "agree",
        lambda _, values: {"asked": terms.comparable(values), "terms": TERMS, "records": "of a test"},
    )
    values = asked(tmp_path).config
    drawn = set()
    for number in range(12):
        trials.begin(tmp_path / str(number), values)
        drawn.add(noted(tmp_path / str(number))["trials"])
    assert len(drawn) > 1  # all alike once in 1e10
    assert isinstance(trials.UNPREDICTABLE, random.SystemRandom)


def test_numbers_of_trials_follow_what_was_asked_for(tmp_path: Path) -> None:
    config = parse(asked(tmp_path, "sweep.distribution=logarithmic", "sweep.mean_runs=4").config)
    count, uniform = terms.count_of(config), random.Random(2).random
    drawn = Counter(trials.draw_count(count, uniform) for _ in range(3000))
    gamma = count.success
    chances = [(1 - gamma) ** runs / (runs * math.log(1 / gamma)) for runs in range(1, 9)]
    observed = [*(drawn[runs] for runs in range(1, 9)), sum(n for runs, n in drawn.items() if runs > 8)]
    assert chisquare(observed, [3000 * p for p in (*chances, 1 - sum(chances))]).pvalue > 1e-3


def test_candidates_are_drawn_uniformly_and_independently(tmp_path: Path) -> None:
    config = parse(asked(tmp_path).config)
    choose = random.Random(5).choice
    drawn = Counter(tuple(candidates.draw_settings(config, choose).values()) for _ in range(4000))
    assert len(drawn) == len(list(candidates.combinations(config))) == 8
    assert chisquare(list(drawn.values())).pvalue > 1e-3


def test_candidates_come_from_the_operating_system(begun: Path) -> None:
    for function in (candidates.draw_settings, trials.as_drawn):
        assert inspect.signature(function).parameters["choose"].default is secrets.choice
    same = trial(begun.parent, 1)
    assert len({trials.as_drawn(same, begun).drawn for _ in range(40)}) > 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("+sweep.candidates={data.train:[1]}",), "data.train cannot be drawn"),
        (("+sweep.candidates={privacy.epsilon:[1]}",), "privacy.epsilon cannot be drawn"),
        (("+sweep.candidates={optimizer.learning_rate:[1]}",), "optimizer.learning_rate is no key"),
        (("sweep.candidates={optimizer.lr:[]}",), "sweep.candidates.optimizer.lr"),
        (("deterministic=true",), "deterministic=true with sweep.candidates"),
        (('fail_if=["leakage.membership.auc.low > 0.6"]',), "fail_if=.*measured on training records"),
        (("privacy.tuned_on=PathMNIST",), "privacy.tuned_on=PathMNIST with sweep.candidates"),
        (("tracking=mlflow", "tracking.register=loans"), "tracking.register=loans would pass on every trial"),
        (("sweep.distribution=negative_binomial",), "sweep.shape=null"),
        (("sweep.shape=0.5",), "sweep.shape=0.5 with sweep.distribution=geometric"),
        (("sweep.mean_runs=1",), "sweep.mean_runs"),
        (("sweep.score=accuracy",), "sweep.score"),
        (
            ("sweep.selection_epsilon=2", "privacy.epsilon=null", "privacy.noise_multiplier=2"),
            "finds privacy.epsilon, which is null",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(tmp_path: Path, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(asked(tmp_path, *overrides).config)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("sweep.candidates={optimizer.lr:[-1]}",), r"optimizer\.lr=-1.*Invalid learning rate"),
        (("+sweep.candidates={model.channels:[[8,16],[3]]}",), r"model\.channels=\[3\]"),
        (("sweep.candidates={training.steps:[2,0]}",), r"training\.steps=0"),
        (("mechanism=non_private", "~sweep.candidates"), "x"),
        (("privacy.adjacency=replace_one", *NOISY), "replace_one"),
    ],
)  # fmt: skip
def test_candidates_that_cannot_run_are_refused_before_any_is_drawn(
    tmp_path: Path, overrides: tuple[str, ...], said: str
) -> None:
    if "~sweep.candidates" in overrides:
        overrides = ("mechanism=non_private", "sweep.candidates={optimizer.lr:[0.1]}")
        values = asked(tmp_path, *overrides).config
        del values["sweep"]["candidates"]["mechanism.max_grad_norm"]
        said = "mechanism=.*proves nothing"
    else:
        values = asked(tmp_path, *overrides).config
    with pytest.raises(ConfigError, match=said):
        trials.begin(tmp_path / "sweep_a", values)
    assert not (tmp_path / "sweep_a").exists()


def test_nothing_but_trials_may_be_swept_and_none_chosen_by_results(tmp_path: Path) -> None:
    values = asked(tmp_path).config
    with pytest.raises(ConfigError, match="seed=1,2: a private selection runs nothing but its trials"):
        trials.begin(tmp_path / "a", values, swept=("seed=1,2",))
    with pytest.raises(ConfigError, match="hydra/sweeper=optuna"):
        trials.begin(tmp_path / "a", values, sweeper="optuna")


def test_a_number_drawn_later_or_on_other_terms_is_refused(begun: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="drawn after looking at trials protects nothing"):
        trials.begin(tmp_path, asked(tmp_path, f"sweep.resume={tmp_path}").config)
    resumed = f"sweep.resume={begun}"
    for change in ("sweep.mean_runs=20", "optimizer.momentum=0", "sweep.candidates={optimizer.lr:[9]}"):
        with pytest.raises(ConfigError, match=re.escape(change.partition("=")[0])):
            trials.begin(begun, asked(begun.parent, resumed, change).config)
    with pytest.raises(ConfigError, match=r"optimizer\.momentum is not as the selection was begun with"):
        trials.barred(begun, trial(begun.parent, 1, "optimizer.momentum=0"), 1)
    with pytest.raises(ConfigError, match="trials are numbered by"):
        trials.barred(begun, trial(begun.parent, 4), 4)
    with pytest.raises(ConfigError, match="trials are numbered by"):
        trials.barred(None, trial(begun.parent, 1), 1)


def test_other_records_or_another_plan_are_refused(begun: Path) -> None:
    from dptrain.assembly.build import build
    from dptrain.assembly.components import assemble
    from dptrain.evaluation.assignment import prepare
    from dptrain.sweep.score import refuse_uncovered

    config = parse(trial(begun.parent, 1).config)
    plan = DPSGDPlan(**noted(begun)["plans"][0])
    streams = Streams(config.seed)
    loaded = build("data", config.data).load(streams.seeded("data"))
    splits, assignments = prepare(loaded, assemble(config).played, config.evidence, streams)
    records = assignments.fingerprint(splits)
    assert records not in noted(begun)["records"]  # a hash of its own would confirm them
    refuse_uncovered(config, plan, records, begun / "one")
    with pytest.raises(DptrainError, match="its plan"):
        refuse_uncovered(config, replace(plan, steps=41), records, begun / "one")
    with pytest.raises(DptrainError, match="the training records are others"):
        refuse_uncovered(config, plan, "0" * 32, begun / "one")


def test_the_single_run_is_calibrated_from_the_selection_s_end(tmp_path: Path) -> None:
    words = ("sweep.selection_epsilon=4", "sweep.mean_runs=3", "sweep.candidates={training.steps:[2]}")
    agreed = trials.begin(tmp_path / "a", asked(tmp_path, *words).config)
    assert 3.97 < agreed.epsilon <= 4.0
    single = noted(tmp_path / "a")["single_epsilon"]
    assert agreed.epsilon_alone <= single < 3.0
    drawn = trials.as_drawn(trial(tmp_path, 1, *words), tmp_path / "a")
    assert drawn.config["privacy"]["epsilon"] == single
    assert any(word.startswith("privacy.epsilon=") for word in drawn.drawn)


# ---------------------------------------------------------------------- trials


def test_a_killed_trial_goes_on_with_the_candidate_it_had(done: Path) -> None:
    killed = runs.read(done / "killed")
    statement = read_json(done / "killed" / runs.REPORT)["guarantee"]
    assert killed.drawn == ("optimizer.lr=0.1", "training.steps=2", "mechanism.max_grad_norm=1.0")
    assert (statement["steps"], statement["max_grad_norm"]) == (2, 1.0)


def test_a_training_that_failed_is_not_tried_again(done: Path) -> None:
    assert trials.failures(done) == {2}
    assert len(folders(done)) == len(list(done.glob(f"*/{runs.ORDER}"))) == TRIALS
    assert not (folders(done)[2] / runs.REPORT).exists()
    assert "not tried again" in str(trials.barred(done, trial(done.parent, 2), 2))


def test_nor_is_it_by_its_folder(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(order(f"resume={folders(done)[2]}"), None)
    assert "it is not tried again" in " ".join(capsys.readouterr().out.split())
    assert not (folders(done)[2] / runs.REPORT).exists()


def test_a_trial_that_failed_before_it_began_is_tried_again(begun: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep_a"
    folder.mkdir()
    (folder / sweeps.STATE).write_text(json.dumps({"selection": noted(begun)}))
    one = trial(begun.parent, 1)
    runs.start(folder / "one", one)
    sweeps.note_failure(folder, one, DptrainError("no data"), 2)
    with pytest.raises(DptrainError, match="3 of the trials are missing"):
        trials.conclude(folder)
    assert trials.barred(folder, one, 1) is None
    assert sweeps.read_state(folder).failed == {}


def test_a_trial_states_both_guarantees_and_that_it_must_stay(done: Path) -> None:
    path = folders(done)[1]
    agreed, statement = noted(done)["terms"], read_json(path / runs.REPORT)["guarantee"]
    assert statement["selection"] == agreed
    assert statement["epsilon"] <= 3.0 < agreed["epsilon"]
    assert f"exp({rounded_up(agreed['epsilon'], 2)})" in statement["sentence"]
    outside = " ".join(statement["outside_guarantee"])
    assert "Choosing among runs" not in outside
    for said in ("must not leave the team", "their runs in MLflow", "on held-out records"):
        assert said in outside
    page = (path / "report.md").read_text()
    assert (
        f"ε = {rounded_up(agreed['epsilon'], 2)} at δ = 0.0001, per record, if its search selected it" in page
    )
    assert statement["sweep"] is None, (
        "the composition is for those who see all, and stands on the sweep's page"
    )


# ---------------------------------------------------------------------- the end


def test_the_best_trial_is_released_under_the_selection_s_epsilon(done: Path) -> None:
    selected = json.loads((done / trials.SELECTED).read_text())
    scores = {
        number: read_json(path / runs.REPORT)["holdout_by_step"][-1][1]
        for number, path in folders(done).items()
        if number != 2
    }
    best = folders(done)[max(scores, key=lambda number: (scores[number], -number))]
    assert selected["trial"] == best.name
    assert (done / "selected" / "weights.pt").read_bytes() == (best / "weights.pt").read_bytes()
    statement = json.loads((done / "selected" / "statement.json").read_text())
    jsonschema.validate(statement, schema())
    assert statement["proved"]["epsilon"] == selected["epsilon"] > 3.0
    assert statement["search"]["kind"] == "private_selection"
    assert statement["search"]["selection"]["epsilon_alone"] <= 3.0
    assert statement["proved"]["cross_checks"] == {}
    card = (done / "selected" / "model_card.md").read_text()
    assert f"ε = {rounded_up(selected['epsilon'], 2)}" in card
    assert "ε = 3.00" not in card


def test_nothing_that_is_released_tells_the_number_of_trials(done: Path) -> None:
    """Theorem 2 bounds the best alone: its place among the trials, or their number, would be more."""
    for path in (done / "selected").glob("*.*"):
        if path.suffix in (".json", ".md"):
            text = path.read_text()
            assert "sweep.trial" not in text, path
            assert not re.search(r"\btrials?\W+\d", text), path
            assert done.name not in text, path
    assert sorted(path.name for path in (done / "selected").iterdir()) == [
        "model_card.md", "statement.json", "weights.pt",
    ]  # fmt: skip


def test_the_comparison_names_the_price_and_is_for_the_team(done: Path) -> None:
    found = compare(Selection(folders=(done,)), confidence=0.95, command="")
    assert found.cost.selected == noted(done)["terms"]["epsilon"]
    page = (done / "comparison.html").read_text()
    assert f"ε = {rounded_up(found.cost.selected, 2)}" in page
    assert "this page is for the team" in page
    assert "Papernot &amp; Steinke 2022, Theorem 2" in page


@pytest.mark.parametrize(
    ("accuracies", "best"), [((0.5, 0.9, 0.7), 2), ((0.7, 0.7, 0.1), 1), ((None, 0.1, None), 2), ((), None)]
)
def test_the_best_score_wins_the_first_of_equals_and_none_of_none(
    tmp_path: Path, accuracies: tuple[float | None, ...], best: int | None
) -> None:
    noted = {"trials": len(accuracies), "terms": {"score": "holdout.accuracy"}}
    (tmp_path / sweeps.STATE).write_text(json.dumps({"selection": noted}))
    for number, accuracy in enumerate(accuracies, 1):
        path = tmp_path / f"run_{number}"
        runs.start(path, runs.Order(recipe="x", overrides=(), config={"sweep": {"trial": number}}))
        report = {"holdout_by_step": [[1, 0.99, 0.1], [2, accuracy, 0.5]]}
        runs.remember(path, score=score.score(report, "holdout.accuracy"))
        for name in trials.RELEASED:
            (path / name).write_text(str(number))
    found = trials.conclude(tmp_path)
    assert (None if found is None else found["trial"]) == (None if best is None else f"run_{best}")
    assert (tmp_path / trials.SELECTED).exists()


@pytest.mark.parametrize(
    ("asked", "called", "shown"),
    [("holdout.accuracy", "holdout.r2", -0.3), ("holdout.loss", "holdout.loss", 0.5)],
)
def test_the_score_of_numbers_is_called_what_it_is_and_keeps_its_sign(
    tmp_path: Path, asked: str, called: str, shown: float
) -> None:
    numbers = Regression(bounds=(0.0, 9.0))
    assert score.named(asked, numbers) == called
    with pytest.raises(
        ConfigError, match=r"sweep.score=test.auroc: numbers have no AUROC; use test.accuracy"
    ):
        score.named("test.auroc", numbers)
    (tmp_path / sweeps.STATE).write_text(json.dumps({"selection": {"trials": 1, "terms": {"score": called}}}))
    path = tmp_path / "run_1"
    runs.start(path, runs.Order(recipe="x", overrides=(), config={"sweep": {"trial": 1}}))
    runs.remember(path, score=score.score({"holdout_by_step": [[2, -0.3, 0.5]]}, asked))
    chosen = trials.conclude(tmp_path)
    assert chosen is not None
    assert chosen["scored"] == shown


def test_a_loss_is_better_when_smaller_and_a_number_that_is_none_the_worst() -> None:
    report = {"holdout_by_step": [[1, 0.5, 2.0]], "utility": {"accuracy": 0.6, "auroc": 0.8, "loss": None}}
    found = {
        name: score.score(report, name)
        for name in ("holdout.accuracy", "holdout.loss", "test.accuracy", "test.auroc", "test.loss")
    }
    assert found == {
        "holdout.accuracy": 0.5, "holdout.loss": -2.0, "test.accuracy": 0.6, "test.auroc": 0.8,
        "test.loss": -math.inf,
    }  # fmt: skip


# ---------------------------------------------------------------------- attacks that fail


def conclude(folder: Path) -> dict[str, Any]:
    """What is selected when a sweep ends with a job that failed."""
    with pytest.raises(SystemExit) as caught:
        multirun.conclude(folder)
    assert caught.value.code in (cli.CRASHED, cli.BROKEN)
    selected: dict[str, Any] = json.loads((folder / trials.SELECTED).read_text())
    return selected


@pytest.fixture(scope="module")
def crashed(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials done; the attacks on the better one crashed."""
    folder = agreed(tmp_path_factory.mktemp("crashed") / "sweep_a", begun, trials=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "score", lambda *_: 0.5)
        cli.main(trial(folder.parent, 1), folder)
        patch.setattr(score, "score", lambda *_: 0.75)

        def crash(*_: Any) -> None:
            raise IndexError("of a record")

        patch.setattr(Experiment, "attack", crash)
        cli.main(trial(folder.parent, 2), folder)
    return folder


def test_a_trial_whose_attacks_crash_is_scored_by_its_training(crashed: Path) -> None:
    path = folders(crashed)[2]
    assert not (path / runs.REPORT).exists()
    assert "of a record" in str(sweeps.read_state(crashed).failed)
    assert trials.failures(crashed) == set()
    assert score.kept_score(path) == 0.75
    selected = conclude(crashed)
    assert (selected["trial"], selected["scored"]) == (path.name, 0.75)
    released = {each.name: each.read_bytes() for each in (crashed / "selected").iterdir()}
    assert released == {name: (path / name).read_bytes() for name in trials.RELEASED}
    statement = json.loads(released["statement.json"])
    jsonschema.validate(statement, schema())
    assert statement["proved"]["epsilon"] == noted(crashed)["terms"]["epsilon"]


def test_what_is_released_does_not_tell_whether_attacks_crashed(
    crashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = folders(crashed)[2], conclude(crashed)
    released = {each.name: each.read_bytes() for each in (crashed / "selected").iterdir()}
    state = checkpoint.load(path)
    assert state is not None
    monkeypatch.setattr(score, "score", lambda *_: 0.25)  # of a metric that another machine rounds otherwise
    cli.main(trial(crashed.parent, 2), crashed)
    assert (path / runs.REPORT).exists()
    assert sweeps.read_state(crashed).failed == {}
    assert score.kept_score(path) == 0.75
    multirun.conclude(crashed)
    assert json.loads((crashed / trials.SELECTED).read_text()) == before
    again = {each.name: each.read_bytes() for each in (crashed / "selected").iterdir()}
    assert {name: again[name] for name in ("statement.json", "model_card.md")} == {
        name: released[name] for name in ("statement.json", "model_card.md")
    }
    one, other = (torch.load(io.BytesIO(each["weights.pt"]), weights_only=True) for each in (released, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("by_folder", [False, True])
def test_a_trial_that_is_killed_before_its_score_is_kept_is_missing(
    begun: Path, tmp_path: Path, by_folder: bool
) -> None:
    folder = agreed(tmp_path / "sweep_a", begun, trials=1)
    with pytest.MonkeyPatch.context() as patch:

        def kill(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(score, "keep_score", kill)
        with pytest.raises(SystemExit):
            cli.main(trial(tmp_path, 1), folder)
    weights = torch.load(folders(folder)[1] / runs.WEIGHTS, weights_only=True)
    with pytest.raises(DptrainError, match="1 of the trials are missing"):
        trials.conclude(folder)
    if by_folder:
        cli.main(order(f"resume={folders(folder)[1]}"), None)
    else:
        cli.main(trial(tmp_path, 1), folder)
    report = read_json(folders(folder)[1] / runs.REPORT)
    assert score.kept_score(folders(folder)[1]) == report["holdout_by_step"][-1][1]
    again = torch.load(folders(folder)[1] / runs.WEIGHTS, weights_only=True)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_broken_guarantee_stays_with_its_trial(begun: Path, tmp_path: Path) -> None:
    folder = agreed(tmp_path / "sweep_a", begun, trials=1)
    with pytest.MonkeyPatch.context() as patch:

        def broken(_: object) -> None:
            raise BrokenGuarantee("more than is proved")

        patch.setattr(train, "refuse_broken", broken)
        for _ in range(2):  # the second finds the report of the first
            cli.main(trial(tmp_path, 1), folder)
            with pytest.raises(SystemExit) as caught:
                multirun.conclude(folder)
            assert caught.value.code == cli.BROKEN
    assert not (folder / "selected").exists()


def test_a_search_is_told_the_score_of_a_training_whose_attacks_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_budget.begin(tmp_path / "sweep_a", max_epsilon=8.0, direction="maximize")

    def crash(*_: Any) -> None:
        raise IndexError("of a record")

    monkeypatch.setattr(Experiment, "attack", crash)
    words = (
        "tracking=none",
        *QUICK,
        "attack=[]",
        "control.enabled=false",
        "performance.threads=1",
        f"output={tmp_path}",
    )
    told = cli.main(replace(order(*words, "privacy.epsilon=1"), sweep=True), tmp_path / "sweep_a")
    (path,) = (each.parent for each in tmp_path.glob(f"sweep_a/*/{runs.ORDER}"))
    assert told == score.kept_score(path)
    assert told is not None
    assert 0 < told <= 1
    monkeypatch.setattr(loop, "_check_finite", crash)
    told = cli.main(replace(order(*words, "privacy.epsilon=2"), sweep=True), tmp_path / "sweep_a")
    assert told == -math.inf


# ---------------------------------------------------------------------- the command line


SEARCH = ("+sweep=private_selection", *QUICKLY, *NOISY, "sweep.mean_runs=1.3")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole search by the command line: its folder, and what it said."""
    cwd = tmp_path_factory.mktemp("swept")
    code, out, err = finish(command(*SEARCH, cwd=cwd))
    assert code == 0, err
    (folder,) = (cwd / "runs").glob("sweep_*")
    return folder, out


def test_the_command_runs_as_many_trials_as_it_drew_and_releases_one(swept: tuple[Path, str]) -> None:
    folder, out = swept
    assert sorted(folders(folder)) == list(range(1, noted(folder)["trials"] + 1))
    assert out.index("the number is secret, geometric") < out.index("guarantee  ε")
    assert "release the folder selected/ and nothing else of this sweep" in out
    assert (folder / "selected" / "weights.pt").exists()


def test_the_command_goes_on_without_drawing_again_and_refuses_to_sweep_more(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    before, cwd = noted(folder), folder.parents[1]
    again = command(*SEARCH, f"sweep.resume={folder}", cwd=cwd)
    more = command(*SEARCH, "seed=1,2", cwd=cwd)
    code, out, _ = finish(again)
    assert code == 0
    assert out.count("there already") == before["trials"]
    assert noted(folder) == before
    code, _, err = finish(more)
    assert code == cli.FAILED
    assert "seed=1,2: a private selection runs nothing but its trials" in err
    assert len(list(folder.parent.glob("sweep_*"))) == 1


def test_no_trial_at_all_is_an_outcome(
    tmp_path: Path, fixed_number: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fixed_number(0)
    words = asked(tmp_path, "sweep.distribution=poisson", *NOISY)
    with pytest.raises(SystemExit) as caught:
        multirun.begin_selection(tmp_path / "sweep_a", words.config, swept=(), sweeper="basic")
    assert caught.value.code == 0
    assert "selected  none" in capsys.readouterr().out
    assert json.loads((tmp_path / "sweep_a" / trials.SELECTED).read_text())["trial"] is None
    assert noted(tmp_path / "sweep_a")["terms"]["theorem"].endswith("Theorem 6")


def test_a_selection_that_was_stopped_before_its_number_was_drawn_is_not_to_be_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(multirun, "begin_selection", interrupted)
    monkeypatch.setattr(hydra_cli.SweepStart, "folder", None)
    config = OmegaConf.create(
        {
            "sweep": {"candidates": {"optimizer.lr": [1, 2]}},
            "performance": {"processes": 1},
            "hydra": {
                "sweep": {"dir": str(tmp_path)},
                "overrides": {"task": []},
                "launcher": {},
                "runtime": {"choices": {"hydra/sweeper": "basic"}},
            },
        }
    )
    with pytest.raises(KeyboardInterrupt):
        hydra_cli.SweepStart().on_multirun_start(config)
    assert hydra_cli.SweepStart.folder is None
