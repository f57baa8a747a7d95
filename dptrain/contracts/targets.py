"""What is public about the records that attacks aim at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from torch import Tensor

from dptrain.contracts.records import Canaries, Records, Sensitive, Splits
from dptrain.contracts.release import Release


@dataclass(frozen=True, kw_only=True)
class Slots:
    """What the adversary knows of the planted records: candidates (slots, candidates, ...) and their labels.

    One candidate of each slot, drawn uniformly before training, was trained on.
    """

    inputs: Tensor
    labels: Tensor  # (slots, candidates, ...)

    @property
    def count(self) -> int:
        return self.labels.shape[0]

    @property
    def candidates(self) -> int:
        return self.labels.shape[1]


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """A model that the adversary trained, and which of the probes it was trained on: (probes,) bool."""

    release: Release
    members: Tensor


class Shadows(Protocol):
    """Trains the adversary's own models, or finds them where they were kept.

    The adversary is informed (Balle et al. 2022): they know how the target was trained, the weights that it
    began with, and every record but the probes and those planted in slots.
    """

    @property
    def records(self) -> Records:
        """The training records that the adversary knows."""

    @property
    def probes(self) -> Records:
        """The probes, of which each shadow model was trained on a half; there may be none."""

    @property
    def at_once(self) -> bool:
        """Whether a training without privacy solves one equation, so that hundreds of them take little."""

    def train(self, count: int, *, private: bool) -> tuple[Shadow, ...]:
        """Shadow models in pairs that share the probes between them, half each; there may be no probes.

        By the target's own mechanism, or (`private=False`) without privacy. Each begins with the target's
        first weights, and is trained on the records that the adversary knows and on its half of the probes.
        """


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What is public about the records: every attack may use it, and nothing else."""

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    bounds: tuple[float, float]
    mean: tuple[float, ...]
    background: Records  # records of the same population that an adversary may own, none trained on
    slots: Slots | None = None
    probes: Records | None = None  # of which a random choice decided whether they are trained on
    canaries: Canaries | None = None
    shadows: Shadows | None = None
    sensitive: tuple[Sensitive, ...] = ()
    subjects: Mapping[str, Records] = field(default_factory=dict)  # the probes, that sensitive column blanked

    @classmethod
    def of(cls, splits: Splits, **more: Any) -> Self:
        """What is public of these splits, whose held-out records an adversary may own, and `more` fields."""
        return cls(
            classes=splits.classes,
            shape=splits.shape,
            bounds=splits.bounds,
            mean=splits.mean,
            background=splits.holdout,
            **more,
        )
