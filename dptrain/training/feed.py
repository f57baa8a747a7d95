"""What each step draws, and reading it while the step before is still being computed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from dptrain.contracts import Records
from dptrain.privacy.sampling import Sampler


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How a step's records are divided into physical batches, however many processes compute them."""

    size: int  # the most records of one
    lanes: int = 1  # processes that it is evenly divided for

    def of(self, records: Tensor) -> tuple[Tensor, ...]:
        """These records (n,) in physical batches.

        >>> [len(block) for block in Blocks(size=4).of(torch.arange(9))]
        [3, 3, 3]
        >>> [len(block) for block in Blocks(size=4, lanes=2).of(torch.arange(9))]
        [3, 3, 3]
        >>> [len(block) for block in Blocks(size=8, lanes=2).of(torch.arange(9))]
        [5, 4]
        """
        if len(records) == 0:
            return ()
        count = self.lanes * math.ceil(len(records) / (self.size * self.lanes))
        return records.split(math.ceil(len(records) / count))


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One step's draws, in the order in which the engine adds them up, records in physical batches.

    Those that are `watched` are apart, so that what each added can be read off the sum. Probes and canaries
    come last, so that the share of the sum that was assigned at random can be told apart exactly as the
    engine made it; the first probe comes by itself, so that its length can be seen.
    """

    sampled: Tensor  # as the sampler drew them
    ordinary: tuple[Tensor, ...]
    watched: tuple[Tensor, ...]
    probes: tuple[Tensor, ...]
    canaries: Tensor  # numbered from 0

    @classmethod
    def of(
        cls,
        sampled: Tensor,
        *,
        step: int,
        records: int,
        blocks: Blocks,
        probed: Sequence[int] = (),
        watched: Sequence[int] = (),
    ) -> Drawn:
        """Divide the draws of the step that follows `step` others; canaries are numbered after the records.

        >>> sampled, blocks = torch.tensor([0, 2, 3, 4, 6, 9]), Blocks(size=1)
        >>> drawn = Drawn.of(sampled, step=1, records=8, blocks=blocks, probed=(3, 4, 6))
        >>> [part.tolist() for part in (*drawn.ordinary, *drawn.probes, drawn.canaries)]
        [[0], [2], [6], [3], [4], [1]]
        """
        is_canary = sampled >= records
        is_probe, is_watched = (
            torch.isin(sampled, torch.tensor(some, dtype=sampled.dtype)) for some in (probed, watched)
        )
        is_watched &= ~is_probe
        probes = sampled[is_probe].roll(step)  # each probe's turn comes to be the first
        return cls(
            sampled=sampled,
            ordinary=blocks.of(sampled[~is_probe & ~is_canary & ~is_watched]),
            watched=blocks.of(sampled[is_watched]),
            probes=(*blocks.of(probes[:1]), *blocks.of(probes[1:])),
            canaries=sampled[is_canary] - records,
        )


class Feed:
    """Draws ahead of the training, and reads `ahead` physical batches before they are needed.

    Draws are the sampler's own, in their order, made by the thread that trains, so that what a step
    sees does not depend on how fast anything is read. What is drawn but not taken counts as not
    drawn: the state is the one before it, from which a run that goes on draws it again.
    """

    def __init__(
        self,
        sampler: Sampler,
        records: Records,
        *,
        steps: int,
        blocks: Blocks,
        probed: Sequence[int] = (),
        watched: Sequence[int] = (),
        ranks: int = 1,
        ahead: int = 0,
        device: torch.device | None = None,
    ) -> None:
        """`steps` are all there will be; of `ranks` this one reads each block whose turn is its own.

        What is read ahead is put where the `device` takes it from while it computes.
        """
        self._sampler, self._records = sampler, records
        self._divide = partial(Drawn.of, records=len(records), probed=probed, watched=watched)
        self.blocks, self.ranks = blocks, ranks
        self._step, self._steps = 0, steps  # drawn so far; to be drawn in all
        self._ahead = 0 if records.in_memory else ahead
        self._device = device or torch.device("cpu")
        self._drawn: deque[tuple[Drawn, dict[str, Any]]] = deque()  # not taken yet; the state before each
        self._due: deque[Tensor] = deque()  # batches to be read, not begun
        self._reading: deque[tuple[Tensor, Future[Records]]] = deque()
        self._reader = ThreadPoolExecutor(1, "dptrain-reader")

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.shutdown(cancel_futures=True)

    def draw(self) -> Drawn:
        """The next step's draws."""
        if not self._drawn:
            self._draw()
        drawn, _ = self._drawn.popleft()
        self._read_ahead()
        return drawn

    def divided(self, units: Tensor, size: int) -> Drawn:
        """Such units as if a step had drawn them, in physical batches of this size."""
        return self._divide(units, step=0, blocks=Blocks(size=size))

    def renew(self, key: bytes, *, step: int, skipped: int) -> None:
        """Draw by another key from now on, after so many steps, and others that are lost.

        What was drawn ahead counts as not drawn.
        """
        if self._drawn:
            self._sampler.load_state_dict(self.state_dict())
        self._sampler.renew(key, skipped=skipped)
        self._forget()
        self._step = step

    def _forget(self) -> None:
        self._drawn.clear()
        self._due.clear()
        while self._reading:
            _, reading = self._reading.popleft()
            reading.cancel()

    def look(self, batch: Tensor) -> Records:
        """These records, in memory, whatever is read ahead."""
        return self._records.take(batch).read()

    def read(self, batch: Tensor) -> Records:
        """These records, in memory: the next physical batch of the step that was drawn last."""
        if self._ahead == 0:
            return self.look(batch)
        expected, reading = self._reading.popleft()
        assert expected is batch, "batches are asked for in another order than they were drawn in"
        read = reading.result()
        self._read_ahead()
        return read

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state before the first draw that was not taken."""
        return self._drawn[0][1] if self._drawn else self._sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any], *, step: int) -> None:
        """Go on from this state, after so many steps."""
        self._forget()
        self._sampler.load_state_dict(state)
        self._step = step

    def _draw(self) -> None:
        before = self._sampler.state_dict()
        drawn = self._divide(self._sampler.draw(), step=self._step, blocks=self.blocks)
        self._step += 1
        self._drawn.append((drawn, before))
        if self._ahead:
            self._due.extend(drawn.ordinary[:: self.ranks] + drawn.watched + drawn.probes)

    def _stage(self, batch: Tensor) -> Records:
        return self.look(batch).staged(self._device)

    def _read_ahead(self) -> None:
        while len(self._reading) < self._ahead:
            if self._due:
                batch = self._due.popleft()
                self._reading.append((batch, self._reader.submit(self._stage, batch)))
            elif self._step < self._steps and len(self._drawn) < self._ahead:
                self._draw()
            else:
                return
