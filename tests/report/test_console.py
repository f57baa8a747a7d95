"""The console: what it says, and that it reads well at every width and without a terminal."""

from __future__ import annotations

import dataclasses
import io

import pytest
import rich.console

from dptrain.contracts import Briefing, DptrainError, Report, Sensitivity
from dptrain.report import sentences
from dptrain.report.console import Console


def make_console(width: int = 80, terminal: bool = False) -> tuple[Console, io.StringIO, io.StringIO]:
    out, errors = io.StringIO(), io.StringIO()
    console = Console(
        rich.console.Console(file=out, width=width, force_terminal=terminal, highlight=False),
        rich.console.Console(file=errors, width=width, force_terminal=terminal, highlight=False),
    )
    return console, out, errors


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_nothing_is_wider_than_the_window(width: int, briefing: Briefing, report: Report) -> None:
    console, out, _ = make_console(width)
    console.briefing(briefing)
    console.report(report)
    paths = str(report.folder)
    assert all(len(line) <= width for line in out.getvalue().splitlines() if paths not in line)
    assert "…" not in out.getvalue()


def test_the_briefing_tells_what_will_be_spent(briefing: Briefing) -> None:
    console, out, _ = make_console()
    console.briefing(briefing)
    text = squeezed(out.getvalue().replace("│", " "))
    for part in (
        "ε = 3.00 at δ = 1e-05, per record",
        "one record added or removed",
        "noise multiplier 1.148",
        "flat, to norm 1",
        "poisson, sample rate 0.064",
        "steps 600, expected batch size 256",
        "4,000 to train on, 1,000 held out, 1,000 to test on",
        "SmallCNN, 16,392 parameters, on cpu",
        "class inversion reconstruction from weights reconstruction from gradients",
        "about 1 min 35 s",
    ):
        assert part in text, part


def test_the_briefing_tells_why_frozen_features_are_made_at_each_step(briefing: Briefing) -> None:
    said = []
    for features in ("", "training.augmentations=4 shows other copies of each record"):
        console, out, _ = make_console()
        console.briefing(dataclasses.replace(briefing, features=features))
        said.append(squeezed(out.getvalue().replace("│", " ")))
    assert "features" not in said[0]
    assert "made anew at each step: training.augmentations=4 shows other copies of each record" in said[1]


def test_a_briefing_without_privacy_says_so(briefing: Briefing) -> None:
    console, out, _ = make_console()
    console.briefing(
        dataclasses.replace(briefing, plan=None, epsilon=float("inf"), attacks=(), estimate=None)
    )
    assert "none (not private)" in out.getvalue()
    assert "inf" not in out.getvalue()


@pytest.mark.parametrize("audit", [None, "held"])
def test_norms_of_single_records_are_for_their_owner_alone(audit: str | None, report: Report) -> None:
    measured = dataclasses.replace(
        report,
        guarantee=dataclasses.replace(report.guarantee, sensitivity=Sensitivity(most=1.0, audit=audit)),
    )
    console, out, _ = make_console()
    console.report(measured)
    told = "sensitivity.json measures training records: keep it confidential"
    assert (told in squeezed(out.getvalue())) == (audit == "held")
    assert ("sensitivity.json" in sentences.confidential(measured)) == (audit == "held")


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_holds_every_number_and_verdict(width: int, report: Report) -> None:
    console, out, _ = make_console(width)
    console.report(report)
    text = squeezed(out.getvalue())
    for line in report.leakage:
        assert line.attack in text
        assert line.metric in text
        assert f"{line.value.value:.3f} {line.floor:.3f}" in text
        assert f"[{line.value.low:.3f}, {line.value.high:.3f}]" in text
        assert f"{line.detection_limit:.3f}" in text
    assert text.count("no bound ") == 2
    assert text.count("0.411") == 2
    assert "leakage detected" in text
    assert "attack too weak to tell" in text
    assert "resisted:" in text
    assert squeezed(report.guarantee.sentence) in text
    assert "no ceiling" in text
    assert f"{report.folder / 'report.html'}" in text
    assert "keep it confidential" in text
    assert text.endswith("compare mlflow ui")


def test_the_command_to_compare_runs_is_left_out_when_nothing_is_recorded(report: Report) -> None:
    console, out, _ = make_console()
    console.report(report, "")
    assert "mlflow" not in out.getvalue()


def test_no_privacy_reads_none(bare: Report) -> None:
    console, out, _ = make_console()
    console.report(bare)
    text = out.getvalue()
    assert "none" in text
    assert "nothing is proved" in text
    assert "inf" not in text
    assert "LEAKAGE" not in text


def test_a_void_guarantee_is_loud_and_shows_no_bound(void: Report) -> None:
    console, out, _ = make_console(120)
    console.report(void)
    text = out.getvalue()
    assert text.count("VOID") >= 3
    assert "Nothing below is a privacy guarantee" in text
    assert "0.411" not in text
    assert "3.00" not in text
    assert "proved" not in squeezed(text).replace(squeezed("only a bound is proved"), "")


def test_without_a_terminal_there_are_few_plain_lines(report: Report) -> None:
    console, out, _ = make_console()
    with console.training("training") as progress:
        for done in range(1, 5001):
            progress(done=done, total=5000, epsilon=done / 2500)
    with console.stage("class inversion"):
        pass
    console.report(report)
    text = out.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    lines = [line for line in text.splitlines() if line.startswith("training")]
    assert 9 <= len(lines) <= 11
    assert "step 500 of 5,000  ε 0.20" in lines[0]
    assert lines[-1].startswith("training  done  5,000 steps  ε 2.00")
    assert "class inversion …" in text
    assert "class inversion  done" in text


def test_a_resumed_training_reports_from_where_it_is() -> None:
    console, out, _ = make_console()
    with console.training("training") as progress:
        for done in range(85, 101):
            progress(done=done, total=100, epsilon=1.0)
    assert len(out.getvalue().splitlines()) == 2


def test_a_terminal_sees_a_bar_with_the_running_epsilon() -> None:
    console, out, _ = make_console(terminal=True)
    with console.training("training") as progress:
        for done in range(1, 11):
            progress(done=done, total=10, epsilon=0.1 * done)
    with console.stage("class inversion"):
        pass
    text = out.getvalue()
    assert "\x1b" in text
    assert "ε 1.00" in text
    assert "✓" in text
    assert "class inversion" in text


def test_an_unprotected_training_shows_no_epsilon() -> None:
    console, out, _ = make_console()
    with console.training("training the twin") as progress:
        progress(done=10, total=10, epsilon=float("inf"))
    assert "not private" in out.getvalue()
    assert "inf" not in out.getvalue()


def test_a_stage_that_fails_is_not_called_done() -> None:
    console, out, _ = make_console()
    with pytest.raises(DptrainError), console.stage("class inversion"):
        raise DptrainError("no")
    assert "done" not in out.getvalue()


def test_errors_go_to_the_error_stream_in_one_line() -> None:
    console, out, errors = make_console(width=40)
    message = "privacy.sample_rate=[1.4] must be in (0, 1]; use expected_batch_size / records"
    console.error(DptrainError(message))
    assert errors.getvalue() == f"error  {message}\n"
    assert out.getvalue() == ""
