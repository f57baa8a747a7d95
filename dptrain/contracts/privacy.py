"""What may be spent, how, and what is proved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that sampler, clipper, noise and accountant agree on; public constants, frozen.

    `noise_multiplier` is the noise's standard deviation over `max_grad_norm`, the most that
    one unit can add to a sum of clipped gradients. `expected_batch_size` is the fixed divisor.
    """

    units: int
    sample_rate: float
    steps: int
    expected_batch_size: int
    max_grad_norm: float
    noise_multiplier: float
    clipping: str = "flat"  # flat | per_layer | automatic
    sampling: str = "poisson"  # poisson | shuffle
    adjacency: str = "add_remove"

    @property
    def sensitivity(self) -> float:
        """Most that one change of the data set, as `adjacency` has it, moves a sum of gradients."""
        return self.max_grad_norm * (2.0 if self.adjacency == "replace_one" else 1.0)

    @property
    def noise_std(self) -> float:
        """Standard deviation of each coordinate's noise on the *sum* of clipped gradients."""
        return self.noise_multiplier * self.max_grad_norm


@runtime_checkable
class Guarantee(Protocol):
    """What is proved: an upper bound, carried as a privacy loss distribution."""

    @property
    def delta(self) -> float: ...

    @property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """(step, epsilon) from (0, 0) to the end; empty if not private."""
        ...

    def epsilon(self, delta: float | None = None) -> float:
        """The epsilon proved at this delta (default: the run's own); infinite if none is."""
        ...

    @property
    def mu(self) -> float:
        """Parameter of the Gaussian mechanism with this epsilon and delta: a guess for planning only."""
        ...

    def tradeoff(self, alpha: float) -> float:
        """Least false-negative rate of any membership test with false-positive rate alpha."""
        ...

    def membership_tpr(self, fpr: float) -> float:
        """Most true positives of any membership test at this false-positive rate."""
        ...

    def reconstruction_bound(self, base_rate: float) -> float:
        """Most often that any adversary names the record, when blind guessing succeeds at `base_rate`."""
        ...

    def statement(self) -> Statement:
        """The guarantee in full: numbers and words."""
        ...
