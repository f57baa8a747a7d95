"""python -m dptrain: hydra.main, and nothing else."""

from __future__ import annotations

import os
import sys

import hydra
from omegaconf import DictConfig

from dptrain.cli import explain, launched, start
from dptrain.cli.files import folder
from dptrain.cli.hydra import SweepStart, order, register
from dptrain.redaction import withheld_arguments

register()


@hydra.main(version_base="1.3", config_path=str(folder("conf")), config_name="config")
def main(config: DictConfig) -> float | None:
    """Compose what was asked for, and do it; what it returns, a search by results looks at."""
    from dptrain.cli import main as cli  # with PyTorch, for which `--help` and `--cfg job` need not wait

    return cli.main(*order(config))


def run() -> None:
    """The program; `main` is what a launcher carries to other processes."""
    start.write_any_text()
    try:
        with start.errors_explained(), launched.joined(sys.argv[1:], os.environ) as helped:
            if helped is not None:
                sys.exit(helped)
            sys.argv[1:] = explain.expanded(sys.argv[1:])
            start.check(sys.argv[1:])
            # Hydra writes what it is asked for into files, and launchers hand it on: secrets go another way.
            sys.argv[1:] = start.with_table(withheld_arguments(sys.argv[1:]))
            with start.hydra_explained(sys.argv[1:]):
                main()
    except KeyboardInterrupt:  # while others work: a job at work here answers for itself
        start.stopped(SweepStart.folder)
    except BrokenPipeError:  # whoever read what is printed, such as `head`, reads no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(start.UNREAD)


if __name__ == "__main__":
    run()
