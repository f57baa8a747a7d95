"""The state of a training, what a checkpoint holds of it, and going on from one under the same plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from dptrain.contracts import ConfigError, Context, DptrainError
from dptrain.privacy.banded import GradientPlan
from dptrain.privacy.noise.source import NoiseSource
from dptrain.training import checkpoint
from dptrain.training.distribution import Team
from dptrain.training.feed import Blocks, Feed
from dptrain.training.leading import Leader
from dptrain.training.masks import Masks
from dptrain.training.settings import EarlyStopping


class Stateful(Protocol):
    """What a checkpoint takes along."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def check_buffers(before: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise ConfigError where a model has gathered statistics of records in its buffers, beside the noise."""
    for name, buffer in model.named_buffers():
        if name not in before or not torch.equal(before[name].to(buffer), buffer):
            raise ConfigError(
                f"model: buffer `{name}` changed while training, so records reached it without noise; "
                "use layers that keep no running statistics"
            )


@dataclass(frozen=True, kw_only=True)
class Best:
    """The weights that did best on held-out records: the loss there, or the metric turned over."""

    step: int
    value: float
    weights: Mapping[str, Tensor]


@dataclass
class Session:
    """All that changes while a model trains: exactly what a checkpoint must hold."""

    plan: GradientPlan
    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    average: AveragedModel | None
    feed: Feed
    noise: NoiseSource | None  # None: a training without noise
    masks: Masks
    context: Context
    audit: Stateful | None = None
    team: Team | Leader | None = None  # of processes that compute sums with this one
    shards: Leader | None = None  # of a model that is divided among processes
    made_by: str = ""  # a hash of what makes the features that the model is trained on; empty: of records
    step: int = 0
    lost: int = 0  # steps that were paid for and could not be repeated: so many fewer are left
    repeated: int | None = None  # the step after which other secrets are due; None: none
    history: list[tuple[int, float, float]] = field(default_factory=list)  # step, accuracy, loss
    best: Best | None = None  # of the evaluations so far, where one of them is chosen
    buffers: dict[str, Tensor] = field(default_factory=dict)  # of the model, as it came

    def __post_init__(self) -> None:
        self.buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}

    @property
    def paid(self) -> int:
        """How many steps were paid for, those that were lost among them."""
        return self.step + self.lost

    def renew(self, lost: int) -> None:
        """Go on from here with other draws, where so many more steps were paid for and are lost.

        Where none is, what later draws owe to earlier ones stays: a shuffled pass, the groups that take
        turns, past noise that is part of noise to come.
        """
        self.lost += lost
        self.repeated = None
        streams, again = self.context.streams, f"again/{self.paid}"  # told apart where a seed derives them
        if self.noise is not None:
            self.noise.renew(streams.secret(f"noise/{again}"), skipped=lost)
        self.feed.renew(streams.secret(f"sampling/{again}"), step=self.step, skipped=lost)
        self.masks.renew(streams.secret(f"masks/{again}"))

    @property
    def released(self) -> nn.Module:
        """The module whose weights would be released now."""
        if self.shards is not None:
            return self.shards.released()
        return self.model if self.average is None else self.average.module

    @property
    def chosen(self) -> Mapping[str, Tensor]:
        """The weights that are released of the trained part: the best on held-out records, or the last."""
        return self.released.state_dict() if self.best is None else self.best.weights

    def consider(self, by: EarlyStopping) -> None:
        """Keep the weights of the last evaluation if they did better than all before."""
        step, metric, loss = self.history[-1]
        value = loss if by == "loss" else -metric
        if by != "none" and (self.best is None or value < self.best.value or math.isnan(self.best.value)):
            weights = {name: each.detach().cpu().clone() for name, each in self.released.state_dict().items()}
            self.best = Best(step=step, value=value, weights=weights)

    @property
    def current(self) -> nn.Module:
        """The module with the weights of the step to come."""
        return self.model if self.shards is None else self.shards.current()

    def save(self, folder: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = self.state_dict()
        if self.shards is not None:
            state["shards"] = self.shards.save(folder, self.paid)
        checkpoint.save(state, folder)
        if self.shards is not None:
            checkpoint.forget_shards(folder, kept=state["shards"]["folder"])

    def state_dict(self) -> dict[str, Any]:
        """All of it; of a divided model the shapes, for what processes hold of it is in files of its own."""
        divided = self.shards is not None
        weights = self.model.state_dict()
        return {
            "plan": asdict(self.plan),
            "made_by": self.made_by,
            "optimizer_class": f"{type(self.optimizer).__module__}.{type(self.optimizer).__qualname__}",
            "optimizer_arguments": {name: repr(value) for name, value in self.optimizer.defaults.items()},
            "step": self.step,
            "lost": self.lost,
            "blocks": asdict(self.feed.blocks),
            "history": self.history,
            "best": None if self.best is None else vars(self.best),
            "model": {k: torch.empty(v.shape, device="meta") for k, v in weights.items()}
            if divided
            else weights,
            "optimizer": None if divided else self.optimizer.state_dict(),
            "shards": None,
            "schedule": self.schedule.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "sampler": self.feed.state_dict(),
            "noise": None if self.noise is None else self.noise.state_dict(),
            "masks": self.masks.state_dict(),
            "audit": None if self.audit is None else self.audit.state_dict(),
            "observers": [observer.state_dict() for observer in self.context.observers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.feed.load_state_dict(state["sampler"], step=state["step"])  # refuses draws of another version
        self.masks.load_state_dict(state["masks"])  # likewise
        self.step, self.lost = state["step"], state["lost"]
        self.feed.blocks = Blocks(**state["blocks"])
        self.history = [tuple(entry) for entry in state["history"]]
        best = state.get("best")
        self.best = None if best is None else Best(**best)
        if self.shards is None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        else:
            assert self.context.folder is not None
            self.shards.load(self.context.folder, state["shards"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.noise is not None:
            self.noise.load_state_dict(state["noise"])
        if self.audit is not None and state["audit"] is not None:
            self.audit.load_state_dict(state["audit"])
        for observer, seen in zip(self.context.observers, state["observers"], strict=True):
            observer.load_state_dict(seen)


def resume(session: Session) -> int:
    """Take the checkpoint's state, if there is one; how many steps beyond it are repeated with its draws."""
    folder = session.context.folder
    if folder is None:
        return 0
    state, paid = checkpoint.load(folder), checkpoint.paid(folder)
    if state is None:
        if paid:
            raise DptrainError(
                f"resume={folder}: {paid} steps are paid for but {checkpoint.CHECKPOINT} is gone, so they "
                "cannot be repeated with the same noise; start a new run"
            )
        return 0
    checkpoint.refuse_beyond(folder, paid, session.plan.steps)
    with checkpoint.as_written(folder):
        _take(session, state, folder)
    return _to_repeat(session, max(0, paid - session.paid), checkpoint.seals(folder))


def _take(session: Session, state: dict[str, Any], folder: Path) -> None:
    """Take this state; raises DptrainError where it is of another plan, model or optimizer."""
    now = asdict(session.plan)
    if changed := [
        f"{key}={state['plan'][key]} is now {now[key]}" for key in now if state["plan"][key] != now[key]
    ]:
        raise DptrainError(
            f"resume={folder}: it was begun under another plan ({'; '.join(changed)}); resume it with the "
            "data and the library versions that it was begun with, or start a new run"
        )
    if (state.get("shards") is None) != (session.shards is None):
        before = "none" if state.get("shards") is None else "fsdp2"
        raise ConfigError(
            f"resume={folder}: it was begun with performance.sharding={before}; resume it with that, by as "
            "many processes as you like"
        )
    if state.get("made_by") != session.made_by:
        raise DptrainError(
            f"resume={folder}: the frozen part of the model is not the one that it was begun with, and its "
            "head knows no other features; resume it on the machine, the device and the library versions "
            "that it was begun with, or start a new run"
        )
    _refuse_others(folder, state, session.state_dict())
    session.load_state_dict(state)


def _to_repeat(session: Session, paid: int, seals: Mapping[int, bytes]) -> int:
    """How many of so many steps that are paid for are repeated with the checkpoint's draws.

    Those whose sums have tags; after them other secrets are due. The last one that is paid for may have none:
    then no noise was added to its sum, here, and it is taken with other draws. Where more tags are missing,
    the first sum without one is refused as it comes, and what is paid for is lost. A public seed has no
    secrets, and without noise there is nothing to hide: their draws all stay what they are.
    """
    if session.noise is None or session.context.streams.deterministic:
        return paid
    known = 0
    while known < paid and session.step + known + 1 in seals:
        known += 1
    if paid - known > 1:
        return paid
    session.repeated = session.step + known
    return known


def _refuse_others(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise DptrainError where a checkpoint is of a model of other shapes, or of another optimizer."""
    shapes, found = (
        {name: tuple(value.shape) for name, value in each["model"].items()} for each in (before, now)
    )
    other = [
        f"`{name}` {shapes.get(name, 'absent')} is now {found.get(name, 'absent')}"
        for name in {**shapes, **found}
        if shapes.get(name) != found.get(name)
    ]
    for key in ("optimizer_class", "optimizer_arguments"):
        if before.get(key, now[key]) != now[key]:
            other.append(f"{key.replace('_', ' ')} {before[key]} is now {now[key]}")
    if other:
        more = f"; and {len(other) - 3} more" if len(other) > 3 else ""
        raise DptrainError(
            f"resume={folder}: it was begun with another model or optimizer ({'; '.join(other[:3])}{more}); "
            "resume it with those that it was begun with, or start a new run"
        )
