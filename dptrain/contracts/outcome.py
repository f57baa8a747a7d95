"""What a run says before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dptrain.contracts.counts import Counts, Scaled
from dptrain.contracts.evidence import Exposed, Gallery, Interval, Leakage, NotRun
from dptrain.contracts.guarding import Guarding
from dptrain.contracts.privacy import Plan
from dptrain.contracts.statement import Statement


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Test records of about the same confidence: its mean, and the share of them that are named rightly."""

    confidence: float
    right: Interval
    records: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far the confidence in the named class is from how often that class is right.

    Bins hold about as many records each, the least confident first; `error` is what lies between confidence
    and share right, in the mean over records (expected calibration error).
    """

    error: Interval
    bins: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """The test records with one value in a column, and the mean of their scores."""

    column: str
    name: str
    records: int
    value: Interval


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What privacy costs the test records of a class or a subgroup: the release beside the control model.

    `by` is what they are told apart by: all, class, or a column. The intervals of `difference`, release
    minus control on the same records, hold together for all that are measured, and so do those of `excess`,
    that difference minus the one of all other records; None: there are no others.
    """

    by: str
    name: str
    records: int
    release: Interval
    control: Interval
    difference: Interval
    excess: Interval | None


def are_errors(measure: str) -> bool:
    """Whether less of what this names is better."""
    return measure.endswith("_error")


@dataclass(frozen=True, kw_only=True)
class Utility:
    """How good a model is on the test records: accuracy, macro one-vs-rest AUROC, mean loss in nats.

    Of another task than classification, `accuracy` is what `metric` names, and `more` are further measures.
    `by_class` is the recall of each class, by its name; of several labels the AUROC of each. `confusion`
    counts records, by their class and then by the class that is named. `scores` (records,) are
    what `scored` names of each record, or, where that is empty, what it adds to the metric, which is their
    mean; NaN: not measured. Of errors, whose names end so, the lower is the better.
    """

    accuracy: Interval
    auroc: Interval
    loss: float
    records: int
    metric: str = "accuracy"
    more: Mapping[str, Interval] = field(default_factory=dict)
    by_class: Mapping[str, Interval] = field(default_factory=dict)
    by_subgroup: tuple[Subgroup, ...] = ()
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    calibration: Calibration | None = None
    scores: Tensor | None = field(default=None, repr=False, compare=False)
    scored: str = ""

    @property
    def scores_are_errors(self) -> bool:
        return are_errors(self.scored)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds that the parts of a run will take, and the most memory in GiB; 0 for what is not done."""

    training: float
    control: float
    shadows: float
    attacks: Mapping[str, float]  # by name
    report: float
    memory_gib: float

    @property
    def parts(self) -> dict[str, float]:
        return {
            "training": self.training,
            "control model": self.control,
            "shadow models": self.shadows,
            "attacks": sum(self.attacks.values()),
            "report": self.report,
        }

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class Briefing:
    """What is about to be spent, told before training starts."""

    title: str  # the run's name, or the recipe's
    data: str  # name and where it came from
    counts: Counts
    model: str
    parameters: int
    mechanism: str
    device: str
    plan: Plan | None  # None: not private
    unit: str
    epsilon: float  # infinite: not private
    delta: float
    attacks: tuple[str, ...]
    estimate: Estimate | None  # None: unknown
    folder: Path
    copies: str = ""  # that records occur several times, for their owner; empty: none does
    scaled: tuple[Scaled, ...] = ()
    not_run: tuple[NotRun, ...] = ()  # attacks that are left out
    signal: float | None = None  # of all gradients, at most, over the noise; None: no plan of DP-SGD
    processes: int = 1  # that compute it together
    features: str = ""  # why those of a frozen part are made anew at each step; empty: they are not


@dataclass(frozen=True, kw_only=True)
class Detectable:
    """The most that an attack could certify, were all its trials right, beside what is proved."""

    attack: str
    metric: str
    trials: int
    limit: float
    floor: float
    bound: float | None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Other batches, or more or fewer passes over the records, at about the same epsilon."""

    batch: int
    epochs: float
    steps: int
    noise_multiplier: float
    signal: float
    seconds: float | None  # of the training


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a training would promise, cost and be able to show, told without it."""

    briefing: Briefing
    counted: str  # where the number of records is from
    void_reason: str | None  # why the guarantee of such a training would not hold
    epsilon_by_step: tuple[tuple[int, float], ...]
    delta_meaning: str
    membership_tpr: float  # the most of any test at 1 % false positives; 1: nothing is proved
    detectable: tuple[Detectable, ...]
    variants: tuple[Variant, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a run found out; what the console, the files and the tracker are made from."""

    recipe: str
    mechanism: str
    data: Mapping[str, Any]  # name, source, train, holdout, test (counts), classes (count), copies
    counts: Counts  # for the owner of the records; the guarantee has those that are public
    utility: Utility
    control: Utility | None  # of the control model
    floor_accuracy: float  # always naming the most frequent class
    guarantee: Statement
    epsilon_by_step: tuple[tuple[int, float], ...]  # empty: not private
    holdout_by_step: tuple[tuple[int, float, float], ...]  # step, accuracy, loss on held-out records
    tradeoff: tuple[tuple[float, float], ...]  # false-positive rate, most true positives
    leakage: tuple[Leakage, ...]
    gallery: Gallery | None
    seconds: Mapping[str, float]  # train, attack, total
    folder: Path
    reproduce: str  # the command line
    queries: Mapping[str, tuple[tuple[int, float, float | None], ...]] = field(default_factory=dict)
    # by attack: queries spent, success on the release, on the control model
    exposed: tuple[Exposed, ...] = ()  # the probes that were trained on, the easiest to recognise first
    not_run: tuple[NotRun, ...] = ()  # attacks that could not be judged
    scaled: tuple[Scaled, ...] = ()  # numbers of the evidence
    name: str | None = None  # that the run was given; None: the recipe's
    guarding: Guarding | None = None  # of a service that was attacked
    costs: tuple[Cost, ...] = ()  # of privacy: all test records first; none without a control model

    @property
    def title(self) -> str:
        """What the report is headed by."""
        return self.name or self.recipe
