"""The console: the plan, the progress, and one table in the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import rich.console
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dptrain import contracts
from dptrain.contracts import Briefing, DptrainError, Forecast, Report
from dptrain.redaction import redact
from dptrain.report import console_tables, defences, sentences, words
from dptrain.report import forecast as pages
from dptrain.report.console_tables import near

WIDE = 112  # columns from which the verdict has a column of its own
WIDEST = 132  # longer lines are hard to read
MILESTONES = 10  # lines of progress, where there is no terminal to draw a bar in
LEGEND = (
    "baseline: the same attack without the model. control: the same attack on a model trained alike without "
    "privacy. bound: the most that the guarantee allows. limit: the most that the attack could have shown "
    "with these trials. In brackets: {confidence:.0%} intervals, each line by itself: among many, one may "
    "err. Measured leakage is no ceiling: a better attack may find more; only a bound is proved."
)


class Console:
    """Everything reached to the person who waits; plain lines where the output is not a terminal."""

    def __init__(
        self, out: rich.console.Console | None = None, errors: rich.console.Console | None = None
    ) -> None:
        # Names and paths may hold what reads like Rich's own markup: whatever has a style is a Text.
        plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
        self.out = out or rich.console.Console(**plain)
        self.errors = errors or rich.console.Console(stderr=True, **plain)
        # Worker processes share one terminal, in which their bars would overwrite each other.
        self.draws = self.out.is_terminal and parent_process() is None

    # ------------------------------------------------------------------ before

    def briefing(self, briefing: Briefing) -> None:
        """The plan: what will be spent, on what, and how long it will take."""
        title = Text.assemble((briefing.title, "bold"), "  ", (briefing.mechanism, "dim"))
        self._panel(title, console_tables.plan(briefing))

    def forecast(self, forecast: Forecast) -> None:
        """What a training would promise, cost and be able to show."""
        briefing, width = forecast.briefing, min(self.out.width, WIDEST)
        title = Text.assemble((f"plan of {briefing.title}", "bold"), "  ", (briefing.mechanism, "dim"))
        self._panel(title, pages.rows(forecast))
        if forecast.detectable:
            self.out.print(pages.detectable(forecast.detectable), width=width)
        if forecast.variants:
            planned: Any = briefing.plan
            own = planned.expected_batch_size, planned.steps
            self.out.print(pages.variants(forecast.variants, *own), width=width)

    # ------------------------------------------------------------------ meanwhile

    @contextmanager
    def training(self, title: str) -> Iterator[contracts.Progress]:
        """A bar with the running epsilon; yields the function to call after each step."""
        start, taken, last = time.monotonic(), 0, 0.0
        earlier: bool | None = None  # whether every step was taken before this process began

        def reach(done: int, total: int, epsilon: float) -> None:
            nonlocal taken, last, earlier
            earlier = done == total if earlier is None else earlier
            taken, last = done, epsilon

        def note(epsilon: float) -> str:
            return f"ε {words.epsilon(epsilon)}" if 0 <= epsilon < float("inf") else "not private"

        if self.draws:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", style="bold", markup=False),
                TimeRemainingColumn(compact=True),
            )
            with Progress(*columns, console=self.out, transient=True) as bar:
                task = bar.add_task(title, total=None, note="")

                def draw(*, done: int, total: int, epsilon: float) -> None:
                    reach(done, total, epsilon)
                    bar.update(task, completed=done, total=total, note=note(epsilon))

                yield draw
        else:
            reached = -1

            def say(*, done: int, total: int, epsilon: float) -> None:
                nonlocal reached
                reach(done, total, epsilon)
                milestone = done * MILESTONES // total
                if milestone == reached or done in (0, total):
                    return
                if reached >= 0:
                    left = (time.monotonic() - start) * (total - done) / done
                    self._line(
                        f"{title}  step {done:,} of {total:,}  {note(epsilon)}  "
                        f"about {words.duration(left)} left"
                    )
                reached = milestone

            yield say
        what = f"{words.how_many(taken, 'step')}  {note(last)}{'  finished earlier' if earlier else ''}"
        self._done(title, what, time.monotonic() - start)

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """A spinner while something runs that cannot say how far it is."""
        start = time.monotonic()
        if self.draws:
            with self.out.status(Text(f"{title} …"), spinner="dots", spinner_style="cyan"):
                yield
        else:
            self._line(f"{title} …")
            yield
        self._done(title, "", time.monotonic() - start)

    def _done(self, title: str, what: str, seconds: float) -> None:
        mark, done = (("✓ ", "green"), "") if self.out.is_terminal else ("", "done  ")
        said = f"{title}  {done}{what}{'  ' if what else ''}"
        self._line(mark, said, (words.duration(seconds), "dim"))

    def _line(self, *parts: str | Text | tuple[str, str]) -> None:
        """A line of these parts as they are, or each with its style."""
        self.out.print(Text.assemble(*parts), soft_wrap=True)

    # ------------------------------------------------------------------ after

    def report(self, report: Report, command: str = "mlflow ui") -> None:
        """The one table of a run, and where to read on; `command` shows the runs, if they are recorded."""
        width = min(self.out.width, WIDEST)
        void = report.guarantee.void
        if void:
            alarm = f" VOID  {report.guarantee.void_reason}. Nothing below is a privacy guarantee. "
            self.out.print()
            self.out.print(Text(alarm, style="bold white on red"))
        self.out.print(console_tables.results(report, wide=width >= WIDE), width=width)
        if (chosen := report.guarantee.interface or "weights") != "weights":
            closer = any(line.interface == "" for line in report.leakage)  # to the model than its answers
            more = "; attacks on weights and gradients tell what would follow if more got out" * closer
            self._line(("given away", "bold"), f"  {chosen.replace('_', ' ')}{more}")
        for reason in sentences.not_run(report):
            self.out.print(Text(f"NOT RUN  {reason}", style="bold yellow"), soft_wrap=True)
        if report.not_run:
            self.out.print()
        if (defended := console_tables.output_defences(report)) is not None:
            self.out.print(defended, width=width)
            self.out.print(Padding(Text(defences.CAVEAT, style="dim"), (0, 0, 1, 0)), width=width)
        sentence = Text(report.guarantee.sentence, style="bold red" if void else "")
        self.out.print(Padding(sentence, (0, 0, 1, 0)), width=width)
        self._search(report)
        if report.leakage:
            legend = LEGEND.format(confidence=report.leakage[0].confidence)
            self.out.print(Padding(Text(legend, style="dim"), (0, 0, 1, 0)), width=width)
        for name, value in self._paths(report, command):
            self._line((f"{name:<8}", "dim"), " ", value)

    def _search(self, report: Report) -> None:
        """What holds for whoever sees other models of a sweep, and for the selected one."""
        if (together := report.guarantee.sweep) is not None:
            self._line(
                ("sweep", "bold"),
                f"    {together.runs} models so far; whoever sees them all"
                f"{', or picks one by its results,' if together.choice_covered else ''} holds "
                f"ε = {words.at_most(together.epsilon_together)}",
            )
            if together.not_private:
                self._line(f"         not private, or void, and not counted: {together.not_private}")
            if together.max_epsilon is not None and together.epsilon_counted is not None:
                self._line(
                    f"         trainings counted: {together.counted}, ε = "
                    f"{words.at_most(together.epsilon_counted)} of at most {together.max_epsilon:g}"
                )
            self._line("")
        if report.guarantee.selection is not None and not report.guarantee.void:
            self._line(
                ("selection", "bold"),
                f"  if it is selected, it holds "
                f"ε = {words.at_most(report.guarantee.selection.epsilon)} to those who see nothing else",
            )
            self._line("")

    def audit(
        self, name: str, weights: Path, attacks: Sequence[str], folder: Path, notes: Sequence[str]
    ) -> None:
        """Which model is attacked, how, and where the report goes."""
        rows: list[tuple[str, str | Text]] = [("weights", near(weights)), ("attacks", "\n".join(attacks))]
        rows += [("", Text(note, style="yellow")) for note in notes]
        rows += [("folder", near(folder))]
        self._panel(Text(f"audit of {name}", style="bold"), rows)

    def _panel(self, title: Text, rows: Iterable[tuple[str, str | Text]]) -> None:
        """Named lines in a frame."""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, text in rows:
            grid.add_row(Text(name), Text(text) if isinstance(text, str) else text)
        frame = Panel(grid, title=title, title_align="left", border_style="dim", padding=(1, 2))
        self.out.print(frame, width=min(self.out.width, 100))

    @staticmethod
    def _paths(report: Report, command: str) -> Iterator[tuple[str, str | Text]]:
        yield "report", near(report.folder / "report.html")
        yield "numbers", near(report.folder / "report.json")
        yield "figures", near(report.folder / "figures")
        if report.exposed:
            yield "", Text("exposure.csv names training records: keep it confidential", style="yellow")
        if report.gallery is not None:
            yield (
                "",
                Text("class_inversion.png shows training records: keep it confidential", style="yellow"),
            )
        if sentences.audited(report):
            yield (
                "",
                Text("sensitivity.json measures training records: keep it confidential", style="yellow"),
            )
        if (report.folder / "teachers.pt").exists():
            yield "", Text("teachers.pt votes without noise: keep it confidential", style="yellow")
        if command:
            yield "compare", command

    def verified(self, folder: Path, checks: Sequence[tuple[str, bool | None, str]]) -> None:
        """What came of checking a release against its statement: name, whether it holds, and why."""
        self.out.print(console_tables.checks(checks), width=min(self.out.width, WIDEST))
        wrong = [name for name, holds, _ in checks if holds is False]
        if wrong:
            self._line(("not as its statement says", "bold red"), f"  {', '.join(wrong)}: {near(folder)}")
        else:
            self._line(("as its statement says", "green"), f"  {near(folder)}")

    def there_already(self, folder: Path) -> None:
        """A job of a sweep that was finished before."""
        self._line(("there already", "dim"), f"  {near(folder)}")

    def note(self, name: str, text: str) -> None:
        """A line with its name in front."""
        text = redact(text)
        self._line((name, "bold"), f"  {text}" if name else f"          {text}")

    def page(self, path: Path) -> None:
        """Where the comparison of a sweep can be read."""
        self._line((f"{'page':<8}", "dim"), f" {near(path)}")

    def interrupted(self, folder: Path | None, *, sweep: bool = False) -> None:
        """How a run, or all the jobs of a sweep, go on after Ctrl-C; None if nothing had begun."""
        how = "go on with the same command and sweep." if sweep else "go on with: python -m dptrain "
        outcome = "nothing had begun" if folder is None else f"{how}resume={near(folder)}"
        self.errors.print(Text.assemble(("stopped  ", "bold yellow"), outcome), soft_wrap=True)

    def error(self, error: DptrainError) -> None:
        """What is wrong and what cures it, on the error stream."""
        first, *more = redact(str(error)).splitlines() or [type(error).__name__]
        self.errors.print(Text.assemble(("error  ", "bold red"), first), soft_wrap=True)
        for line in more:
            self.errors.print(Text(f"       {line}"), soft_wrap=True)
