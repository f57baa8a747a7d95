"""What may be spent, how, and what is proved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from dptrain.contracts.statement import Statement


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the user is willing to spend: one of a target epsilon, an attack's success, and the noise itself.

    `advantage` is the most that true positives may exceed false ones in any membership test;
    `tpr_at_fpr` a false-positive rate and the most true positives of any test at it.
    """

    epsilon: float | None
    delta: float
    noise_multiplier: float | None = None
    advantage: float | None = None
    tpr_at_fpr: tuple[float, float] | None = None
    unit: str = "record"  # record, or what a group is called: patient, customer, group
    adjacency: str = "add_remove"  # add_remove | replace_one
    units_public: bool = True  # some constant of the plan was computed from the number of units


class PrivacyLoss(Protocol):
    """A privacy loss distribution, as `dp_accounting.pld` makes them."""

    def get_epsilon_for_delta(self, delta: float) -> float: ...

    def get_delta_for_epsilon(self, epsilon: Any) -> Any: ...

    def compose(self, other: Any) -> Any: ...

    def self_compose(self, count: int) -> Any: ...


class Plan(Protocol):
    """What a mechanism will do and spend: a frozen dataclass of public constants.

    One with an `event()`, which is the whole plan as a `dp_accounting.DpEvent`, can also be part of a search
    in which results choose what is trained next, and of a private selection.
    """

    @property
    def units(self) -> int:
        """How many units of privacy there are."""

    @property
    def steps(self) -> int:
        """How many noisy results there are, one after another."""

    @property
    def adjacency(self) -> str:
        """Which data sets are neighbours: add_remove or replace_one."""

    @property
    def interval(self) -> float:
        """The finest interval that losses can be rounded up to, such as 1e-4."""

    def loss(self, steps: int | None = None, *, interval: float | None = None) -> PrivacyLoss:
        """Privacy loss distribution of the first `steps` results (default: all), rounded up pessimistically.

        `interval` is that of the distribution (default: the plan's own); only those of one can be composed.
        """

    def describe(self) -> tuple[tuple[str, str], ...]:
        """The constants in rows for people: name and text."""


@runtime_checkable
class Clips(Protocol):
    """A plan that clips what a unit adds to a sum, as canaries must know."""

    @property
    def max_grad_norm(self) -> float: ...


@runtime_checkable
class Guarantee(Protocol):
    """What is proved: an upper bound, carried as a privacy loss distribution."""

    @property
    def delta(self) -> float: ...

    @property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """(step, epsilon) from (0, 0) to the end; empty if not private."""

    def epsilon(self, delta: float | None = None) -> float:
        """The epsilon proved at this delta (default: the run's own); infinite if none is."""

    @property
    def mu(self) -> float:
        """Parameter of the Gaussian mechanism with this epsilon and delta: a guess for planning only."""

    def tradeoff(self, alpha: float) -> float:
        """Least false-negative rate of any membership test with false-positive rate alpha."""

    def membership_tpr(self, fpr: float) -> float:
        """Most true positives of any membership test at this false-positive rate."""

    def reconstruction_bound(self, base_rate: float) -> float:
        """Most often that any adversary names the record, when blind guessing succeeds at `base_rate`."""

    def statement(self) -> Statement:
        """The guarantee in full: numbers and words."""
