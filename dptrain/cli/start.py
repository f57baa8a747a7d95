"""What is refused before a configuration is composed; and a sweep that is stopped while others work.

Nothing heavy is imported here: `--help` and `--cfg job` do not wait for PyTorch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from dptrain.cli import process
from dptrain.config.rules import key_of, renamed
from dptrain.config.schema import RENAMED

FAILED, INTERRUPTED = 2, 130


def check(arguments: Sequence[str]) -> None:
    """Refuse what no run or sweep may begin with; exits with 2."""
    if (why := process.ranks(os.environ)) is not None:
        refuse(why)
    refuse_renamed(arguments)
    if words := several(arguments):
        refuse(
            f"{' and '.join(words)}: several values for one run; give one (decimals have a point: 3.0), or "
            "add -m to run with each"
        )


SWEEPS = ("+sweep=", "++sweep=", "hydra.mode=MULTIRUN")  # words that make of a run a sweep


def several(arguments: Sequence[str]) -> list[str]:
    """Words of a command line that give several values, where no sweep (`-m`, `+sweep=`) is asked for.

    >>> several(["privacy.epsilon=3,0", "seed=1"]), several(["-m", "privacy.epsilon=1,3"])
    (['privacy.epsilon=3,0'], [])
    """
    if {"-m", "--multirun"} & set(arguments) or any(word.startswith(SWEEPS) for word in arguments):
        return []
    parser, found = OverridesParser.create(), []
    for word in arguments:
        if "=" not in word or word.startswith("-"):
            continue
        with suppress(HydraException):  # which Hydra, asked next, explains by itself
            found += [word for each in parser.parse_overrides([word]) if each.is_sweep_override()]
    return found


def with_table(arguments: Sequence[str]) -> list[str]:
    """Words of a command line, of which `task=schema` is about a table even where no data are chosen.

    >>> with_table(["task=schema", "data.path=loans.csv"])
    ['task=schema', 'data=tabular', 'data.path=loans.csv']
    """
    if "task=schema" not in arguments or any(key_of(word) == "data" for word in arguments):
        return list(arguments)
    place = arguments.index("task=schema") + 1  # argparse takes words that stand side by side only
    return [*arguments[:place], "data=tabular", *arguments[place:]]


def refuse_renamed(words: Iterable[str]) -> None:
    """Exit with 2 where words of a command line name keys as an earlier version called them."""
    if problems := [renamed(word) for word in words if key_of(word) in RENAMED]:
        refuse("\n".join(problems))


def refuse(why: str) -> NoReturn:
    from dptrain.contracts import ConfigError  # with PyTorch, which takes seconds: only to fail
    from dptrain.report.console import Console

    Console().error(ConfigError(why))
    sys.exit(FAILED)


def stopped(sweep_folder: Path | None) -> NoReturn:
    """Say how a sweep goes on whose jobs are with a launcher; exits with 130."""
    from dptrain.report.console import Console  # which imports much

    Console().interrupted(sweep_folder, sweep=True)
    sys.exit(INTERRUPTED)
