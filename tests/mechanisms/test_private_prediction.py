"""Private prediction: so many answers, each paid for on the disk before it is given, and no more."""

from __future__ import annotations

import io
import math
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from pathlib import Path

import pytest
import torch
from scipy.stats import chi2
from support import order
from torch import Tensor

import dptrain
from dptrain.assembly.components import assemble
from dptrain.assembly.records import load_splits
from dptrain.assembly.values import make_streams
from dptrain.cli import main as cli
from dptrain.config import parse
from dptrain.contracts import Budget, ConfigError, Context, DptrainError, OutOfQueries, Release, Splits
from dptrain.mechanisms.private_prediction import PrivatePrediction
from dptrain.models.mlp import Mlp
from dptrain.models.output import LabelsOnly
from dptrain.privacy.votes import QueriesPlan
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.sweep.selection import candidates
from dptrain.tracking import NullRun
from dptrain.training.ensemble import TEACHERS, Ensemble, Replica, digests
from dptrain.training.paid_answers import LEDGER, PaidAnswers, Predictor
from dptrain.training.teachers import counts_of, parts_of, votes

pytestmark = pytest.mark.run

ANSWERS = 300
ASKED = (
    "mechanism=private_prediction",
    "mechanism.teachers=30",
    f"mechanism.answers={ANSWERS}",
    "model=logistic",
    "attack=[membership_loss]",
    "evidence.slots=10",
    "evidence.probes=100",
    "privacy.epsilon=8",
    "performance.threads=1",
    "performance.estimate=false",
)
BUDGET = Budget(epsilon=8.0, delta=1e-4)


def carry_out(here: Path, *words: str) -> Path:
    with redirect_stdout(io.StringIO()):
        cli.main(order(*ASKED, f"output={here}/runs", "tracking=none", *words), None)
    return sorted((here / "runs").glob(f"*/{runs.REPORT}"))[-1].parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return carry_out(tmp_path_factory.mktemp("prediction"))


@pytest.fixture(scope="module")
def splits() -> Splits:
    config = parse(order(*ASKED).config)
    return load_splits(assemble(config).source, make_streams(config))


@pytest.fixture
def mechanism() -> PrivatePrediction:
    found = assemble(parse(order(*ASKED).config)).mechanism
    assert isinstance(found, PrivatePrediction)
    return found


def context(folder: Path | None) -> Context:
    streams = make_streams(parse(order(*ASKED).config))
    return Context(streams=streams, tracker=NullRun(), device=torch.device("cpu"), folder=folder)


@pytest.fixture
def fitted(mechanism: PrivatePrediction, splits: Splits, tmp_path: Path) -> tuple[Release, Predictor]:
    """A release, and who answers people of it."""
    release, _ = mechanism.fit(network(splits), splits, BUDGET, context(tmp_path))
    replica = release.predictions
    assert isinstance(replica, Replica)
    return release, Predictor(replica.ensemble, replica.seen, PaidAnswers(tmp_path), shape=splits.shape)


def network(splits: Splits) -> Mlp:
    return Mlp(shape=splits.shape, num_classes=splits.num_classes)


# ---------------------------------------------------------------------- the run


def test_a_run_is_stated_attacked_and_told(finished: Path) -> None:
    report = read_json(finished / runs.REPORT)
    assert report["utility"]["accuracy"] > 1.5 * report["floor_accuracy"]
    stated = report["guarantee"]
    assert 7.9 < stated["epsilon"] <= 8.0
    assert any("300 inputs are answered" in text for _, text in stated["plan"])
    assert stated["released"].startswith("the first 300 answers")
    (line,) = [line for line in report["leakage"] if line["metric"] == "auc"]
    assert line["low"] <= line["bound"]
    assert line["control"] is not None
    assert report["not_run"] == []
    assert not (finished / runs.WEIGHTS).exists()
    assert "first 300 answers" in (finished / "report.html").read_text()
    assert any("measured by a replica" in sentence for sentence in stated["outside_guarantee"])


