"""What a run asks of the machine that it works on."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Any

# mallopt(3); the threshold is the largest that glibc takes, and trimming beyond 2 GiB as good as never.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = {MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 2**31 - 1}


def threads_each(launcher: Mapping[str, Any], processes: int) -> int | None:
    """Threads of each of a job's processes, as its launcher divides the cores; None where it does so itself.

    Raises ConfigError where jobs at once have more processes than this machine has cores.

    >>> threads_each({"cpus_per_task": 8}, 2), threads_each({"n_jobs": 1}, 1)
    (4, None)
    """
    if cores := launcher.get("cpus_per_task"):
        return max(1, int(cores) // processes)
    jobs = launcher.get("n_jobs")
    if jobs == 0:
        from dptrain.contracts import ConfigError  # with PyTorch, which takes seconds: only to fail

        raise ConfigError("hydra.launcher.n_jobs=0 does no job; give how many at once, or -1 for one a core")
    if processes == 1 or not jobs:
        return None
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    together = processes * (int(jobs) if int(jobs) > 0 else max(1, here + 1 + int(jobs)))
    if together > here:
        from dptrain.contracts import ConfigError  # likewise

        raise ConfigError(
            f"hydra.launcher.n_jobs={jobs} and performance.processes={processes}: {together} processes at "
            f"once on {here} cores; lower one of them"
        )
    return here // together


def settle(threads: int | None, *, processes: int = 1) -> None:
    """Take so many CPU threads, and keep memory between steps.

    None: as many as there are now, divided among the `processes` of a run.
    """
    if threads is None and processes > 1:
        import torch  # as below

        threads = max(1, torch.get_num_threads() // processes)
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
