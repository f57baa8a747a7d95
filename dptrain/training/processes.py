"""The processes of a run: started here, or found where a launcher of ranks started them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from dptrain.contracts import ConfigError, DptrainError, devices
from dptrain.privacy.noise.source import NoiseSource
from dptrain.training.distribution import Job, Made, Reply, Round, Team, Work, accepted
from dptrain.training.helping import help_with
from dptrain.training.leading import Leader
from dptrain.training.ranks import Alive, Channel, Done, Heartbeat, Place, encrypted
from dptrain.training.sharding import ShardedJob, Shards

HELPER = "dptrain.cli.rank"  # the module that a started process runs
ENDED_WITHIN = 10.0  # seconds, for one that is told that the run is done
READY_WITHIN = 300.0  # seconds, for a started process to have imported what it needs


class Ranks:
    """The processes that compute a run together; this one is the first. They are started on entering."""

    def __init__(
        self,
        size: int,
        *,
        seconds: float,
        threads: int | None = None,
        launched: Place | None = None,
        trusted: bool = False,
        sharded: bool = False,
    ) -> None:
        """So many processes of so many `threads`, given up after so many seconds without a sign of life.

        `launched` is this one's place where a launcher started them all; else they are started on this
        machine. On several machines, the network must be `trusted`, or encrypted. Where models are `sharded`,
        each holds a part of what is trained.
        """
        self.size = size if launched is None else launched.size
        self.seconds, self.threads, self.launched, self.trusted = seconds, threads, launched, trusted
        self.sharded = sharded
        self._folder: Path | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        self._channel: Channel | None = None
        self._heart: Heartbeat | None = None
        self.hosts: tuple[str, ...] = ()

    def __enter__(self) -> Ranks:
        if self.launched is None:
            self._start()
        else:
            self._joined()  # or the others would wait for a run that needs no help
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._heart is not None:
            self._heart.stop()
        if self._channel is not None and self._channel.broken:
            for process in self._started:
                process.kill()
            self._channel.leave()
        elif self._channel is not None:
            with suppress(RuntimeError):  # a rank is gone, which was told, or matters no more
                self._channel.say(Done())
            self._channel.leave()
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0 if self._channel is None else ENDED_WITHIN)
            process.kill()
            process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def way(self) -> str:
        """By what way they reach each other, to end a sentence with."""
        if len(self.hosts) <= 1:
            return " on one machine, over its loopback" if self.launched is None else " on one machine"
        sealed = "encrypted (TLS)" if encrypted(os.environ) else "over a network declared private"
        return f" between {', '.join(self.hosts)}, {sealed}"

    @contextmanager
    def team(self, job: object) -> Iterator[Team]:
        """Within, all processes work on this training; raises DptrainError where one of them cannot."""
        assert isinstance(job, Job)
        channel = self._joined()
        assert self._heart is not None
        with self._heart.lock, self._or_lost():
            channel.say(job)
            accepted(channel.gather(Reply())[1:])
        team = Team(channel, self._heart.lock, self._or_lost)
        try:
            yield team
        finally:
            team.finish()

    @contextmanager
    def shards(
        self, job: object, model: nn.Module, *, device: torch.device, noise: NoiseSource | None
    ) -> Iterator[Leader]:
        """Within, all processes hold parts of this training; `model` is its trained part with its weights."""
        assert isinstance(job, ShardedJob)
        channel = self._joined()
        assert self._heart is not None
        values = {name: each.detach() for name, each in model.named_parameters()}
        with self._heart.lock, self._or_lost():
            channel.say(job)
            shards = Shards(job, channel, device, values)
            accepted(channel.gather(Reply())[1:])
        leader = Leader(shards, channel, self._heart.lock, self._or_lost, noise, model)
        try:
            yield leader
        finally:
            leader.finish()

    def each(self, call: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """What this function makes of each of these items, in their order, one at a time by each process.

        Raises DptrainError where a process fails at one, and what the function raises in this one.
        """
        channel = self._joined()
        assert self._heart is not None
        with self._heart.lock:
            with self._or_lost():
                channel.say(Work(call=call))
            for start in range(0, len(items), self.size):
                some = tuple(items[start : start + self.size])
                with self._or_lost():
                    channel.say(Round(items=some))
                try:
                    mine = call(some[0])
                finally:  # whatever becomes of it, the others reply
                    with self._or_lost():
                        replies: list[Made] = channel.gather(Made())[1:]
                accepted([each.reply for each in replies])
                yield mine
                yield from (each.value for each in replies[: len(some) - 1])

    def _start(self) -> None:
        """Start the others on this machine; they get ready while this process does other things."""
        self._folder = Path(tempfile.mkdtemp(prefix="dptrain-ranks-"))  # 0700: no other user finds the ranks
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        for rank in range(1, self.size):
            words = [str(rank), str(self.size), str(self.seconds), str(self._folder), str(self.threads or 0)]
            with (self._folder / f"{rank}.log").open("wb") as log:
                self._started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", HELPER, *words],
                        env={**environment, "LOCAL_RANK": str(rank)},  # whose GPU is its own
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,  # Ctrl-C is for the first, which ends the others
                    )
                )

    def _joined(self) -> Channel:
        if self._channel is not None and self._channel.broken:
            raise DptrainError(
                "ranks: a training that was divided among processes was interrupted, and they can do nothing "
                "more; start the run again"
            )
        if self._channel is None:
            if self._folder is not None:
                self._wait()
            place = self.launched or Place(
                rank=0, size=self.size, seconds=self.seconds, meeting=f"file://{self._folder}/meeting"
            )
            with self._or_lost():
                self._channel = Channel(place)
                machines = dict.fromkeys(self._channel.gather(machine()))  # of which two may have one name
                self.hosts = tuple(name for name, _ in machines)
            self._refuse_open_network()
            self._heart = Heartbeat(self._beat, self.seconds)
        return self._channel

    def _wait(self) -> None:
        """Until every started process has imported what it needs; raises DptrainError where one ends."""
        assert self._folder is not None
        ends = time.monotonic() + READY_WITHIN
        while not all((self._folder / f"{rank}.ready").exists() for rank in range(1, self.size)):
            for rank, process in enumerate(self._started, 1):
                if process.poll() is not None:
                    said = (self._folder / f"{rank}.log").read_text(errors="replace").strip()
                    raise DptrainError(f"performance.processes: rank {rank} did not start: {said[-500:]}")
            if time.monotonic() > ends:
                raise DptrainError(
                    f"performance.processes={self.size}: they did not start in {READY_WITHIN:g} seconds"
                )
            time.sleep(0.05)

    def _refuse_open_network(self) -> None:
        if len(self.hosts) > 1 and not (self.trusted or encrypted(os.environ)):
            raise ConfigError(
                f"performance.private_network: ranks are on {', '.join(self.hosts)}, and sums without noise "
                "would cross the network between them as they are; set "
                "performance.private_network=true if nobody else can read it, or encrypt it "
                "(GLOO_DEVICE_TRANSPORT=TCP_TLS)"
            )

    def _beat(self) -> None:
        assert self._channel is not None
        self._channel.say(Alive())

    @contextmanager
    def _or_lost(self) -> Iterator[None]:
        """Within, a rank that is gone is one error, which names it."""
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> DptrainError:
        """That another process is gone, and which, as far as is known."""
        gone = [(rank, p.poll()) for rank, p in enumerate(self._started, 1) if p.poll() is not None]
        who = ", ".join(f"rank {rank} ended (exit code {code})" for rank, code in gone)
        why = str(error).strip().partition("\n")[0][:200]
        return DptrainError(
            f"ranks: {who or 'another process of this run cannot be reached'}, and the run cannot go on "
            f"without it ({why}); go on with resume=latest, with as many processes as you like"
        )


def machine() -> tuple[str, str]:
    """The name of this machine, and what tells it apart from others of that name."""
    booted = Path("/proc/sys/kernel/random/boot_id")
    return platform.node(), booted.read_text().strip() if booted.exists() else str(uuid.getnode())


def of_the_first(channel: Channel) -> Iterator[Any]:
    """What the first rank says, signs of life left out, until it needs no help."""
    channel.gather(machine())
    while not isinstance(message := channel.hear(), Done):
        if not isinstance(message, Alive):
            yield message


def work(place: Place) -> int:
    """Help the first rank until it is done: 0; or until it is gone: 1."""
    try:
        channel = Channel(place)
        help_with(channel, of_the_first(channel), own_device)
        channel.leave()
    except (RuntimeError, EOFError):
        return 1
    return 0


def own_device(kind: str) -> torch.device:
    """This rank's own device of this type."""
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    return devices.of_local_rank(kind, int(local))
