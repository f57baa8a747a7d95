"""What each step draws, and reading it while the step before is still being computed."""

from __future__ import annotations

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
class Drawn:
    """One step's draws, in the order in which the engine adds them up, records in physical batches.

    Probes and canaries come last, so that the share of the sum that was assigned at random can be told apart
    exactly as the engine made it; the first probe comes by itself, so that its length can be seen.
    """

    sampled: Tensor  # as the sampler drew them
    ordinary: tuple[Tensor, ...]
    probes: tuple[Tensor, ...]
    canaries: Tensor  # numbered from 0

    @classmethod
    def of(cls, sampled: Tensor, *, step: int, records: int, probed: Sequence[int], size: int) -> Drawn:
        """Divide the draws of the step that follows `step` others; canaries are numbered after the records.

        >>> drawn = Drawn.of(torch.tensor([0, 2, 3, 4, 6, 9]), step=1, records=8, probed=(3, 4, 6), size=1)
        >>> [part.tolist() for part in (*drawn.ordinary, *drawn.probes, drawn.canaries)]
        [[0], [2], [6], [3], [4], [1]]
        """
        is_canary = sampled >= records
        is_probe = torch.isin(sampled, torch.tensor(probed, dtype=sampled.dtype))
        probes = sampled[is_probe].roll(step)  # each probe's turn comes to be the first
        return cls(
            sampled=sampled,
            ordinary=_batches(sampled[~is_probe & ~is_canary], size),
            probes=(*_batches(probes[:1], size), *_batches(probes[1:], size)),
            canaries=sampled[is_canary] - records,
        )


def _batches(records: Tensor, size: int) -> tuple[Tensor, ...]:
    return records.split(size) if len(records) else ()


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
        probed: Sequence[int] = (),
        size: int,
        ahead: int = 0,
    ) -> None:
        """`steps` are all there will be, `size` the most records of a physical batch."""
        self._sampler, self._records = sampler, records
        self._divide = partial(Drawn.of, records=len(records), probed=probed)
        self._size = size
        self._step, self._steps = 0, steps  # drawn so far; to be drawn in all
        self._ahead = 0 if records.in_memory else ahead
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
        return self._divide(units, step=0, size=size)

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
        assert not self._drawn, "what was drawn ahead belongs to another state"
        self._sampler.load_state_dict(state)
        self._step = step

    def _draw(self) -> None:
        before = self._sampler.state_dict()
        drawn = self._divide(self._sampler.draw(), step=self._step, size=self._size)
        self._step += 1
        self._drawn.append((drawn, before))
        if self._ahead:
            self._due.extend(drawn.ordinary + drawn.probes)

    def _read_ahead(self) -> None:
        while len(self._reading) < self._ahead:
            if self._due:
                batch = self._due.popleft()
                self._reading.append((batch, self._reader.submit(self._records.take(batch).read)))
            elif self._step < self._steps and len(self._drawn) < self._ahead:
                self._draw()
            else:
                return
