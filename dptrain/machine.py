"""What a run asks of the machine that it works on."""

from __future__ import annotations

import ctypes
import os

import torch

# mallopt(3); the threshold is the largest that glibc takes, and trimming beyond 2 GiB as good as never.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = {MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 2**31 - 1}


def settle(threads: int | None) -> None:
    """Take so many CPU threads, None for as many as there are now, and keep memory between steps."""
    if threads is not None:
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
