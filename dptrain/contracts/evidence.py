"""What was measured, with all that is needed to read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A measured value and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """What one attack achieved, with all that is needed to read it; never a ceiling.

    `floor` is the same attack without the release, `control` against the control model,
    `bound` what the guarantee proves about this metric (None: no theorem says so), and
    `detection_limit` the most that this attack with these trials could have certified.
    """

    attack: str
    metric: str
    value: Interval
    floor: float
    control: Interval | None
    bound: float | None
    detection_limit: float
    verdict: str
    trials: int
    confidence: float = 0.95
    interface: str = ""  # how an attack by queries met the model: "" where it held the weights
    notes: str = ""  # how the interval was made, what the numbers are conditional on
    details: Mapping[str, float] = field(default_factory=dict)  # further numbers, by name


@dataclass(frozen=True, kw_only=True)
class NotRun:
    """An attack that could not be judged, and why: nothing is known of what it would have found."""

    attack: str
    reason: str
    interface: str = ""  # as of a leakage line


@dataclass(frozen=True, kw_only=True)
class Exposed:
    """How easily one training record is told from records that were not trained on.

    `percentile` is the share of the non-members that an attack finds less likely to be members;
    `score` what the attack says of it; both by attack.
    """

    record: str  # where it comes from, such as "train 17"
    label: int | str  # of a task without classes its numbers
    score: Mapping[str, float]
    percentile: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Class inversions beside what they must be compared with; one row a class, images in bounds.

    `nearest_member` shows *training records*: a figure made of it is as confidential as they are.
    """

    classes: tuple[str, ...]
    bounds: tuple[float, float]
    released: Tensor  # (classes, C, H, W): inverted from the release
    control: Tensor | None  # from the control model
    mean: Tensor  # mean image of the class, over held-out records
    nearest_member: Tensor  # the training record nearest to `released`
