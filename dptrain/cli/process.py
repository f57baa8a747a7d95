"""What a run asks of the machine that it works on."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

# mallopt(3); the threshold is the largest that glibc takes, and trimming beyond 2 GiB as good as never.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = {MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 2**31 - 1}


# By launcher of ranks: the variable that says how many processes it started for one and the same job. A
# job of one task has 1 there; SLURM_NTASKS is set for a batch script too, which runs once, and is no sign.
STARTED = {
    "WORLD_SIZE": "torchrun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "SLURM_STEP_NUM_TASKS": "srun",
}
PLACES = ("RANK", "LOCAL_RANK", "GROUP_RANK")  # above 0 only beside others


def refuse_ranks(environment: Mapping[str, str]) -> None:
    """Raise ConfigError where a launcher of ranks started this process as one of several.

    >>> refuse_ranks({"WORLD_SIZE": "1", "RANK": "0", "SLURM_NTASKS": "4"})
    """
    if (why := ranks(environment)) is not None:
        from dptrain.contracts import ConfigError  # with PyTorch, which takes seconds

        raise ConfigError(why)


def ranks(environment: Mapping[str, str]) -> str | None:
    """Why this process may not run: a launcher of ranks started it as one of several; None: it is alone.

    Each would train a model of its own on the same records and claim the whole budget for it.
    """
    for name, launcher in STARTED.items():
        if _number(environment, name) > 1:
            return (
                f"{name}={environment[name]}: {launcher} started dptrain {environment[name]} times for one "
                f"run, and each process would train a model that claims the whole budget; start it once, "
                f"without {launcher}"
            )
    for name in PLACES:
        if _number(environment, name) > 0:
            return (
                f"{name}={environment[name]}: this process is one of several that were started for one run, "
                "and each would train a model that claims the whole budget; start dptrain once, without a "
                "launcher of ranks"
            )
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    """A variable's whole number; 0 where it is not set or says something else."""
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else 0


def settle(threads: int | None) -> None:
    """Take so many CPU threads, None for as many as there are now, and keep memory between steps."""
    if threads is not None:
        import torch  # which takes seconds: `--help` does not wait for it

        torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next step; whether it does.

    A step of training allocates the same few megabytes again and again. By default glibc gives most of
    them back to the kernel, which hands them out anew page by page: for a small CNN that takes as long
    as the step's arithmetic. The peak of memory stays, the troughs go. Other allocators (macOS, musl,
    jemalloc), and settings of glibc's made in the environment, are left as they are.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and all(mallopt(which, size) for which, size in LARGEST.items())
