"""The command line's manners: what was asked for, where it runs, how it ends."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from dptrain import audit, pipeline, runs
from dptrain.config import Config, parse
from dptrain.contracts import BrokenGuarantee, ConfigError, DptrainError, LimitExceeded
from dptrain.report.console import Console

FAILED, BROKEN, BEYOND, INTERRUPTED = 2, 3, 4, 130


def main(order: runs.Order, sweep_folder: Path | None) -> None:
    """Carry out an order; exits with 2 on errors, 3 on a broken guarantee, 4 on `fail_if`, 130 on Ctrl-C."""
    console = Console()
    folder: Path | None = None
    try:
        config = parse(order.config)
        if config.resume is not None:
            folder, order = _resumed(config, order)
            config = parse(order.config)
        else:
            name = order.recipe if config.task == "train" else "audit"
            folder = runs.new_folder(sweep_folder or Path(config.output), name)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        run = audit.run if config.task == "audit" else pipeline.run
        run(config, order, folder, console)
    except BrokenGuarantee as error:
        console.error(error)
        sys.exit(BROKEN)
    except LimitExceeded as error:
        console.error(error)
        sys.exit(BEYOND)
    except DptrainError as error:
        console.error(error)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        console.interrupted(folder)
        sys.exit(INTERRUPTED)


def _resumed(config: Config, order: runs.Order) -> tuple[Path, runs.Order]:
    """The folder and the original order; a resumed run is the run it was, so nothing may be overridden."""
    others = [o for o in order.overrides if o.partition("=")[0] not in ("resume", "output")]
    if others:
        raise ConfigError(
            f"resume={config.resume} continues a run as it was started; leave out {' '.join(others)}, "
            "or start a new run"
        )
    return runs.find(str(config.resume), Path(config.output))
