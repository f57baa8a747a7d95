"""Types of a comparison of runs, from which its page and its tables are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dptrain.contracts import Interval
from dptrain.evidence.repeats import Paired, Spread

HOLDS, NONE, VOID = "holds", "none", "void"  # what a guarantee may be
MET, NOT_MET, UNDECIDED = "met", "not met", "undecided"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One leakage metric at one point, over its seeds.

    `low` and `high` are the ends of the runs' own intervals, in the median: what the finite number
    of trials leaves open. `bound` is the weakest of the runs; None where no theorem gives one.
    """

    attack: str
    metric: str
    interface: str
    measured: Spread
    low: float | None
    high: float | None
    floor: float | None
    control: Spread | None
    control_ends: tuple[float, float] | None  # likewise, of the controls
    bound: float | None
    verdicts: Mapping[str, int]  # how many runs ended with which
    fpr: float | None = None  # of true positives: the largest false-positive rate that a run's bound holds at

    @property
    def key(self) -> tuple[str, str, str]:
        return self.attack, self.metric, self.interface


@dataclass(frozen=True, kw_only=True)
class Probed:
    """An attack's questions to services of a point, all seeds together."""

    asked: int
    withheld: float  # share of them: refused, or answered with the prior
    until_alarm: tuple[int | None, ...]  # by seed; None: there was none
    flagged: int
    sessions: int


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """The services of a point: their guards in order, what these stopped, and what they cost people."""

    guards: tuple[str, ...]
    probed: Mapping[str, Probed]  # by attack
    sessions: int  # of normal traffic
    queries: int
    flagged: Interval | None  # the share of these sessions
    withheld: Interval | None  # the share of a session's queries: their mean
    milliseconds: Mapping[str, float]  # p50, p99, bare_p50, bare_p99


@dataclass(frozen=True, kw_only=True)
class Point:
    """Runs that differ in nothing but the seed."""

    label: str
    series: str  # what is swept besides the budget, such as `model=wide`; points of one are joined
    status: str  # HOLDS, NONE or VOID
    void_reason: str
    epsilon: float  # the largest of the runs; infinite: not private
    delta: float
    membership_bound: float | None  # most true positives of any test at 1 % false positives
    noise_multiplier: tuple[float, float] | None  # least and greatest of the runs
    sentence: str
    interface: str  # what is given away of the model: weights, or a form of output
    accuracy: Spread
    accuracy_ends: tuple[float, float] | None  # the runs' own intervals, in the median; None: not known
    auroc: Spread | None
    auroc_ends: tuple[float, float] | None  # likewise; None: a run does not say, as older ones do not
    control_accuracy: Spread | None
    cost: Paired | None  # released minus control, run by run
    floor: float | None
    lines: tuple[Line, ...]
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    reproduce: tuple[str, ...]
    worst: Spread | None = None  # utility for the subgroup that it is least for, or class if there are none
    worst_for: tuple[str, ...] = ()  # which they were, of the runs
    by_answers: Mapping[int, float] = field(default_factory=dict)  # accuracy had there been so many answers
    guarded: Guarded | None = None  # where services were attacked
    pareto: bool = False  # no other point has a smaller bound at the same accuracy or better

    @property
    def private(self) -> bool:
        """Whether a guarantee holds that can be drawn."""
        return self.status == HOLDS and math.isfinite(self.epsilon)


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Two points side by side in a series, and how the second differs in one quantity."""

    before: str
    after: str
    quantity: str
    paired: Paired


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A run that was asked for and has no report, or none that can stand beside the others."""

    name: str
    why: str


@dataclass(frozen=True, kw_only=True)
class SearchCost:
    """What a search costs: each model alone, all of them, and the best one selected."""

    alone: float  # the largest epsilon of a single model; infinite: none is private
    together: float | None  # epsilon of all private models composed; None: not known
    delta: float
    models: int  # composed
    rule: str  # how they are composed
    left_out: tuple[str, ...]  # what the composition does not hold
    selection: str  # what the selected one's epsilon rests on, or why it has none
    selected: float | None = None  # epsilon of the best of a private selection; None: no number
    tuned_on: tuple[str, ...] = ()  # public data that settings were chosen on, as is declared


@dataclass(frozen=True, kw_only=True)
class LimitOutcome:
    """One limit at one point: the number that was used, and what came of it."""

    limit: str
    point: str
    used: float | None
    basis: str  # which end of which interval
    outcome: str  # MET, NOT_MET or UNDECIDED


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Which points meet all limits."""

    limits: tuple[str, ...]
    judged: tuple[LimitOutcome, ...]
    met: tuple[str, ...]  # labels, the smallest epsilon first
    sentence: str

    @property
    def cheapest(self) -> str | None:
        return self.met[0] if self.met else None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that runs say together."""

    title: str
    data: Mapping[str, Any]
    unit: str
    adjacency: str
    confidence: float
    points: tuple[Point, ...]
    neighbours: tuple[Neighbours, ...]
    missing: tuple[Missing, ...]
    cost: SearchCost
    command: str
    answer: Answer | None = None
    metric: str = "accuracy"  # what is called so of the points