def test_without_an_architecture_records_are_bet_on_by_their_losses(tmp_path: Path) -> None:
    folder = carry_out(tmp_path, "attack=[audit_losses]", "mechanism.answers=600")
    report = read_json(folder / runs.REPORT)
    assert report["not_run"] == []
    assert {line["attack"] for line in report["leakage"]} == {"audit_losses"}


def test_what_is_kept_is_for_the_owner_and_nothing_is_paid_for_by_the_run_itself(finished: Path) -> None:
    for name in (TEACHERS, LEDGER):
        assert stat.S_IMODE((finished / name).stat().st_mode) == 0o600
    assert PaidAnswers(finished).left == ANSWERS


def test_more_answers_have_more_noise_and_cost_the_same(mechanism: PrivatePrediction, splits: Splits) -> None:
    plan = mechanism.plan(splits, BUDGET)
    assert isinstance(plan, QueriesPlan)
    assert plan.noise_std == pytest.approx(math.sqrt(2 * ANSWERS) / plan.mu(), rel=1e-9)
    assert 7.9 < plan.loss().get_epsilon_for_delta(BUDGET.delta) <= 8.0
    release, _ = mechanism.fit(network(splits), splits, BUDGET, context(None))
    assert [number for number, _, _ in release.published] == [37, 75, 150, 300]
    accuracies = [accuracy for _, accuracy, _ in release.published]
    assert accuracies[0] > accuracies[-1]


def test_attacks_meet_no_more_answers_than_people_do(
    fitted: tuple[Release, Predictor], splits: Splits
) -> None:
    release, predictor = fitted
    interface = release.queries(10**6)
    inputs = splits.train.inputs[: ANSWERS + 1]
    interface.confidences(inputs[:ANSWERS])
    with pytest.raises(OutOfQueries):
        interface.confidences(inputs[ANSWERS:])
    assert predictor.left == ANSWERS, "a replica was asked"


# ---------------------------------------------------------------------- who answers people


def test_each_other_input_is_paid_for_once_and_after_the_last_there_is_none(
    fitted: tuple[Release, Predictor], splits: Splits
) -> None:
    _, predictor = fitted
    inputs = splits.test.inputs
    first = predictor.confidences(inputs[:10])
    assert predictor.left == ANSWERS - 10
    assert torch.equal(predictor.confidences(inputs[:10]), first)
    assert predictor.left == ANSWERS - 10
    with pytest.raises(OutOfQueries, match=r"all 300 answers of this release are given"):
        predictor.labels(splits.train.inputs[: ANSWERS + 1])
    assert predictor.left == 0
    assert torch.equal(predictor.confidences(inputs[:10]), first), "what was given is given again"


