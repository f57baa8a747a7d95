"""The command line's manners: what was asked for, where it runs, how it ends."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import torch

from dptrain import audit, pipeline, runs, sweep
from dptrain.assets import build
from dptrain.compare import compare
from dptrain.config import Config, parse
from dptrain.contracts import BrokenGuarantee, ConfigError, DptrainError, LimitExceeded
from dptrain.gathering import Selection
from dptrain.report import comparison
from dptrain.report.comparison_console import show
from dptrain.report.console import Console

CRASHED, FAILED, BROKEN, BEYOND, INTERRUPTED = 1, 2, 3, 4, 130
CONFIDENCE = 0.95  # of the intervals over the seeds of a sweep


def main(order: runs.Order, sweep_folder: Path | None) -> None:
    """Carry out an order; exits with 2 on errors, 3 on a broken guarantee, 4 on `fail_if`, 130 on Ctrl-C."""
    console = Console()
    folder: Path | None = None
    try:
        config = parse(order.config)
        if sweep_folder is not None and sweep_folder.exists():
            sweep.forget_failure(sweep_folder, order)
        if config.resume is not None:
            folder, order = _resumed(config, order)
            config = parse(order.config)
        elif sweep_folder is not None and (found := sweep.find(sweep_folder, order)) is not None:
            if (found / runs.REPORT).exists():
                console.there_already(found)
                return
            folder, order = found, runs.read(found)
            config = parse(order.config)
        else:
            name = order.recipe if config.task == "train" else "audit"
            folder = runs.new_folder(sweep_folder or Path(config.output), name)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        run = audit.run if config.task == "audit" else pipeline.run
        run(config, order, folder, console)
    except DptrainError as error:
        console.error(error)
        code = _code(error)
        if sweep_folder is None:
            sys.exit(code)
        _note_failure(sweep_folder, order, folder, error, code)  # the other jobs go on
    except Exception as error:
        if sweep_folder is None:
            raise
        traceback.print_exc()  # not foreseen: whoever wrote the part that failed will want to know where
        _note_failure(sweep_folder, order, folder, error, CRASHED)
    except KeyboardInterrupt:
        console.interrupted(folder)
        sys.exit(INTERRUPTED)


def _note_failure(
    sweep_folder: Path, order: runs.Order, folder: Path | None, error: Exception, code: int
) -> None:
    """Remember a failure with the sweep, and with the job as far as it got."""
    sweep.note_failure(sweep_folder, order, error, code)
    if folder is not None and (folder / runs.ORDER).exists():
        runs.remember(folder, error=str(error))


def conclude(sweep_folder: Path) -> None:
    """Compare the jobs of a sweep that is done; exits with the gravest code of those that failed."""
    console = Console()
    notes = sweep.read_notes(sweep_folder)
    if any(sweep_folder.glob(f"*/{runs.REPORT}")):
        try:
            found = compare(
                Selection(folders=(sweep_folder,)),
                confidence=CONFIDENCE,
                command=f"python scripts/compare.py {sweep_folder}",
            )
            page = sweep_folder / "comparison.html"
            comparison.write_html(found, page)
            show(found)
            console.page(page)
            _hand_to_the_parent(sweep_folder, notes.get("parent"), page)
        except DptrainError as error:
            console.error(error)
    failed = notes.get("failed", {})
    for job, failure in failed.items():
        console.error(DptrainError(f"failed: {job}\n{failure['error']}"))
    if failed:
        sys.exit(max(failure["code"] for failure in failed.values()))


def _hand_to_the_parent(sweep_folder: Path, parent: str | None, page: Path) -> None:
    """Put the comparison where the family of runs is recorded."""
    if parent is None:
        return
    job = next(sweep_folder.glob(f"*/{runs.ORDER}")).parent
    tracking = build("tracking", parse(runs.read(job).config).tracking)
    with tracking.open(sweep_folder.name, sweep_folder, parent) as tracker:
        tracker.artifact(page, "comparison")


def _code(error: DptrainError) -> int:
    if isinstance(error, BrokenGuarantee):
        return BROKEN
    return BEYOND if isinstance(error, LimitExceeded) else FAILED


def _resumed(config: Config, order: runs.Order) -> tuple[Path, runs.Order]:
    """The folder and the original order; a resumed run is the run it was, so nothing may be overridden."""
    others = [o for o in order.overrides if o.partition("=")[0] not in ("resume", "output")]
    if others:
        raise ConfigError(
            f"resume={config.resume} continues a run as it was started; leave out {' '.join(others)}, "
            "or start a new run"
        )
    return runs.find(str(config.resume), Path(config.output))
