"""The processes that compute a run together: how they find each other, and what they say to each other.

The first, rank 0, is where the run is; the others help it. What goes to and fro is a message of the first,
which all others hear at once, and a reply of each. PyTorch's own collectives carry it (gloo on CPUs, NCCL on
GPUs): messages are pickled, so that who can reach the ranks' ports has all that they have.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from dptrain.contracts import ConfigError, DptrainError, devices

BEATS = 5  # signs of life within the time after which a rank is given up
TLS = "TCP_TLS"  # what GLOO_DEVICE_TRANSPORT says where connections are encrypted


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where this process stands among those of its run."""

    rank: int
    size: int
    seconds: float  # without a sign of life, after which a rank is given up
    meeting: str = "env://"  # where ranks find each other, as torch.distributed writes it


def launched(environment: Mapping[str, str], *, seconds: float) -> Place | None:
    """This process's place where torchrun or srun started it as one of several; None where it is alone.

    >>> launched({"WORLD_SIZE": "1", "RANK": "0"}, seconds=60) is None
    True
    >>> launched({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, seconds=60).rank
    1
    """
    if (size := _number(environment, "WORLD_SIZE", "1", least=1)) > 1:
        return Place(rank=_rank(environment, "RANK", "WORLD_SIZE", size), size=size, seconds=seconds)
    size = _number(environment, "SLURM_STEP_NUM_TASKS", "1", least=1)
    if size > 1:
        rank = _rank(environment, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", size)
        return Place(rank=rank, size=size, seconds=seconds, meeting=_slurm(environment))
    return None


def _rank(environment: Mapping[str, str], name: str, of: str, size: int) -> int:
    """The number of this process among so many; raises ConfigError where it is none of them."""
    rank = _number(environment, name, "", least=0)
    if rank >= size:
        raise ConfigError(
            f"{name}={rank} is beyond {of}={size}, of which the first is 0; start them by torchrun or srun, "
            "which sets both"
        )
    return rank


def _number(environment: Mapping[str, str], name: str, default: str, *, least: int) -> int:
    """A whole number that a launcher sets; raises ConfigError where it is none."""
    text = environment.get(name, default)
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise ConfigError(
            f"{name}={text} is no whole number of {least} or more; unset it, or start it by torchrun or srun"
        )
    return int(text)


def _slurm(environment: Mapping[str, str]) -> str:
    """Where the tasks of a Slurm step meet: on its first node, at a port of the job's own."""
    first = environment.get("MASTER_ADDR")
    if first is None:
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
        first = nodes
        if "[" in nodes or "," in nodes:
            found = subprocess.run(
                ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False
            )
            first = found.stdout.split("\n")[0].strip()
    if not first:
        raise ConfigError("MASTER_ADDR is not set, and Slurm does not say which node is the first; export it")
    port = (
        environment.get("MASTER_PORT") or 20000 + _number(environment, "SLURM_JOB_ID", "0", least=0) % 20000
    )
    return f"tcp://{first}:{port}"


class Alive:
    """A sign of life, of which nothing follows."""


class Done:
    """The run needs no help any more."""


class Channel:
    """What one rank hears and says; all ranks make the same calls in the same order."""

    def __init__(self, place: Place) -> None:
        """Join the others; raises DptrainError where they are not there in time."""
        self.rank, self.size = place.rank, place.size
        self.broken = False  # whether others wait for something that does not come
        limit = timedelta(seconds=place.seconds)
        try:
            if dist.is_initialized():  # by whoever started the ranks, such as Ray Train
                self._group: Any = dist.new_group(timeout=limit, backend="gloo")
                self._own = False
            else:
                local = place.meeting.startswith("file://")
                store, rank, size = next(rendezvous(place.meeting, place.rank, place.size, timeout=limit))
                # A launcher that starts ranks again may keep what those before them left in its store.
                again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
                with _on_loopback() if local else nullcontext():
                    dist.init_process_group(
                        devices.collectives(),
                        store=PrefixStore(f"dptrain/{again}", store),
                        rank=rank,
                        world_size=size,
                        timeout=limit,
                    )
                self._group, self._own = None, True
        except (RuntimeError, ValueError, OSError) as error:
            raise DptrainError(
                f"ranks: {place.size} processes cannot find each other: {_line(error)}"
            ) from error

    def leave(self) -> None:
        if self._own and dist.is_initialized():
            dist.destroy_process_group()

    def say(self, message: object) -> None:
        """Of the first rank: tell all others."""
        content = torch.frombuffer(bytearray(cloudpickle.dumps(message)), dtype=torch.uint8)
        dist.broadcast(torch.tensor([len(content)]), 0, group=self._group)
        dist.broadcast(content, 0, group=self._group)

    def hear(self) -> Any:
        """Of the others: what the first rank says."""
        length = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(length, 0, group=self._group)
        content = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(content, 0, group=self._group)
        return cloudpickle.loads(content.numpy().data)

    def same(self, tensor: Tensor) -> None:
        """Give this tensor the first rank's values, in place."""
        dist.broadcast(tensor, 0, group=self._group)

    def sum(self, tensor: Tensor) -> None:
        """Add up all ranks' tensors in the first one's, in place."""
        dist.reduce(tensor, 0, group=self._group)

    def gather(self, reply: object) -> list[Any]:
        """All ranks' replies, by rank, in the first one; nothing in the others."""
        found: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(reply, found, 0, group=self._group)
        return found or []


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Within, gloo listens on this machine's loopback alone."""
    before = os.environ.get("GLOO_SOCKET_IFNAME")
    if before is None:
        os.environ["GLOO_SOCKET_IFNAME"] = next(
            (n for _, n in socket.if_nameindex() if n.startswith("lo")), "lo"
        )
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("GLOO_SOCKET_IFNAME", None)


def encrypted(environment: Mapping[str, str]) -> bool:
    """Whether gloo was told to encrypt what ranks say."""
    return environment.get("GLOO_DEVICE_TRANSPORT", "").upper() == TLS


class Heartbeat:
    """Signs of life of the first rank while it has nothing else to say."""

    def __init__(self, beat: Callable[[], None], seconds: float) -> None:
        self.lock = threading.Lock()  # held while anything else is said
        self._beat, self._seconds = beat, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go, name="dptrain-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _go(self) -> None:
        while not self._over.wait(self._seconds / BEATS):
            if not self.lock.acquire(blocking=False):
                continue
            try:
                self._beat()
            except RuntimeError:  # a rank is gone, which whoever speaks next finds out
                return
            finally:
                self.lock.release()


def _line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).strip().partition("\n")[0]