def test_who_opens_the_folder_again_is_told_the_same(finished: Path, splits: Splits, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    copied.mkdir()
    for each in finished.iterdir():
        if each.is_file():
            (copied / each.name).write_bytes(each.read_bytes())
    one, other = dptrain.predictor(copied), dptrain.predictor(copied)
    inputs = splits.test.inputs[:20]
    said = one.confidences(inputs)
    assert torch.equal(other.confidences(inputs), said)
    assert one.left == other.left == ANSWERS - 20
    right = one.labels(splits.test.inputs[:200]) == splits.test.labels[:200]
    assert right.double().mean() > 0.3


def test_noise_is_what_is_planned_and_new_for_each_answer(
    fitted: tuple[Release, Predictor], splits: Splits, tmp_path: Path
) -> None:
    _, predictor = fitted
    inputs = splits.test.inputs[:ANSWERS]
    predictor.confidences(inputs)
    paid = PaidAnswers(tmp_path)
    noisy = torch.stack([paid.once(digest, never) for digest in digests(inputs)])
    noise = (noisy - predictor._ensemble.counts(inputs)) / paid.std
    assert 1e-5 < chi2.cdf(float(noise.square().sum()), noise.numel()) < 1 - 1e-5
    assert len(noise.unique(dim=0)) == len(inputs)


def test_processes_that_were_forked_draw_noise_of_their_own(
    fitted: tuple[Release, Predictor], splits: Splits, tmp_path: Path
) -> None:
    """What a source holds is copied by a fork: two answers with the same noise give their counts away."""
    _, predictor = fitted
    for place in (0, 1):
        if (child := os.fork()) == 0:
            predictor.labels(splits.test.inputs[place : place + 1])
            os._exit(0)
        os.waitpid(child, 0)
    paid, counts = PaidAnswers(tmp_path), predictor._ensemble.counts(splits.test.inputs[:2])
    noise = torch.stack([paid.once(digest, never) for digest in digests(splits.test.inputs[:2])]) - counts
    assert not torch.equal(noise[0], noise[1])


def test_what_is_told_is_what_was_stated(
    fitted: tuple[Release, Predictor], splits: Splits, tmp_path: Path
) -> None:
    _, whole = fitted
    told = Predictor(
        whole._ensemble, whole._seen, PaidAnswers(tmp_path), shape=splits.shape, output=LabelsOnly()
    )
    shares = told.confidences(splits.test.inputs[:5])
    assert torch.equal(shares.sort(1).values[:, :-1], torch.zeros(5, 9))
    with pytest.raises(
        ConfigError, match=r"inputs of shape \(0, 1, 8, 8\) are asked about; give \(n, 1, 8, 8\)"
    ):
        told.labels(splits.test.inputs[:0])
    with pytest.raises(ConfigError, match=r"inputs of shape \(1, 8, 8\)"):
        told.labels(splits.test.inputs[0])


def test_no_search_and_no_selection_looks_at_its_figures(
    splits: Splits,
) -> None:
    values = order(*ASKED).config
    config = parse(values)
    found = candidates.tried(config, values, splits, make_streams(config))
    with pytest.raises(ConfigError, match="nothing may be selected by them"):
        candidates.plans(found, splits)


def never() -> Tensor:
    raise AssertionError("it is paid for")


def test_a_ledger_that_forgets_would_be_noticed(
    fitted: tuple[Release, Predictor], splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked often, an input whose answers were not kept would tell its votes by their mean."""
    _, predictor = fitted
    monkeypatch.setattr(PaidAnswers, "once", lambda _, __, draw: draw())
    asked = splits.test.inputs[:1]
    seen = torch.stack([predictor.confidences(asked) for _ in range(50)])
    assert len(seen.unique(dim=0)) == 50


def test_a_file_that_is_gone_ends_it(
    fitted: tuple[Release, Predictor], tmp_path: Path, splits: Splits
) -> None:
    _, predictor = fitted
    (tmp_path / LEDGER).unlink()
    with pytest.raises(DptrainError, match=r"answers\.sqlite.* is gone; nothing more may be answered"):
        PaidAnswers(tmp_path)
    with pytest.raises(DptrainError, match="nothing was answered"):
        predictor.labels(splits.test.inputs[:1])


def test_a_run_is_not_begun_again_with_other_noise(tmp_path: Path) -> None:
    PaidAnswers.begin(tmp_path, most=5, std=2.0)
    PaidAnswers(tmp_path).once(b"x", lambda: torch.ones(2, dtype=torch.float64))
    PaidAnswers.begin(tmp_path, most=5, std=2.0)
    assert PaidAnswers(tmp_path).left == 4
    with pytest.raises(DptrainError, match=r"of 5 answers with noise of 2, and 6 with 2 are planned now"):
        PaidAnswers.begin(tmp_path, most=6, std=2.0)


KILLED = """
import sys
from pathlib import Path
import torch
from dptrain.training.paid_answers import PaidAnswers
paid = PaidAnswers(Path(sys.argv[1]))
for number in range(10**6):
    noisy = torch.randn(3, dtype=torch.float64)
    given = paid.once(number.to_bytes(8, "big"), lambda: noisy)
    print(number, given.numpy().tobytes().hex(), flush=True)
"""


def test_killed_at_any_moment_what_was_given_is_paid_for(tmp_path: Path) -> None:
    PaidAnswers.begin(tmp_path, most=10**6, std=1.0)
    for lines in (1, 7):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(lines)]
            os.kill(process.pid, signal.SIGKILL)
            said += process.stdout.readlines()
        given = dict(line.split() for line in said if line.endswith("\n"))
        paid = PaidAnswers(tmp_path)
        for number, answer in given.items():
            kept = paid.once(int(number).to_bytes(8, "big"), never)
            assert kept.numpy().tobytes().hex() == answer
        with closing(sqlite3.connect(tmp_path / LEDGER)) as file:
            (written,) = file.execute("select count(*) from answers").fetchone()
        assert written <= len(given) + 1


def test_processes_together_give_no_more_than_there_are(tmp_path: Path) -> None:
    PaidAnswers.begin(tmp_path, most=40, std=1.0)
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other,
    ):
        said = [process.communicate() for process in (one, other)]
    assert all("OutOfQueries: all 40 answers" in error for _, error in said)
    given = [set(out.splitlines()) for out, _ in said]
    assert len(given[0] | given[1]) == 40, "one answer for an input, whoever asked"


# ---------------------------------------------------------------------- the teachers


def test_kept_teachers_vote_as_those_of_pate_do(splits: Splits) -> None:
    train = splits.train
    part = parts_of(train, None, 12, bytes(32))
    terms = {"teachers": 12, "classes": 10, "ridge": 0.03}
    ensemble = Ensemble.of(train, part, **terms)  # type: ignore[arg-type]
    counts = ensemble.counts(splits.test.inputs)
    said = votes(train, part, splits.test.inputs, **terms)  # type: ignore[arg-type]
    assert torch.equal(counts, counts_of(said, 10))


def test_one_record_less_moves_the_counts_of_an_input_by_one_vote(splits: Splits) -> None:
    found = []
    for train in (splits.train, splits.train.take(torch.arange(1, len(splits.train)))):
        part = parts_of(train, None, 30, bytes(32))
        ensemble = Ensemble.of(train, part, teachers=30, classes=10, ridge=0.03)
        found.append(ensemble.counts(splits.test.inputs))
    moved = (found[0] - found[1]).norm(dim=1)
    assert 0 < moved.max() <= math.sqrt(2.0) + 1e-12


def test_a_replica_says_the_same_of_an_input_in_whatever_company(
    fitted: tuple[Release, Predictor], splits: Splits
) -> None:
    release, _ = fitted
    replica = release.predictions
    assert replica is not None
    inputs = splits.test.inputs[:20]
    assert torch.equal(replica(inputs)[3:9], replica(inputs[3:9]))


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("attack=[class_inversion]",), "attack=class_inversion needs weights, which mechanism"),
        (("mechanism.answers=0",), "mechanism.answers=0"),
    ],
)
def test_what_cannot_be_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        assemble(parse(order(*ASKED, *words).config))


def test_other_folders_answer_nothing(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(ConfigError, match="no finished run"):
        dptrain.predictor(tmp_path)
    other = tmp_path / "copy"
    other.mkdir()
    for each in finished.iterdir():
        if each.is_file() and each.name != TEACHERS:
            (other / each.name).write_bytes(each.read_bytes())
    with pytest.raises(DptrainError, match=r"teachers\.pt cannot be read"):
        dptrain.predictor(other)


def test_its_control_tells_votes_without_noise(splits: Splits) -> None:
    control = assemble(parse(order(*ASKED).config)).control
    assert isinstance(control, PrivatePrediction)
    release, guarantee = control.fit(network(splits), splits, BUDGET, context(None))
    assert not guarantee.statement().private
    assert release.answers is None
    assert release.published[0][1] == release.published[-1][1]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
