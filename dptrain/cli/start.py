"""What is refused before a configuration is composed; and a sweep that is stopped while others work.

Nothing heavy is imported here: `--help` and `--cfg job` do not wait for PyTorch.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dptrain.cli import explain, launched
from dptrain.cli.files import folder
from dptrain.config.rules import key_of, renamed
from dptrain.config.schema import RENAMED
from dptrain.installed import own_version
from dptrain.redaction import withheld_arguments

CRASHED, FAILED, BROKEN, BEYOND, INTERRUPTED, UNREAD = 1, 2, 3, 4, 130, 141  # exit codes
FULL = "HYDRA_FULL_ERROR"


def write_any_text() -> None:
    """Write `?` for a character that the output's encoding lacks, such as an epsilon in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def check(arguments: Sequence[str]) -> None:
    """Refuse what no run or sweep may begin with; exits with 2; with 0 after versions or recipes."""
    if "--version" in arguments:
        print(version())
        sys.exit(0)
    if "recipe=" in arguments:
        print("\n".join(["recipe=NAME, one of", *explain.recipes(folder("recipes"))]))
        sys.exit(0)
    if (why := launched.ranks(os.environ)) is not None:
        refuse(why)
    refuse_renamed(arguments)
    shown = dict(zip(arguments, withheld_arguments(arguments), strict=True))
    if words := several(arguments):
        words = [shown[word] for word in words]
        as_text = shlex.quote(explain.quoted(*words[0].partition("=")[::2]))
        refuse(
            f"{' and '.join(words)}: several values for one run; give one (decimals have a point: 3.0), or "
            f"add -m to run with each, or quote a text: {as_text}"
        )
    for word in arguments:  # what Hydra is not given as it was written, and could not refuse
        if shown[word] == word or "=" not in word or word.startswith("-"):
            continue
        if not explain.reads(word):
            refuse(explain.unreadable(word))
        if len(choices(shown[word])) < len(choices(word)):
            refuse(
                f"{shown[word]}: several values of a secret, and jobs of a sweep are told apart by what can "
                "be shown of them; give one"
            )


def version() -> str:
    """The version of this program and of what its numbers stand on."""
    others = (f"{name} {metadata.version(name)}" for name in ("torch", "opacus", "mlflow"))
    return f"dptrain {own_version()} ({', '.join(others)})"


@contextmanager
def hydra_explained(words: Sequence[str]) -> Iterator[None]:
    """Where Hydra refuses what was asked for, that in a sentence, and exit code 2; our own errors stay.

    With HYDRA_FULL_ERROR=1 Hydra's own words, and where it was.
    """
    if os.environ.get(FULL) == "1":
        yield
        return
    os.environ[FULL] = "1"  # or Hydra would print what went wrong, and exit with 1
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and _within(error, "hydra/core/utils.py"):
            where = f"{error.filename} cannot be made ({error.strerror})"
            refuse(f"hydra.run.dir, or hydra.output_subdir: {where}; name another folder")
        if not _of_hydra(error):
            raise
        refuse(explain.explained(error, words, folder("conf")))
    finally:
        os.environ.pop(FULL, None)


def _within(error: Exception, file: str) -> bool:
    """Whether an error was raised below a function of this file, and not by a job."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return any(name.endswith(file) for name in files) and not any("cli/main.py" in name for name in files)


def _of_hydra(error: Exception) -> bool:
    """Whether Hydra, or what reads its YAML, refuses a configuration: no launcher, no job, no bug of ours."""
    if isinstance(error, HydraException | OmegaConfBaseException | YAMLError):
        return not any("cli/main.py" in frame.filename for frame in traceback.extract_tb(error.__traceback__))
    *_, last = traceback.extract_tb(error.__traceback__)
    return isinstance(error, AssertionError | ValueError) and bool(
        {"hydra", "omegaconf"} & {*Path(last.filename).parts}
    )


SWEEPS = ("+sweep=", "++sweep=", "hydra.mode=MULTIRUN")  # words that make of a run a sweep


def several(arguments: Sequence[str]) -> list[str]:
    """Words of a command line that give several values, where no sweep (`-m`, `+sweep=`) is asked for.

    >>> several(["privacy.epsilon=3,0", "seed=1"]), several(["-m", "privacy.epsilon=1,3"])
    (['privacy.epsilon=3,0'], [])
    """
    if {"-m", "--multirun"} & set(arguments) or any(word.startswith(SWEEPS) for word in arguments):
        return []
    given = [word for word in arguments if "=" in word and not word.startswith("-")]
    return [word for word in given if choices(word)]


def choices(word: str) -> set[str]:
    """The values among which a word of the command line lets a sweep choose; none where it gives one value.

    >>> sorted(choices("seed=1,2")), choices("seed=1")
    (['1', '2'], set())
    """
    with suppress(HydraException):  # which Hydra, asked next, explains by itself
        (parsed,) = OverridesParser.create().parse_overrides([word])
        if parsed.is_sweep_override():
            value = parsed.value()
            return {str(each) for each in value.list} if isinstance(value, ChoiceSweep) else {word}
    return set()


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


@contextmanager
def errors_explained() -> Iterator[None]:
    """Where processes that were started together cannot be one run, that in a sentence, and exit code 2."""
    try:
        yield
    except Exception as error:
        from dptrain.contracts import DptrainError  # as below

        if not isinstance(error, DptrainError):
            raise
        refuse(str(error))


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
