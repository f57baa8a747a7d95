"""The command line's manners: what was asked for, where it runs, how it ends."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from dptrain import audit, pipeline, runs, sweep
from dptrain.config import Config, parse
from dptrain.contracts import BrokenGuarantee, ConfigError, DptrainError, LimitExceeded
from dptrain.report.console import Console

CRASHED, FAILED, BROKEN, BEYOND, INTERRUPTED = 1, 2, 3, 4, 130


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
        sweep.note_failure(sweep_folder, order, error, code)  # the other jobs go on
    except Exception as error:
        if sweep_folder is not None:
            sweep.note_failure(sweep_folder, order, error, CRASHED)
        raise
    except KeyboardInterrupt:
        console.interrupted(folder)
        sys.exit(INTERRUPTED)


def conclude(sweep_folder: Path) -> None:
    """What is left when the jobs of a sweep are done; exits with the gravest code of those that failed."""
    console = Console()
    failed = sweep.read_notes(sweep_folder).get("failed", {}) if sweep_folder.exists() else {}
    for job, failure in failed.items():
        console.error(DptrainError(f"failed: {job}\n{failure['error']}"))
    if failed:
        sys.exit(max(failure["code"] for failure in failed.values()))


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
