"""What single units add at a few random steps of a training, compared with the claim and with their sum.

On the engine, the model and the records in use, every unit of a physical batch (256 of a larger one) goes
through the loop by itself: each contribution may be as long as the plan claims, and all of them together must
be what the loop makes of the batch, for then no unit has a say in what another one adds. The same with rows
that are no record, extreme ones among them. The sums are put aside; nothing of the training changes. What is
published is whether it held, and the largest ratio of rows that are no record: that of a record is its
gradient's norm.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dptrain.contracts import BrokenGuarantee, Records, devices
from dptrain.privacy.banded import GradientPlan
from dptrain.privacy.dpsgd import Engine
from dptrain.privacy.independence.state import changed, copied, state_of
from dptrain.privacy.stilled import Noticed, stilled
from dptrain.training import checkpoint
from dptrain.training.feed import Blocks, Drawn
from dptrain.training.session import Session

HELD, BROKEN = "held", "BROKEN"
FILE = "sensitivity.json"  # for the data's owner alone
STEPS, FEW_STEPS = 3, 30  # how many steps are looked at; in a training of few, one
UNITS = 256  # looked at one by one at a step, at most
# What rounding may make of a sum, of the claim for each unit of a batch: in single precision, beyond which it
# is computed again in double; in double. And of the root of their number, where there is no double precision.
SINGLE, DOUBLE, ROUGH = 1e-5, 1e-9, 0.1
# Of the claim: what a unit adds may move by so much where weights are rounded otherwise. What moves more, as
# that of an extreme row may, is made of rounding, and in single precision nothing can be learnt of its sum.
STEADY = 0.01

Read = Callable[[Tensor], Records]
Accumulate = Callable[["Session", Drawn, Read], object]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of one batch, over the claim: the longest contribution, and how far they are from adding up."""

    longest: float
    gap: float
    most: float  # that rounding explains of the gap

    @property
    def held(self) -> bool:
        return self.longest <= 1.0 and self.gap <= self.most


def looks(steps: int) -> int:
    """How many of so many steps are looked at."""
    return STEPS if steps >= FEW_STEPS else 1


