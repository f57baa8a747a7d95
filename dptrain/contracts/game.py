"""What attacks play for: what is assigned before training, what is public of it, how findings are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import nn

from dptrain.contracts.evidence import Gallery, Leakage
from dptrain.contracts.findings import Scores
from dptrain.contracts.outcome import Detectable
from dptrain.contracts.privacy import Guarantee, Plan
from dptrain.contracts.randomness import Streams
from dptrain.contracts.records import Splits
from dptrain.contracts.targets import Targets
from dptrain.contracts.training import Context

F = TypeVar("F")

PROBES = "probes"  # the assignment that several games share: of each, whether it is trained on


class Assigned(Protocol):
    """What a secret random choice decided before training; only the scoring of a game may see it."""

    @property
    def change(self) -> str:
        """What one unit more or less in the data changes besides that unit: a clause, or nothing."""
        return ""

    def enter(self, context: Context) -> Context:
        """The surroundings of a training into which this is put."""
        return context

    def for_control(self) -> Self:
        """The same for the training of the non-private control model."""
        return self

    def described(self) -> Mapping[str, int | None]:
        """Fields of the statement's `Assignment`."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Attempt(Generic[F]):
    """What one attack found in the release through one interface, and in what it is compared with."""

    attack: str
    interface: str
    found: F
    control: F | None  # found in the non-private control model
    baseline: tuple[F, ...]  # found in untrained models, as many as the game asks for


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What scoring takes besides the findings.

    `keep(kind, key, make)` returns what `make` returned when it was first called for this kind and key,
    in this run or an earlier one.
    """

    splits: Splits  # as trained on
    assigned: Any  # the assignment of the game; None where it has none
    guarantee: Guarantee
    streams: Streams
    device: torch.device
    keep: Callable[[str, tuple[Any, ...], Callable[[], Mapping[str, Any]]], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What one attack comes to, through one interface."""

    leakage: list[Leakage]
    gallery: Gallery | None = None
    queries: tuple[tuple[int, float, float | None], ...] = ()  # spent, success, success on the control
    exposes: Scores | None = None  # of the probes, for the table of single records


@runtime_checkable
class Game(Protocol):
    """A game that attacks play. A class derived from this one overrides what is different in it.

    It is built with `evidence`, the configuration's section of that name. `assignment` names what it draws
    before training: nothing (""), PROBES, which are drawn for all games that ask for them, or something of
    its own by `prepare` or `prepare_model`, which games of the same assignment share. `held_out` is how
    many held-out records `prepare` may take, `untrained` how many untrained models attacks are run on as
    well, for the baseline (`baselines(splits)`, where that depends on the data), and `findings` what its
    attacks return. One whose scoring takes long may have
    `trial(splits, device) -> Part`, a part of it, by which its time is told.
    """

    assignment: ClassVar[str] = ""
    untrained: ClassVar[int] = 0
    findings: ClassVar[type]

    @property
    def held_out(self) -> int:
        return 0

    def baselines(self, splits: Splits) -> int:  # noqa: ARG002
        """How many untrained models attacks are run on, for such data."""
        return self.untrained

    def prepare(self, splits: Splits, *, key: bytes) -> tuple[Splits, Assigned | None]:  # noqa: ARG002
        """The splits with what this game puts into the training, chosen by keyed hashes of units.

        `splits.train` holds the probes by now. Raises ConfigError where these records do not serve.
        """
        return splits, None

    def prepare_model(
        self,
        model: nn.Module,  # noqa: ARG002
        plan: Plan | None,  # noqa: ARG002
        streams: Streams,  # noqa: ARG002
    ) -> Assigned | None:
        """What this game assigns to a model whose training is planned."""
        return None

    def public(self, splits: Splits, assigned: Any) -> Targets:  # noqa: ARG002
        """What an attack is shown of the records: what everybody knows, and what this game adds.

        Where Targets has no field for it, an object of a class derived from Targets.
        """
        return Targets.of(splits)

    def problems(self, splits: Splits, assigned: Any) -> Iterator[str]:  # noqa: ARG002
        """What would keep findings from being scored, one sentence each with its cure."""
        return iter(())

    def detectable(self, splits: Splits, assigned: Any, guarantee: Guarantee) -> Iterator[Detectable]:  # noqa: ARG002
        """The most that attacks could certify here, a metric each; what is not known before is left out."""
        return iter(())

    def score(self, attempt: Attempt[Any], scoring: Scoring) -> Scored:
        """Leakage lines for what an attack found."""
