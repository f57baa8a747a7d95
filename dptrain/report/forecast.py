"""The page of a plan on the console: what a training would promise, cost and be able to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from dptrain.contracts import Detectable, Forecast, Variant
from dptrain.report import words
from dptrain.report.console_tables import plan

SHORT = 3  # epochs from which their number is told without decimals


def rows(forecast: Forecast) -> Iterator[tuple[str, str | Text]]:
    """The rows of the plan and what follows from it: name and text."""
    yield from (row for row in plan(forecast.briefing) if row[0] != "folder")
    estimate = forecast.briefing.estimate
    if estimate is not None:
        yield "memory", f"about {estimate.memory_gib:.1f} GiB"
    yield "counted", forecast.counted
    if forecast.void_reason is not None:
        yield "VOID", Text(f"{forecast.void_reason}: nothing would be proved", style="bold red")
        return
    if not forecast.epsilon_by_step:
        return
    yield "", ""
    curve = ", ".join(
        f"{words.epsilon(spent)} after {step:,}" for step, spent in forecast.epsilon_by_step[1:]
    )
    last = forecast.epsilon_by_step[-1][0]
    yield "spent", f"ε {curve} step{'' if last == 1 else 's'}"
    yield "delta", forecast.delta_meaning
    yield (
        "attacks",
        "at a 1 % false-positive rate, no membership test identifies more than "
        f"{words.percent_at_most(forecast.membership_tpr)} of the training {forecast.briefing.unit}s",
    )


def detectable(found: Sequence[Detectable]) -> Table:
    """The most that each attack could certify with its trials, beside blind guessing and the bound."""
    table = _table("WHAT ATTACKS COULD SHOW", "trials", "guessing", "at most seen", "bound")
    for each in found:
        seen = words.low_end(each.limit)
        table.add_row(
            Text(f"{each.attack}  {words.named(each.metric)}"),
            f"{each.trials:,}",
            words.number(each.floor),
            # What lies below guessing is no sign of anything, however often the attack is right.
            seen if each.limit > each.floor else Text(f"{seen}: too few trials", style="yellow"),
            words.bound(each.bound),
        )
    return table


def variants(found: Sequence[Variant], batch: int, steps: int) -> Table:
    """Noise, signal and time with other batches and epochs at roughly the same epsilon."""
    table = _table("AT ROUGHLY THE SAME ε", "epochs", "steps", "noise", "signal to noise", "training")
    for each in found:
        own = (each.batch, each.steps) == (batch, steps)
        epochs = f"{each.epochs:.1f}" if each.epochs < SHORT else f"{each.epochs:,.0f}"
        table.add_row(
            f"batches of {each.batch:,}{', as planned' if own else ''}",
            epochs,
            f"{each.steps:,}",
            f"{each.noise_multiplier:.3g}",
            f"{each.signal:.2g}",
            "unknown" if each.seconds is None else words.duration(each.seconds),
            style="bold" if own else "",
        )
    return table


def _table(title: str, *heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column(Text(title, style="bold cyan"), overflow="fold")
    for head in heads:
        table.add_column(head, justify="right")
    return table