class SensitivityAudit:
    """Looks on at steps that nobody can foretell."""

    def __init__(
        self, plan: GradientPlan, made_up: Records | None, *, size: int, key: bytes, folder: Path | None
    ) -> None:
        """`made_up` are rows as the trained part takes them, `size` is that of a physical batch."""
        self.claim = plan.max_grad_norm
        self.made_up, self.size, self.folder = made_up, size, folder
        self.random = random.Random(key)
        self.steps = sorted(self.random.sample(range(1, plan.steps + 1), looks(plan.steps)))
        self.looked: list[int] = []
        self.ratio: float | None = None  # of rows that are no record
        _refuse_if_broken(folder)

    def due(self, step: int) -> bool:
        return step in self.steps

    def look(self, step: int, drawn: Drawn, session: Session, engine: Engine, accumulate: Accumulate) -> None:
        """Audit this step's units before they are added up; raises BrokenGuarantee.

        `accumulate` adds up what is drawn as the loop does.
        """
        before = copied(state_of(session.model))
        some = sorted(
            self.random.sample(range(len(drawn.sampled)), min(len(drawn.sampled), self.size, UNITS))
        )
        measure = partial(self._measure, session, engine, accumulate)
        feed = session.feed
        found = measure(drawn.sampled[some], feed.divided, feed.look)
        ours = None
        if (rows := self.made_up) is not None:
            ours = measure(
                torch.arange(len(rows)),
                lambda some, size: Drawn.of(some, step=0, records=len(rows), blocks=Blocks(size=size)),
                lambda part: rows.take(part),
            )
            self.ratio = max(self.ratio or 0.0, ours.longest)
        kept = changed(before, state_of(session.model), tensors=True) is None
        held = found.held and (ours is None or ours.held) and kept
        self.looked.append(step)
        self._write(step, found, held=held)
        if not held:
            raise BrokenGuarantee(
                f"mechanism.audit_sensitivity: {BROKEN} at step {step}: {_reason(found, ours, kept=kept)}, "
                "so the training is not as private as its guarantee says. Nothing is released; report the "
                "run to the maintainers, or to whoever wrote the model"
            )

    def compare(
        self, step: int, drawn: Drawn, session: Session, engine: Engine, accumulate: Accumulate
    ) -> None:
        """Audit what several processes summed up: this one alone must make the same of the batch."""
        together = engine.sum()
        with engine.aside():
            accumulate(session, drawn, session.feed.look)
            gap = float((engine.sum() - together).norm()) / self.claim
        if gap > SINGLE * max(1, len(drawn.sampled)):
            self._write(step, Found(longest=0.0, gap=gap, most=0.0), held=False)
            raise BrokenGuarantee(
                f"mechanism.audit_sensitivity: {BROKEN} at step {step}: the processes' sums are not what one "
                "process makes of the same records, so the training is not what its guarantee says. Nothing "
                "is released; report the run to the maintainers"
            )

    def published(self) -> tuple[str | None, float | None]:
        """What may be published: whether it held, and the largest ratio of rows that are no record."""
        return HELD if self.looked else None, self.ratio

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "looked": self.looked, "ratio": self.ratio}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.looked, self.ratio = state["steps"], state["looked"], state["ratio"]

    def _measure(
        self,
        session: Session,
        engine: Engine,
        accumulate: Accumulate,
        units: Tensor,
        divided: Callable[..., Drawn],
        read: Read,
    ) -> Found:
        """What these units add one by one, and together."""

        def summed(some: Tensor, size: int, dtype: torch.dtype) -> Tensor:
            aside = replace(
                session, masks=copy.copy(session.masks), context=replace(session.context, dtype=dtype)
            )
            with engine.aside():
                accumulate(aside, divided(some, size=size), read)
                return devices.in_double(engine.total())

        def found(dtype: torch.dtype, allowed: float, some: Tensor = units) -> Found:
            """In physical batches of the full size, and in such of half of these units."""
            sizes = {self.size, max(1, (len(some) + 1) // 2)}
            together = [summed(some, size, dtype) for size in sizes]
            added, longest = torch.zeros_like(together[0]), 0.0
            for unit in some.split(1):
                share = summed(unit, self.size, dtype)
                longest = max(longest, float(share.norm()))
                added += share
            gap = max(float((each - added).norm()) for each in together)
            return Found(longest=longest / self.claim, gap=gap / self.claim, most=allowed)

        def is_steady(unit: Tensor, dtype: torch.dtype) -> bool:
            """Whether what a unit adds by itself hardly depends on how weights are rounded."""
            share = summed(unit, self.size, dtype)
            with rounded_otherwise(session.model):
                return float((summed(unit, self.size, dtype) - share).norm()) <= STEADY * self.claim

        if len(units) == 0:
            return Found(longest=0.0, gap=0.0, most=0.0)
        with Noticed() as noticed:
            summed(units[:1], self.size, session.context.dtype)
        still = (
            stilled if noticed.random else nullcontext
        )  # it looks at every operation, which takes its time
        with still():
            plainly = found(session.context.dtype, SINGLE * len(units))
        if plainly.held or plainly.longest > 1.0:
            return plainly
        # Rounding can push a value over a kink; in double precision it hardly does, and mixing stays.
        try:
            with still(), in_double(session.model):
                return found(torch.float64, DOUBLE * len(units))
        except (RuntimeError, TypeError):  # numbers of a model's own that stay in single precision, or MPS
            dtype = session.context.dtype
            with still():
                steady = units[[is_steady(unit, dtype) for unit in units.split(1)]]
                if len(steady) < len(units) / 2:  # a model of which nothing can be learnt is not passed
                    steady = units
                return replace(found(dtype, ROUGH * len(steady) ** 0.5, steady), longest=plainly.longest)

    def _write(self, step: int, found: Found, *, held: bool) -> None:
        """Keep for the owner what was measured on records."""
        if self.folder is None:
            return
        path = self.folder / FILE
        known = json.loads(path.read_text()) if path.exists() else {"of_records": {}}
        measured = {"longest_over_claim": found.longest, "gap_over_claim": found.gap}
        of_records = {**known["of_records"], str(step): measured}
        content = {"audit": HELD if held else BROKEN, "of_rows_that_are_no_record": self.ratio}
        note = (
            "Norms of records' gradients: for the owner of the data alone, and not covered by the guarantee."
        )
        checkpoint.write(
            path, json.dumps({**content, "note": note, "of_records": of_records}, indent=1).encode()
        )


def _reason(found: Found, ours: Found | None, *, kept: bool) -> str:
    """What broke, in numbers that come from rows that are no record only."""
    if not kept:
        return "the model remembers what it was called with"
    for each, whose in ((ours, "a row that is no record"), (found, "a record")):
        if each is not None and each.longest > 1.0:
            said = f" ({each.longest:.3g} times)" if each is ours else ""
            return f"{whose} adds more to the sum than mechanism.max_grad_norm{said}"
    return "what units add together is not the sum of what each adds alone"


def _refuse_if_broken(folder: Path | None) -> None:
    path = None if folder is None else folder / FILE
    if path is not None and path.exists() and json.loads(path.read_text())["audit"] == BROKEN:
        raise BrokenGuarantee(
            f"resume={folder}: its audit of sensitivity was BROKEN, so nothing of it may be released; "
            "start a new run"
        )


@contextmanager
def rounded_otherwise(model: nn.Module) -> Iterator[None]:
    """Within, each weight is off by one rounding; afterwards it is the very one from before.

    Of a model that is divided among processes, each does so with its own part.
    """
    generator = torch.Generator().manual_seed(0)
    kept = []
    for parameter in model.parameters():
        weight = parameter.detach()
        own = weight.to_local() if isinstance(weight, DTensor) else weight
        kept.append((own, own.clone()))
    try:
        for own, _ in kept:
            signs = 2.0 * torch.randint(0, 2, own.shape, generator=generator) - 1.0
            own.mul_(1.0 + torch.finfo(own.dtype).eps * signs.to(own))
        yield
    finally:
        for own, before in kept:
            own.copy_(before)


@contextmanager
def in_double(model: nn.Module) -> Iterator[None]:
    """Within, weights and buffers are in double precision; afterwards they are the very ones from before."""
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise TypeError("what is divided among processes keeps its precision")
    weights = [(parameter, parameter.data) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and buffer.is_floating_point()
    ]
    try:
        for parameter, data in weights:
            parameter.data = data.double()
        for module, name, buffer in buffers:
            module._buffers[name] = buffer.double()
        yield
    finally:
        for parameter, data in weights:
            parameter.data = data
        for module, name, buffer in buffers:
            module._buffers[name] = buffer
