"""What a run owes to the sweep that it is part of: nothing, a ledger, or the terms of a private selection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dptrain.config import Config
from dptrain.contracts import Plan, Report, Statement, Task, Tracker
from dptrain.runs import folder as runs
from dptrain.sweep import budget, score
from dptrain.sweep import state as sweeps
from dptrain.sweep import tracking as sweep_tracking
from dptrain.tracking import PARENT, Tracking


@dataclass(frozen=True, kw_only=True)
class Study:
    """A run's part in something larger, asked in this order; this one is of a run by itself."""

    config: Config
    folder: Path

    def check(self, plan: Plan | None, records: str, task: Task) -> None:
        """Raise DptrainError where this training is not what was agreed on; `records` is their hash."""

    def reserve(self, plan: Plan | None, *, delta: float, draws: int) -> None:
        """Count the training as spent; raises ConfigError where it would be too much."""

    def name(self) -> str:
        """What the run is tracked as."""
        return self.config.name or self.folder.name

    def begin(
        self, plan: Plan | None, tracking: Tracking, tracker: Tracker, *, delta: float, draws: int
    ) -> None:
        """Note that the training begins, and show it below its parent."""

    def annotate(self, statement: Statement) -> Statement:
        """The statement, with what is known of how its settings were chosen."""
        public = self.config.privacy.tuned_on
        return statement if public is None else score.tuned_on_public(statement, public)

    def keep_score(self, report: Report) -> None:
        """Keep what the training is chosen by, before any attack."""

    def total(self, report: Report, plan: Plan | None, *, delta: float, draws: int) -> Report:  # noqa: ARG002
        """The report, with what all models together spend."""
        return report


@dataclass(frozen=True, kw_only=True)
class SweepJob(Study):
    """A job of a sweep: what its models spend together is counted; a search may choose by its score."""

    overrides: tuple[str, ...]

    def check(self, plan: Plan | None, records: str, task: Task) -> None:  # noqa: ARG002
        if budget.searching(self.folder.parent):
            score.named(self.config.sweep.score, task)

    def reserve(self, plan: Plan | None, *, delta: float, draws: int) -> None:
        budget.reserve(
            self.folder.parent,
            self.folder.name,
            self._proved(plan),
            delta=delta,
            draws=draws,
            unit=self.config.privacy.unit,
            max_epsilon=self.config.sweep.max_epsilon,
        )

    def name(self) -> str:
        return sweep_tracking.job_name(
            self.overrides, self.folder.name, sweep_tracking.shared(self.folder.parent)
        )

    def begin(
        self, plan: Plan | None, tracking: Tracking, tracker: Tracker, *, delta: float, draws: int
    ) -> None:
        sweep, proved, asked = self.folder.parent, self._proved(plan), self.config
        spent = (
            None
            if proved is None
            else sweeps.spent_of(
                proved, delta=delta, draws=draws, unit=asked.privacy.unit, trial=asked.sweep.trial
            )
        )
        sweeps.note_begun(self.folder, spent)
        parent = sweeps.parent_run(sweep, partial(sweep_tracking.begin, tracking, sweep))
        if parent is not None:
            tracker.tags({PARENT: parent})

    def keep_score(self, report: Report) -> None:
        if budget.searching(self.folder.parent):
            score.keep_score(report, self.config.sweep.score)

    def total(self, report: Report, plan: Plan | None, *, delta: float, draws: int) -> Report:
        if (proved := self._proved(plan)) is None:
            return report
        together = budget.stated(self.folder, proved, delta, draws=draws, unit=self.config.privacy.unit)
        return replace(report, guarantee=replace(report.guarantee, sweep=together))

    def _proved(self, plan: Plan | None) -> Plan | None:
        """The plan, where it proves anything: the draws of a deterministic run are known to all."""
        return None if self.config.deterministic else plan


@dataclass(frozen=True, kw_only=True)
class Trial(SweepJob):
    """A trial of a private selection: what it is selected by is fixed, and the others stay secret."""

    def check(self, plan: Plan | None, records: str, task: Task) -> None:  # noqa: ARG002
        score.refuse_uncovered(self.config, plan, records, self.folder)

    def annotate(self, statement: Statement) -> Statement:
        return score.as_trial(statement, score.terms_of(self.folder.parent))

    def keep_score(self, report: Report) -> None:
        score.release_trial(report, self.config.sweep.score)

    def total(self, report: Report, plan: Plan | None, *, delta: float, draws: int) -> Report:  # noqa: ARG002
        return report


def study_of(config: Config, order: runs.Order, folder: Path) -> Study:
    """What the run in this folder is part of."""
    if config.sweep.trial is not None:
        return Trial(config=config, folder=folder, overrides=order.overrides)
    if order.sweep:
        return SweepJob(config=config, folder=folder, overrides=order.overrides)
    return Study(config=config, folder=folder)
