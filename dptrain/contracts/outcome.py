"""What a run says before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dptrain.contracts.counts import Counts, Scaled
from dptrain.contracts.evidence import Exposed, Gallery, Interval, Leakage, NotRun
from dptrain.contracts.privacy import Plan
from dptrain.contracts.statement import Statement


@dataclass(frozen=True, kw_only=True)
class Utility:
    """How good a model is on the test records: accuracy, macro one-vs-rest AUROC, mean loss in nats.

    Of another task than classification, `accuracy` is what `metric` names, and `more` are further measures.
    """

    accuracy: Interval
    auroc: float
    loss: float
    records: int
    metric: str = "accuracy"
    more: Mapping[str, Interval] = field(default_factory=dict)


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
    seconds: float | None  # estimated training time
    folder: Path
    copies: str = ""  # that records occur several times, for their owner; empty: none does
    scaled: tuple[Scaled, ...] = ()
    not_run: tuple[NotRun, ...] = ()  # attacks that are left out
    features: str = ""  # why those of a frozen part are made anew at each step; empty: they are not


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

    @property
    def title(self) -> str:
        """What the report is headed by."""
        return self.name or self.recipe
