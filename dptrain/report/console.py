"""What the person at the terminal sees: the plan, the progress, and one table in the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path

import rich.console
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dptrain import contracts
from dptrain.contracts import Briefing, DptrainError, Interval, Leakage, Report
from dptrain.evidence.verdict import BROKEN, LEAKS, NOT_SHOWN, RESISTED, kind
from dptrain.redaction import redact
from dptrain.report import defences, sentences, words
from dptrain.report.leakage_words import named

WIDE = 112  # columns from which the verdict has a column of its own
WIDEST = 132  # longer lines are hard to read
MILESTONES = 10  # lines of progress, where there is no terminal to draw a bar in
TONE = {LEAKS: "yellow", BROKEN: "bold red", RESISTED: "green", NOT_SHOWN: "bold yellow"}

LEGEND = (
    "floor: the same attack without the model. control: the same attack on the twin trained without "
    "privacy. bound: the most that the guarantee allows anyone. limit: the most that these trials could "
    "have certified. In brackets: {confidence:.0%} intervals, each line by itself: among many, one may "
    "err. Measured leakage is no ceiling: a better attack may find more; only a bound is proved."
)


class Console:
    """Everything said to the person who waits; plain lines where the output is not a terminal."""

    def __init__(
        self, out: rich.console.Console | None = None, errors: rich.console.Console | None = None
    ) -> None:
        self.out = out or rich.console.Console(highlight=False)
        self.errors = errors or rich.console.Console(stderr=True, highlight=False)
        # Worker processes share one terminal, in which their bars would overwrite each other.
        self.draws = self.out.is_terminal and parent_process() is None

    # ------------------------------------------------------------------ before

    def briefing(self, briefing: Briefing) -> None:
        """The plan: what will be spent, on what, and how long it will take."""
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="dim", no_wrap=True)
        rows.add_column(overflow="fold")
        for name, text in _plan(briefing):
            rows.add_row(name, text)
        title = f"[bold]{briefing.recipe}[/bold]  [dim]{briefing.mechanism}[/dim]"
        panel = Panel(
            rows,
            title=title,
            title_align="left",
            box=box.ROUNDED,
            border_style="dim",
            padding=(1, 2),
            width=min(self.out.width, 100),
        )
        self.out.print(panel)

    # ------------------------------------------------------------------ meanwhile

    @contextmanager
    def training(self, title: str) -> Iterator[contracts.Progress]:
        """A bar with the running epsilon; yields the function to call after each step."""
        start, taken, last = time.monotonic(), 0, 0.0

        def note(epsilon: float) -> str:
            return f"ε {words.epsilon(epsilon)}" if 0 <= epsilon < float("inf") else "not private"

        if self.draws:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", style="bold"),
                TimeRemainingColumn(compact=True),
            )
            with Progress(*columns, console=self.out, transient=True) as bar:
                task = bar.add_task(title, total=None, note="")

                def draw(*, done: int, total: int, epsilon: float) -> None:
                    nonlocal taken, last
                    taken, last = done, epsilon
                    bar.update(task, completed=done, total=total, note=note(epsilon))

                yield draw
        else:
            said = -1

            def say(*, done: int, total: int, epsilon: float) -> None:
                nonlocal said, taken, last
                taken, last = done, epsilon
                milestone = done * MILESTONES // total
                if milestone == said or done == total:
                    return
                if said >= 0:
                    left = (time.monotonic() - start) * (total - done) / done
                    self._line(
                        f"{title}  step {done:,} of {total:,}  {note(epsilon)}  "
                        f"about {words.duration(left)} left"
                    )
                said = milestone

            yield say
        self._done(title, f"{taken:,} steps  {note(last)}", time.monotonic() - start)

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """A spinner while something runs that cannot say how far it is."""
        start = time.monotonic()
        if self.draws:
            with self.out.status(f"{title} …", spinner="dots", spinner_style="cyan"):
                yield
        else:
            self._line(f"{title} …")
            yield
        self._done(title, "", time.monotonic() - start)

    def _done(self, title: str, what: str, seconds: float) -> None:
        mark = "[green]✓[/green] " if self.out.is_terminal else ""
        done = "" if self.out.is_terminal else "done  "
        self._line(f"{mark}{title}  {done}{what}{'  ' if what else ''}[dim]{words.duration(seconds)}[/dim]")

    def _line(self, text: str) -> None:
        self.out.print(text, soft_wrap=True)

    # ------------------------------------------------------------------ after

    def report(self, report: Report, command: str = "mlflow ui") -> None:
        """The one table of a run, and where to read on; `command` shows the runs, if they are recorded."""
        width = min(self.out.width, WIDEST)
        void = report.guarantee.void
        if void:
            alarm = f" VOID  {report.guarantee.void_reason}. Nothing below is a privacy guarantee. "
            self.out.print()
            self.out.print(Text(alarm, style="bold white on red"))
        self.out.print(_table(report, wide=width >= WIDE), width=width)
        if (chosen := report.guarantee.interface or "weights") != "weights":
            self._line(
                f"[bold]given away[/bold]  {chosen.replace('_', ' ')}; attacks on weights and gradients "
                "tell what would follow if more got out"
            )
        for unjudged in sentences.not_run(report):
            self.out.print(Text(f"NOT RUN  {unjudged}", style="bold yellow"), soft_wrap=True)
        if report.not_run:
            self.out.print()
        self._defences(report, width)
        sentence = Text(report.guarantee.sentence, style="bold red" if void else "")
        self.out.print(Padding(sentence, (0, 0, 1, 0)), width=width)
        if (together := report.guarantee.sweep) is not None:
            self._line(
                f"[bold]sweep[/bold]    {together.runs} models so far; whoever sees them all, or picks "
                f"one by its results, holds ε = {words.at_most(together.epsilon_together)}"
            )
            if together.not_private:
                self._line(f"         not private, or void, and not counted: {together.not_private}")
            if together.max_epsilon is not None and together.epsilon_counted is not None:
                self._line(
                    f"         trainings counted: {together.counted}, ε = "
                    f"{words.at_most(together.epsilon_counted)} of at most {together.max_epsilon:g}"
                )
            self._line("")
        if report.guarantee.selection is not None and not void:
            self._line(
                f"[bold]selection[/bold]  if it is selected, it holds "
                f"ε = {words.at_most(report.guarantee.selection.epsilon)} to those who see nothing else"
            )
            self._line("")
        if report.leakage:
            legend = LEGEND.format(confidence=report.leakage[0].confidence)
            self.out.print(Padding(Text(legend, style="dim"), (0, 0, 1, 0)), width=width)
        for name, value in self._paths(report, command):
            self._line(f"[dim]{name:<8}[/dim] {value}")

    def _defences(self, report: Report, width: int) -> None:
        """What each form of output leaves to attacks by query."""
        names, rows = defences.table(report.leakage)
        if not rows:
            return
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, expand=True)
        table.add_column(Text("OUTPUT DEFENCES", style="bold cyan"), ratio=1, overflow="fold")
        for name in ("floor", *names):
            table.add_column(name.replace("_", " "), justify="right")
        for name, floor, values in rows:
            table.add_row(name, _number(floor), *("" if v is None else _number(v.value) for v in values))
        self.out.print(table, width=width)
        self.out.print(Padding(Text(defences.CAVEAT, style="dim"), (0, 0, 1, 0)), width=width)

    def audit(self, name: str, weights: Path, attacks: Sequence[str], folder: Path) -> None:
        """Which model is attacked, how, and where the report goes."""
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="dim", no_wrap=True)
        rows.add_column(overflow="fold")
        rows.add_row("weights", str(_near(weights)))
        rows.add_row("attacks", "\n".join(attacks))
        rows.add_row("folder", str(_near(folder)))
        title = f"[bold]audit of {name}[/bold]"
        self.out.print(
            Panel(
                rows,
                title=title,
                title_align="left",
                box=box.ROUNDED,
                border_style="dim",
                padding=(1, 2),
                width=min(self.out.width, 100),
            )
        )

    @staticmethod
    def _paths(report: Report, command: str) -> Iterator[tuple[str, str]]:
        yield "report", str(_near(report.folder / "report.html"))
        yield "numbers", str(_near(report.folder / "report.json"))
        yield "figures", str(_near(report.folder / "figures"))
        if report.exposed:
            yield "", "[yellow]exposure.csv names training records: keep it confidential[/yellow]"
        if report.gallery is not None:
            yield "", "[yellow]class_inversion.png shows training records: keep it confidential[/yellow]"
        if sentences.audited(report):
            yield "", "[yellow]sensitivity.json measures training records: keep it confidential[/yellow]"
        if command:
            yield "compare", command

    def verified(self, folder: Path, checks: Sequence[tuple[str, bool | None, str]]) -> None:
        """What came of checking a release against its statement: name, whether it holds, and why."""
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        table.add_column(Text("VERIFIED", style="bold cyan"), no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("", overflow="fold")
        marks = {
            True: ("holds", "green"),
            False: ("DOES NOT MATCH", "bold red"),
            None: ("open", "dim"),
        }
        for name, holds, said in checks:
            word, style = marks[holds]
            table.add_row(Text(name), Text(word, style=style), Text(said))
        self.out.print(table, width=min(self.out.width, WIDEST))
        wrong = [name for name, holds, _ in checks if holds is False]
        if wrong:
            self._line(f"[bold red]not as its statement says[/bold red]  {', '.join(wrong)}: {_near(folder)}")
        else:
            self._line(f"[green]as its statement says[/green]  {_near(folder)}")

    def there_already(self, folder: Path) -> None:
        """A job of a sweep that was finished before."""
        self._line(f"[dim]there already[/dim]  {_near(folder)}")

    def note(self, name: str, text: str) -> None:
        """A line with its name in front."""
        text = redact(text)
        self._line(f"[bold]{name}[/bold]  {text}" if name else f"          {text}")

    def page(self, path: Path) -> None:
        """Where the comparison of a sweep can be read."""
        self._line(f"[dim]{'page':<8}[/dim] {_near(path)}")

    def interrupted(self, folder: Path | None) -> None:
        """How a run goes on after Ctrl-C; None if it had not begun."""
        self._stopped("go on with: python -m dptrain resume=", folder)

    def interrupted_sweep(self, folder: Path | None) -> None:
        """How all the jobs of a sweep go on after Ctrl-C; None if none had begun."""
        self._stopped("go on with the same command and sweep.resume=", folder)

    def _stopped(self, how: str, folder: Path | None) -> None:
        said = "nothing had begun" if folder is None else f"{how}{_near(folder)}"
        self.errors.print(Text.assemble(("stopped  ", "bold yellow"), said), soft_wrap=True)

    def error(self, error: DptrainError) -> None:
        """What is wrong and what cures it, on the error stream."""
        first, *more = redact(str(error)).splitlines() or [type(error).__name__]
        self.errors.print(Text.assemble(("error  ", "bold red"), first), soft_wrap=True)
        for line in more:
            self.errors.print(Text(f"       {line}"), soft_wrap=True)


# ---------------------------------------------------------------------- the plan


def _plan(briefing: Briefing) -> Iterator[tuple[str, str | Text]]:
    """The rows of the plan: name and text."""
    plan = briefing.plan
    if plan is None:
        yield "guarantee", Text(words.NOT_PRIVATE, style="yellow")
    else:
        yield (
            "guarantee",
            Text.assemble(
                (f"ε = {words.epsilon(briefing.epsilon)}", "bold cyan"),
                f" at δ = {words.delta(briefing.delta)}, per {briefing.unit}",
            ),
        )
        yield "", f"one {briefing.unit} {words.ADJACENCY[plan.adjacency]}"
        yield "noise", f"noise multiplier {plan.noise_multiplier:.4g}"
        yield "clipping", f"{plan.clipping}, to norm {plan.max_grad_norm:g}"
        yield "sampling", f"{plan.sampling}, sample rate {plan.sample_rate:.4g}"
        yield "steps", f"{plan.steps:,}, expected batch size {plan.expected_batch_size:,}"
    yield "", ""
    yield "data", briefing.data
    yield "", f"{briefing.train:,} to train on, {briefing.holdout:,} held out, {briefing.test:,} to test on"
    if briefing.copies:
        yield "warning", briefing.copies
    yield "model", f"{briefing.model}, {briefing.parameters:,} parameters, on {briefing.device}"
    if briefing.features:
        yield "", f"its frozen features are made anew at each step: {briefing.features}"
    yield "attacks", "\n".join(briefing.attacks) if briefing.attacks else "none"
    yield "", ""
    yield "time", "unknown" if briefing.seconds is None else f"about {words.duration(briefing.seconds)}"
    yield "folder", str(_near(briefing.folder))


def _near(path: Path) -> Path:
    """A path as seen from the current folder, where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


