"""The beginning and the end of a sweep: what its results may decide, and its jobs side by side."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dptrain.assembly.build import build
from dptrain.cli.start import BEYOND, BROKEN, CRASHED, FAILED
from dptrain.contracts import ConfigError, DptrainError
from dptrain.redaction import revealed
from dptrain.report import selection as said
from dptrain.report.comparison.points import Comparison
from dptrain.report.console import Console
from dptrain.runs import folder as runs
from dptrain.storage import write_text
from dptrain.sweep import budget as sweep_budget
from dptrain.sweep import state as sweeps
from dptrain.sweep import tracking as sweep_tracking
from dptrain.sweep.selection import trials

GRAVEST = (BROKEN, BEYOND, FAILED, CRASHED)  # a sweep has the first of these exit codes that a job has


def refuse_no_sweep(resume: str | None) -> None:
    """Raise ConfigError where a sweep is to go on in a folder that is none of a sweep."""
    if resume is not None and not (Path(resume) / sweeps.STATE).is_file():
        raise ConfigError(
            f"sweep.resume={resume} is no folder of a sweep (it holds no {sweeps.STATE}); give the one that "
            "the sweep named, or leave it out to start a new one"
        )


def begin_search(sweep_folder: Path, sought: Mapping[str, Any], direction: str | None) -> None:
    """Let results choose the jobs of a sweep; exits with 2 where it is not said what that may spend."""
    try:
        sweep_budget.begin(sweep_folder, max_epsilon=sought["max_epsilon"], direction=direction)
    except DptrainError as error:
        Console().error(error)
        sys.exit(FAILED)


def begin_selection(
    sweep_folder: Path, values: Mapping[str, Any], *, swept: Sequence[str], sweeper: str
) -> None:
    """Agree on a private selection and draw its number of trials; exits with 2 where that cannot be.

    Exits with 0 where no trial at all was drawn, for then there is nothing to do.
    """
    console = Console()
    try:
        terms = trials.begin(sweep_folder, values, swept=swept, sweeper=sweeper)
    except DptrainError as error:
        console.error(error)
        sys.exit(FAILED)
    for name, text in said.agreed(terms):
        console.note(name, text)
    if not trials.trials(str(sweep_folder)):
        conclude(sweep_folder)
        sys.exit(0)


def conclude(sweep_folder: Path, tracking: Mapping[str, Any] | None = None) -> None:
    """Compare the jobs of a sweep that is done; exits with the gravest code of those that failed.

    With 2 as well, where there is no comparison, no selection, or nothing that could be recorded.
    `tracking` is where they were recorded, as configured; None: as the first of them remembers it.
    """
    # Late, as the jobs of a sweep, and single runs, compare nothing.
    from dptrain.cli.compare import PROGRAM
    from dptrain.comparison.compare import compare
    from dptrain.comparison.gather import Selection
    from dptrain.report.comparison.console import show
    from dptrain.report.comparison.files import write_files
    from dptrain.report.comparison.page import as_html
    from dptrain.report.pdf import write_pdf

    console = Console()
    state = sweeps.read_state(sweep_folder)
    found, files = None, []
    codes = []
    if any(sweep_folder.glob(f"*/{runs.REPORT}")):
        try:
            with runs.disk_explained(f"the same command and sweep.resume={sweep_folder}"):
                found = compare(Selection(folders=(sweep_folder,)), command=f"{PROGRAM} {sweep_folder}")
                page = sweep_folder / "comparison.html"
                write_text(as_html(found), page)
                show(found)
                console.page(page)
                files = [page, *write_files(found, sweep_folder)]
                if any(order.config["report"]["pdf"] for _, order in sweeps.jobs(sweep_folder)):
                    paper = page.with_suffix(".pdf")
                    write_pdf(page.read_text(encoding="utf-8"), paper)
                    files.append(paper)
        except DptrainError as error:
            console.error(error)
            codes.append(FAILED)
    codes += _hand_to_the_parent(sweep_folder, tracking, found, files, console)
    failed = state.broken_off
    if state.selection is not None:
        codes += _select(sweep_folder, console, broken=any(each.code == BROKEN for each in failed.values()))
    for job, failure in failed.items():
        console.error(DptrainError(f"failed: {job}\n{failure.error}"))
    for why, count in sorted(Counter(each.error for each in state.inapplicable.values()).items()):
        console.note("left out", f"{count} jobs: {why}")
    codes += [failure.code for failure in failed.values()]
    if state.inapplicable and found is None:
        codes.append(FAILED)  # whatever was asked about goes with nothing
    if codes:
        sys.exit(next((code for code in GRAVEST if code in codes), codes[0]))


def _select(sweep_folder: Path, console: Console, *, broken: bool) -> list[int]:
    """Select the best trial of a private selection, unless one of them shows that nothing is proved.

    Returns the exit code of what went wrong, if anything did.
    """
    if broken:
        console.note("selected", "none: a trial leaked more than is proved, so no proof can be relied on")
        return []
    try:
        chosen = trials.conclude(sweep_folder)
    except DptrainError as error:
        console.error(error)
        return [FAILED]
    for name, text in said.selected(chosen):
        console.note(name, text)
    return []


def _hand_to_the_parent(
    sweep_folder: Path,
    tracking: Mapping[str, Any] | None,
    found: Comparison | None,
    files: Sequence[Path],
    console: Console,
) -> list[int]:
    """Put the comparison where the runs are recorded; returns the exit code of what went wrong, if any."""
    jobs = sweeps.jobs(sweep_folder)
    if not jobs:
        return []
    _, order = jobs[0]
    try:
        # Not parsed: what the jobs ran on, such as a GPU, need not be on this machine.
        node = order.config["tracking"] if tracking is None else dict(tracking)
        recorded = build("tracking", revealed(node, "tracking"))
        sweep_tracking.conclude(recorded, sweep_folder, found, files)
    except DptrainError as error:
        console.error(error)
        return [FAILED]
    return []
