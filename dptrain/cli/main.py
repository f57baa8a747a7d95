"""The command line: chooses the task and the run folder, and maps errors to exit codes."""

from __future__ import annotations

import math
import os
import sys
import traceback
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from dptrain.assembly.left_out import without_what_does_not_apply
from dptrain.cli import launched, process
from dptrain.cli.start import BEYOND, BROKEN, CRASHED, FAILED, INTERRUPTED
from dptrain.config import Config, parse
from dptrain.contracts import BrokenGuarantee, ConfigError, DoesNotApply, DptrainError, LimitExceeded
from dptrain.pipeline import train
from dptrain.redaction import cleansed, given_again, redact
from dptrain.report.console import Console
from dptrain.runs import folder as runs
from dptrain.storage import Unwritable
from dptrain.sweep import budget as sweep_budget
from dptrain.sweep import state as sweeps
from dptrain.sweep.score import kept_score
from dptrain.sweep.selection import trials
from dptrain.sweep.study import study_of


def main(order: runs.Order, sweep_folder: Path | None) -> float | None:
    """Carry out an order; exits with 2 on errors, 3 on what is broken, 4 on `fail_if`, 130 on Ctrl-C.

    Returns what a search looks at: its job's `sweep.score`, larger is better; minus infinity if its
    training failed.
    """
    console = Console()
    folder: Path | None = None
    order = runs.without_secrets(order)
    try:
        launched.refuse_ranks(os.environ)
        order = _applicable(order, console)
        config = parse(order.config)
        if config.task == "verify":
            _verify(config, console)
            return None
        if config.task == "schema":
            _draft(config, console)
            return None
        if config.task == "serve":
            _serve(config, order, console)
            return None
        if config.task == "plan":
            _plan(config, order, console)
            return None
        alone = nullcontext() if sweep_folder is None else sweeps.alone(sweep_folder, order)
        with runs.disk_explained("the same command"), alone:
            trial = config.sweep.trial
            if trial is not None and (why := trials.barred(sweep_folder, order, trial)) is not None:
                console.note(f"trial {trial}", why)
                return None
            asked = order
            folder, order = _place(config, order, sweep_folder, console)
            resumed = runs.trial_of(order) if config.resume is not None else None
            if resumed is not None and (why := trials.over(folder.parent, resumed)) is not None:
                console.note(f"trial {resumed}", why)
                return None
            if (folder / runs.REPORT).exists():
                console.there_already(folder)  # and what was found of it, a broken guarantee too, stays
            else:
                runs.refuse_earlier(f"resume={folder}", order)
                if sweep_folder is not None and trial is None:
                    sweeps.forget_failure(sweep_folder, asked)
                with runs.alone(folder):
                    _carry_out(parse(order.config), order, folder, console)
    except DptrainError as error:
        code = _code(error)
        if sweep_folder is not None and isinstance(error, DoesNotApply):
            console.note("left out", str(error))
        else:
            console.error(error)
        if sweep_folder is None:
            sys.exit(code)
        _note_failure(sweep_folder, order, folder, error, code)  # the other jobs go on
    except Exception as error:
        cleansed(error)
        if sweep_folder is None:
            raise
        traceback.print_exc()  # not foreseen: whoever wrote the part that failed will want to know where
        _note_failure(sweep_folder, order, folder, error, CRASHED)
    except KeyboardInterrupt:
        begun = folder is not None and (folder / runs.ORDER).exists()
        console.interrupted(folder if begun else None)
        sys.exit(INTERRUPTED)
    finally:
        if folder is not None:
            runs.discard(folder)
    if sweep_folder is None or not sweep_budget.searching(sweep_folder):
        return None
    begun = folder is not None and (folder / runs.ORDER).exists()
    kept = kept_score(folder) if folder is not None and begun else None
    return -math.inf if kept is None else kept


def _applicable(order: runs.Order, console: Console) -> runs.Order:
    """The order without what its recipe sets for another mechanism than the one that was asked for."""
    config, left_out = without_what_does_not_apply(order.config, order.asked)
    for sentence in left_out:
        console.note("left out", sentence)
    return replace(order, config=config)


