"""What single units add at a few random steps of a training, compared with the claim and with their sum.

On the engine, the model and the records in use, every unit of a physical batch goes through the loop by
itself: each contribution may be as long as the plan claims, and all of them together must be what the loop
makes of the batch, for then no unit has a say in what another one adds. The same with rows that are no
record, extreme ones among them. The sums are put aside; nothing of the training changes. What is published
is whether it held, and the largest ratio of rows that are no record: that of a record is its gradient's norm.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.contracts import BrokenGuarantee, Plan, Records, Sensitivity
from dptrain.privacy.dpsgd import Engine
from dptrain.privacy.independence import TESTED, changed, copied, state_of
from dptrain.privacy.stilled import stilled
from dptrain.training import checkpoint
from dptrain.training.feed import Drawn

FILE = "sensitivity.json"  # for the data's owner alone
STEPS, FEW_STEPS = 3, 30  # how many steps are looked at; in a training of few, one
# Of the claim, for each unit of a batch: what rounding may make of a sum in single precision before it is
# computed again in double; in double; and where a model knows no double precision, of the root of their number.
SINGLE, DOUBLE, ROUGH = 1e-5, 1e-9, 0.1

Accumulate = Callable[[Drawn, Callable[[Tensor], Records]], None]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of one batch, over the claim: the longest single contribution, and what their sum lacks or has too much."""

    longest: float
    gap: float
    most: float  # that rounding explains of the gap

    @property
    def held(self) -> bool:
        return self.longest <= 1.0 and self.gap <= self.most


class SensitivityAudit:
    """Looks on at steps that nobody can foretell."""

    def __init__(
        self, plan: Plan, made_up: Records | None, *, size: int, key: bytes, folder: Path | None
    ) -> None:
        """`made_up` are inputs as the trained part takes them; `size` is that of a physical batch."""
        self.claim = plan.max_grad_norm
        self.made_up, self.size, self.folder = made_up, size, folder
        count = STEPS if plan.steps >= FEW_STEPS else 1
        self.steps = sorted(random.Random(key).sample(range(1, plan.steps + 1), min(count, plan.steps)))
        self.records: dict[int, Found] = {}  # private, as gradients of records are
        self.ratio: float | None = None
        if folder is not None and (folder / FILE).exists():
            _refuse_if_broken(folder / FILE)

    def due(self, step: int) -> bool:
        return step in self.steps

    def look(self, step: int, drawn: Drawn, accumulate: Accumulate, engine: Engine, session: Any) -> None:
        """Audit this step's units before they are added up; raises BrokenGuarantee.

        `accumulate` adds up units as the loop does; `session` has the feed and the model.
        """
        before = copied(state_of(session.model))
        units = drawn.sampled[torch.randperm(len(drawn.sampled))[: self.size].sort().values]
        feed = session.feed
        with _undisturbed():
            found = self._measure(
                units, feed.divided, lambda drawn: accumulate(drawn, feed.look), engine, session.model
            )
            ours = None if self.made_up is None else self._measure_made_up(accumulate, engine, session.model)
        self.records[step] = found
        if ours is not None:
            self.ratio = max(self.ratio or 0.0, ours.longest)
        kept = changed(before, state_of(session.model), tensors=True) is None
        held = found.held and (ours is None or ours.held) and kept
        self._write(step, found, held=held)
        if not held:
            raise BrokenGuarantee(
                f"mechanism.audit_sensitivity: BROKEN at step {step}: {_reason(found, ours, kept=kept)}, so the "
                "training is not as private as its guarantee says. Nothing is released; report the run "
                "to the maintainers, or to whoever wrote the model"
            )

    def stated(self, plan: Plan) -> Sensitivity:
        """What may be told of it."""
        return Sensitivity(
            most=plan.sensitivity,
            records=1,
            independence=TESTED,
            audit="held" if self.records else None,
            ratio=self.ratio,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "ratio": self.ratio, "looked": sorted(self.records)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.ratio = state["steps"], state["ratio"]
        self.records = {step: Found(longest=0.0, gap=0.0, most=0.0) for step in state["looked"]}

    def _measure_made_up(self, accumulate: Accumulate, engine: Engine, model: nn.Module) -> Found:
        made_up = self.made_up
        assert made_up is not None

        def divided(rows: Tensor, size: int) -> Drawn:
            return Drawn.of(rows, step=0, records=len(made_up), probed=(), size=size)

        def add(drawn: Drawn) -> None:
            accumulate(drawn, lambda part: made_up.take(part).read())

        return self._measure(torch.arange(len(made_up)), divided, add, engine, model)

    def _measure(
        self,
        units: Tensor,
        divided: Callable[[Tensor, int], Drawn],
        add: Callable[[Drawn], None],
        engine: Engine,
        model: nn.Module,
    ) -> Found:
        def summed(some: Tensor, size: int) -> Tensor:
            with engine.aside(), stilled():
                add(divided(some, size))
                return engine.total().double() if engine.total().device.type != "mps" else engine.total()

        def found(allowed: float) -> Found:
            """In one batch of its full size, and in batches of half of it."""
            wholes = [summed(units, size) for size in {self.size, max(1, (len(units) + 1) // 2)}]
            alone, longest = torch.zeros_like(wholes[0]), 0.0
            for unit in units.split(1):
                share = summed(unit, self.size)
                longest = max(longest, float(share.norm()))
                alone += share
            gap = max(float((whole - alone).norm()) for whole in wholes)
            return Found(longest=longest / self.claim, gap=gap / self.claim, most=allowed)

        if len(units) == 0:
            return Found(longest=0.0, gap=0.0, most=0.0)
        plainly = found(SINGLE * len(units))
        if plainly.held or plainly.longest > 1.0:
            return plainly
        # Rounding can push a value over a kink, or choose among equals; in double precision it hardly does.
        try:
            with in_double(model):
                return found(DOUBLE * len(units))
        except Exception:  # a model with numbers of its own that stay in single precision
            return Found(longest=plainly.longest, gap=plainly.gap, most=ROUGH * len(units) ** 0.5)

    def _write(self, step: int, found: Found, *, held: bool) -> None:
        """Keep for the owner what was measured on records."""
        if self.folder is None:
            return
        path = self.folder / FILE
        known = json.loads(path.read_text()) if path.exists() else {"of_records": {}}
        measured = {"longest_over_claim": found.longest, "gap_over_claim": found.gap}
        of_records = {**known["of_records"], str(step): measured}
        content = {"audit": "held" if held else "BROKEN", "of_rows_that_are_no_record": self.ratio}
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


def _refuse_if_broken(path: Path) -> None:
    if json.loads(path.read_text())["audit"] == "BROKEN":
        raise BrokenGuarantee(
            f"resume={path.parent}: its audit of sensitivity was BROKEN, so nothing of it may be released; "
            "start a new run"
        )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """PyTorch's generators are afterwards as they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        yield


@contextmanager
def in_double(model: nn.Module) -> Iterator[None]:
    """Within, weights and buffers are in double precision; afterwards they are the very ones from before."""
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


def made_up_rows(rows: Records, features: Callable[[Tensor], Tensor]) -> Records:
    """Rows as the trained part of a model takes them."""
    return Records(torch.cat([features(row) for row in rows.inputs.split(1)]), rows.labels)


__all__ = ["SensitivityAudit", "copy", "in_double", "made_up_rows"]
