"""What attacks return, and what an attack is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dptrain.contracts.release import Access, Release
from dptrain.contracts.targets import Targets


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """For each slot, the candidate that the attack names: (slots,) int64.

    `effective_slots` is the number of independent trials that these slots are worth, where
    the attack can tell how far its guesses hang together; None means all of them.
    """

    guesses: Tensor
    effective_slots: float | None = None


@dataclass(frozen=True, kw_only=True)
class Images:
    """Inputs that an attack made for each class: inputs (n, ...) in bounds, labels (n,).

    `trail` holds what an attack by queries had in hand on its way: queries spent, inputs (n, ...).
    """

    inputs: Tensor
    labels: Tensor
    trail: tuple[tuple[int, Tensor], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scores:
    """For each probe, how much speaks for its having been trained on, more being likelier: (probes,)."""

    scores: Tensor


@dataclass(frozen=True, kw_only=True)
class Bets:
    """Scores, as above, to bet on: the highest are guessed to be members, as many lowest not to be.

    `guesses`, fixed before the assignment is seen, is how many are bet on. None leaves the number to the
    scoring, which plans it from the guarantee alone.
    `noise` and `sampling` hold what the attack saw of the noise and of the batches, where it did;
    `longest` the longest contribution of a single record that it saw, over what clipping allows.
    """

    scores: Tensor
    guesses: int | None = None
    noise: NoiseSeen | None = None
    sampling: SamplingSeen | None = None
    longest: float | None = None


@dataclass(frozen=True, kw_only=True)
class NoiseSeen:
    """What the noise looked like, over its declared standard deviation, where nothing else was added.

    Under an honest mechanism both are chi-square over their degrees of freedom: `each`, the mean
    square of every number seen; `summed`, that of each coordinate's sum over the steps, over the
    square root of their number, which repeated noise inflates.
    """

    each: float
    summed: float
    steps: int
    coordinates: int


@dataclass(frozen=True, kw_only=True)
class SamplingSeen:
    """How often each canary was seen to take part, where no noise hid it: (canaries,).

    Of a member under Poisson sampling this is binomial, with `steps` trials at `sample_rate`.
    """

    counts: Tensor
    steps: int
    sample_rate: float


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """For each sensitive column, the value that the attack names for each probe, (probes,) int64.

    `imputed` is what the same knowledge says without any access to the model.
    """

    guesses: Mapping[str, Tensor]
    imputed: Mapping[str, Tensor]


Findings = Any  # of these or others: what the game of the attack is scored by


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of some work, and how many `times` as long all of it takes."""

    work: Callable[[], object]
    times: float


class Attack(Protocol):
    """A procedure against a release.

    `needs` says what it must see of it, `game` what it plays for: the name of a game of the configuration,
    which says what `targets` hold. An attack that needs the transcript also has
    `watch(targets) -> Observer`, called before training; the observer comes back as `release.transcript`.
    One that trains shadow models has `shadows`, their number; 0 stands for none, and one that can do without
    where nobody knows how a model was trained says so by `shadows_needed = False`. One that cannot serve
    itself with every data set may have `check(targets)`, which raises ConfigError before anything is spent.
    One that takes long may have `trial(release, targets, rng) -> Part`: a part of what `run` does, by which
    it is told how long that takes.
    """

    @property
    def needs(self) -> frozenset[Access]: ...

    @property
    def game(self) -> str: ...

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Findings: ...


def wants_shadows(attack: Attack) -> bool:
    """Whether an attack trains models of its own on halves of the probes."""
    return getattr(attack, "shadows", 0) > 0


def by_query(attack: Attack) -> bool:
    """Whether an attack meets the model through its prediction interface alone."""
    asks = attack.needs & {Access.CONFIDENCES, Access.LABELS}
    return bool(asks) and not attack.needs & {Access.WEIGHTS, Access.TRANSCRIPT}