def _verify(config: Config, console: Console) -> None:
    """Check a release against its statement; exits with 3 where anything does not match."""
    from dptrain.pipeline import verify  # no training asks for it

    folder, checks = verify.run(config)
    console.verified(folder, checks)
    if any(each.holds is False for each in checks):
        sys.exit(BROKEN)


def _serve(config: Config, order: runs.Order, console: Console) -> None:
    """Answer requests with a model until the process is ended."""
    from dptrain.cli import serve  # no training asks for it

    process.settle(config.performance.threads)
    serve.serve(config, order, console)


def _draft(config: Config, console: Console) -> None:
    """Write a schema to fill in of the table that is named, beside whoever asks for it."""
    from dptrain.data import draft  # no training asks for it

    path = draft.write_draft(config.data)
    console.note("schema", f"{path}: fill in each {draft.GAP}")
    for note in draft.NOTES:
        console.note("", note)
    console.note("then", f"  {draft.command(path)}")


def _plan(config: Config, order: runs.Order, console: Console) -> None:
    """Tell what a training would cost, without it."""
    from dptrain.pipeline.plan import plan  # no training asks for it

    process.settle(config.performance.threads)
    console.forecast(plan(config, order.recipe, console, asked=order.asked))


def _place(
    config: Config, order: runs.Order, sweep_folder: Path | None, console: Console
) -> tuple[Path, runs.Order]:
    """The folder to work in, a new one or one to go on with, and what was asked for there."""
    if config.resume is not None:
        return _resumed(config, order)
    if sweep_folder is not None:
        trial = config.sweep.trial
        found = (sweeps.find if trial is None else trials.find)(sweep_folder, order)
        if found is not None:
            return found, runs.read(found)
        if trial is not None:
            order = trials.as_drawn(order, sweep_folder)
    elif config.task == "train" and (begun := runs.started_by(order, Path(config.output))) is not None:
        console.note("started again", f"by {order.started_by}: going on with {begun}")
        return begun, runs.read(begun)
    name = order.recipe if config.task == "train" else "audit"
    return runs.new_folder(sweep_folder or Path(config.output), name), order


def _carry_out(config: Config, order: runs.Order, folder: Path, console: Console) -> None:
    process.settle(config.performance.threads, processes=config.performance.processes)
    if config.task == "audit":
        from dptrain.pipeline import audit  # no training asks for it

        audit.run(config, order, folder, console)
    else:
        with launched.together(config.performance) as ranks:
            train.run(config, order, folder, study_of(config, order, folder), console, ranks=ranks)


def _note_failure(
    sweep_folder: Path, order: runs.Order, folder: Path | None, error: Exception, code: int
) -> None:
    """Remember a failure with the sweep, and with the job as far as it got."""
    with suppress(Unwritable):  # of a full disk the error itself tells
        sweeps.note_failure(sweep_folder, order, error, code)
        if folder is not None and (folder / runs.ORDER).exists():
            runs.remember(folder, error=redact(str(error)))


def _code(error: DptrainError) -> int:
    if isinstance(error, BrokenGuarantee):
        return BROKEN
    return BEYOND if isinstance(error, LimitExceeded) else FAILED


def _resumed(config: Config, order: runs.Order) -> tuple[Path, runs.Order]:
    """The folder and the original order; a resumed run is the run it was, so nothing may be overridden.

    Secrets that no file keeps may be given again.
    """
    folder, before = runs.find(str(config.resume), Path(config.output))
    others = [
        o
        for o in order.overrides
        if o.partition("=")[0] not in ("resume", "output") and not given_again(before.config, o)
    ]
    if others:
        raise ConfigError(
            f"resume={config.resume} continues a run as it was started; leave out {' '.join(others)}, "
            "or start a new run"
        )
    runs.refuse_complete(str(config.resume), folder)
    runs.refuse_given(f"resume={config.resume}", before)
    return folder, before
