"""Processes that a launcher started for one run, or that a run starts beside itself."""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from dptrain.cli import process
from dptrain.config.schema import RANK_SECONDS, Performance

if TYPE_CHECKING:
    from dptrain.training.processes import Ranks

# By launcher: the variables that say how many processes it started for one and the same job, and which of
# them this is. A job of one task has 1 there; SLURM_NTASKS is set for a batch script too, which runs once,
# and is no sign.
KNOWN = {
    "WORLD_SIZE": ("torchrun", ("RANK", "MASTER_ADDR", "MASTER_PORT")),
    "SLURM_STEP_NUM_TASKS": ("srun", ("SLURM_PROCID",)),
}
OTHERS = {"OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpirun", "MV2_COMM_WORLD_SIZE": "mpirun"}
PLACES = ("RANK", "LOCAL_RANK", "GROUP_RANK")  # above 0 only beside others


def refuse_ranks(environment: Mapping[str, str]) -> None:
    """Raise ConfigError where this process is one of several that cannot find each other.

    >>> refuse_ranks({"WORLD_SIZE": "1", "RANK": "0", "SLURM_NTASKS": "4"})
    """
    if (why := ranks(environment)) is not None:
        from dptrain.contracts import ConfigError  # with PyTorch, which takes seconds

        raise ConfigError(why)


def ranks(environment: Mapping[str, str]) -> str | None:
    """Why this process may not run; None: it is alone, or knows its place among the others.

    Each would else train a model of its own on the same records and claim the whole budget for it.
    """
    for name, launcher in OTHERS.items():
        if _number(environment, name) > 1 and launcher_of(environment) is None:
            return (
                f"{name}={environment[name]}: {launcher} started dptrain {environment[name]} times for one "
                f"run, and each process would train a model that claims the whole budget; start it by "
                "torchrun or srun, or once with performance.processes"
            )
    for name, (launcher, needed) in KNOWN.items():
        missing = [each for each in needed if not environment.get(each)]
        if _number(environment, name) > 1 and missing:
            return (
                f"{name}={environment[name]}: {launcher} started dptrain {environment[name]} times for one "
                f"run, but does not say {', '.join(missing)}, so that each process would train a model that "
                f"claims the whole budget; start it by torchrun or srun, or once with performance.processes"
            )
    for name in PLACES:
        if _number(environment, name) > 0 and launcher_of(environment) is None:
            return (
                f"{name}={environment[name]}: this process is one of several that were started for one run, "
                "and each would train a model that claims the whole budget; start it by torchrun or srun, "
                "or once with performance.processes"
            )
    return None


def launcher_of(environment: Mapping[str, str]) -> str | None:
    """What started this process as one of several that find each other; None where it is alone.

    >>> launcher_of({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"})
    'torchrun'
    """
    for name, (launcher, needed) in KNOWN.items():
        if _number(environment, name) > 1 and all(map(environment.get, needed)):
            return launcher
    return None


def job(environment: Mapping[str, str]) -> str | None:
    """The launcher's job that started this process, by a name that is the same where it starts it again.

    >>> job({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "1"})
    'Slurm job 7.0'
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        return f"torchrun {environment['TORCHELASTIC_RUN_ID']}, process {os.getppid()} of {platform.node()}"
    if "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" in environment:
        return f"Slurm job {environment['SLURM_JOB_ID']}.{environment['SLURM_STEP_ID']}"
    return None


_launched: Ranks | None = None  # of this process, where a launcher started it as the first of several


@contextmanager
def joined(words: Sequence[str], environment: Mapping[str, str]) -> Iterator[int | None]:
    """Within, this process and those that a launcher started beside it are one; the first does what follows.

    Gives None where there is something to do; to all others the exit code, once the first has done it.
    """
    global _launched
    if launcher_of(environment) is None:
        yield None
        return
    from dptrain.training.processes import Ranks, work  # with PyTorch, which takes seconds
    from dptrain.training.ranks import launched

    given = dict(word.lstrip("+").partition("=")[::2] for word in words)
    seconds = RANK_SECONDS
    with suppress(ValueError):  # of which the run's own configuration tells
        seconds = float(given.get("performance.rank_seconds", seconds))
    place = launched(environment, seconds=seconds)
    assert place is not None, "a launcher started it"
    if place.rank > 0:
        with suppress(ValueError):  # outside the main thread, where Ctrl-C does not arrive anyway
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the first, which ends the others
        threads = given.get("performance.threads", "")
        process.settle(int(threads) if threads.isdecimal() else None)
        if code := work(place):
            print(f"error  rank {place.rank}: the first rank is gone, or cannot be reached", file=sys.stderr)
        yield code
        return
    trusted = given.get("performance.private_network", "").lower() == "true"
    with Ranks(place.size, seconds=place.seconds, launched=place, trusted=trusted) as _launched:
        try:
            yield None
        finally:
            _launched = None


def refuse_one_of_several(environment: Mapping[str, str]) -> None:
    """Raise ConfigError where a launcher started this process as one of several, and they are not one run."""
    from dptrain.contracts import ConfigError  # as above

    refuse_ranks(environment)
    if (launcher := launcher_of(environment)) is not None and _launched is None:
        raise ConfigError(
            f"{launcher} started several processes for one run, and each would train a model that claims the "
            "whole budget; call dptrain.run within `with dptrain.ranks() as first:`, `if first:`"
        )


@contextmanager
def together(performance: Performance) -> Iterator[Ranks | None]:
    """Within, the processes that compute a run: started here, or by a launcher; None: this one alone."""
    from dptrain.contracts import ConfigError  # as above
    from dptrain.training.processes import Ranks

    size, sharded = performance.processes, performance.sharding == "fsdp2"
    if sharded and size == 1 and _launched is None:
        raise ConfigError(
            "performance.sharding=fsdp2 divides a model among processes, and there is one; set "
            "performance.processes=2, start it by torchrun or srun, or leave performance.sharding out"
        )
    if _launched is not None:
        if size not in (1, _launched.size):
            raise ConfigError(
                f"performance.processes={size}: a launcher started {_launched.size} processes for this run; "
                "leave performance.processes out"
            )
        _launched.sharded = sharded
        yield _launched
    elif size > 1:
        import torch

        threads = torch.get_num_threads()
        with Ranks(size, seconds=performance.rank_seconds, threads=threads, sharded=sharded) as ranks:
            yield ranks
    else:
        yield None


def _number(environment: Mapping[str, str], name: str) -> int:
    """A variable's whole number; 0 where it is not set or says something else."""
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else 0