# ---------------------------------------------------------------------- the table


def _table(report: Report, *, wide: bool) -> Table:
    """Utility, guarantee and leakage under the same heads.

    A narrow table has the verdict below the name and leaves the control's interval to report.md.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, expand=True)
    table.add_column("", ratio=1, overflow="fold")
    for head in ("measured", "floor", "control", "bound", "limit"):
        table.add_column(head, justify="right", no_wrap=True)
    if wide:
        table.add_column("verdict", max_width=24)

    def section(title: str) -> None:
        table.add_row(Text(title, style="bold cyan"))

    def add(
        name: str,
        detail: str = "",
        *,
        measured: RenderableType = "",
        floor: float | None = None,
        control: Interval | float | None = None,
        bound: RenderableType = "",
        limit: float | None = None,
        verdict: Text | None = None,
    ) -> None:
        lines: list[RenderableType] = [Text(name)]
        if detail:
            lines.append(Padding(Text(detail, style="dim"), (0, 0, 0, 2)))
        if verdict is not None and not wide:
            lines.append(Padding(verdict, (0, 0, 0, 2)))
        if isinstance(control, Interval):
            control_cell = _measured(control) if wide else Text(words.number(control.value))
        else:
            control_cell = _number(control)
        cells = [measured, _number(floor), control_cell, bound, _number(limit)]
        table.add_row(Group(*lines), *cells, *([verdict or ""] if wide else []))

    section("UTILITY")
    utility, twin = report.utility, report.control
    add(
        f"test {words.named(utility.metric)}",
        f"{utility.records:,} records",
        measured=_measured(utility.accuracy, "bold"),
        floor=report.floor_accuracy,
        control=None if twin is None else twin.accuracy,
    )
    add("AUROC", measured=_number(utility.auroc), control=None if twin is None else twin.auroc)
    add("loss", measured=_number(utility.loss), control=None if twin is None else twin.loss)
    for name, found in utility.more.items():
        other = None if twin is None else twin.more[name]
        add(f"test {words.named(name)}", measured=_measured(found), control=other)
    table.add_row()

    section("GUARANTEE")
    statement = report.guarantee
    void = statement.void
    epsilon = words.at_most(statement.epsilon) if words.is_private(statement) else "none"
    add(
        f"ε at δ = {words.delta(statement.delta)}, per {statement.unit}",
        floor=0.0,
        bound=_bound(epsilon, void),
        verdict=_standing(report),
    )
    for rate, tpr in statement.tpr_at_fpr.items():
        fpr = float(rate)
        add(f"membership TPR at FPR {words.percent(fpr)}", floor=fpr, bound=_bound(words.at_most(tpr), void))

    if report.leakage:
        table.add_row()
        section("LEAKAGE")
    for line in filter(defences.shown, report.leakage):
        add(
            line.attack,
            _detail(line, void=void),
            measured=_measured(line.value, "bold"),
            floor=line.floor,
            control=line.control,
            bound=Text(words.NO_BOUND, style="dim")
            if line.bound is None
            else _bound(words.at_most(line.bound), void),
            limit=line.detection_limit,
            verdict=Text(line.verdict, style=TONE.get(kind(line.verdict), "")),
        )
    return table


def _detail(line: Leakage, *, void: bool) -> str:
    """A line's metric, and what explains a value above its bound."""
    chance = not void and line.bound is not None and line.value.low <= line.bound < line.value.value
    return f"{named(line)}; compatible with its bound: the interval reaches below" if chance else named(line)


def _standing(report: Report) -> Text:
    """What may be said of the guarantee, in a word or two."""
    if report.guarantee.void:
        return Text("VOID", style="bold white on red")
    if not words.is_private(report.guarantee):
        return Text("nothing is proved", style="yellow")
    return Text("proved", style="green")


def _measured(value: Interval, style: str = "") -> Text:
    return Text.assemble((words.number(value.value), style), "\n", (words.interval(value), "dim"))


def _bound(text: str, void: bool) -> Text:
    """A bound, unless it does not hold."""
    return Text("void", style="bold red") if void else Text(text, style="bold")


def _number(value: float | None) -> Text:
    return Text("" if value is None else words.number(value))
