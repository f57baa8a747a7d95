"""What guards of a service stopped, and what they cost: tables and sentences of a report."""

from __future__ import annotations

from collections.abc import Iterator

from dptrain.contracts import Guarding, Probing
from dptrain.contracts.outcome import Report
from dptrain.report import words
from dptrain.report.blocks import Table

UNKNOWN = "not known"
NO_BOUND = (
    "No theorem bounds what guards let pass: they cost an attacker time and queries, and another attacker "
    "may get round them. Only the guarantee of the training, and the ledger of a release by paid answers, "
    "hold whatever is asked."
)


def table(found: Guarding) -> Table:
    """What each attack asked, and what became of it."""
    return Table(
        heads=(
            "attack", "keys", "asked", "answered", "refused", "with the prior", "sessions flagged",
            "first alarm after", "waited",
        ),
        rows=tuple(_row(each, watched=found.guards is not None) for each in found.probing),
        numeric=range(1, 9),
    )  # fmt: skip


def _row(found: Probing, *, watched: bool) -> tuple[str, ...]:
    return (
        found.attack.replace("_", " "),
        f"{found.keys:,}",
        f"{found.asked:,}",
        f"{found.answered:,}",
        f"{found.refused:,}",
        UNKNOWN if found.coarse is None else f"{found.coarse:,}",
        UNKNOWN if found.sessions is None else f"{found.flagged:,} of {found.sessions:,}",
        alarm(found.until_alarm) if watched else UNKNOWN,
        words.duration(found.seconds),
    )


def alarm(queries: int | None) -> str:
    """After how many queries there was an alarm."""
    return "none" if queries is None else f"{queries:,}"


def sentences(report: Report) -> Iterator[str]:
    """Which guards there were, what they do to people, and how long they take."""
    found = report.guarding
    assert found is not None
    if found.guards is None:
        yield "Which guards the service has, only whoever runs it knows, and what raised an alarm there."
    elif found.guards:
        yield f"Guards: {words.listed(found.guards)}. An alarm is counted in queries that were answered."
    else:
        yield "The service had no guards: what these attacks achieve is the control of guarded services."
    if (normal := found.normal) is not None:
        yield (
            f"Of {normal.sessions:,} sessions of normal traffic, made of held-out records that no guard was "
            f"calibrated on, a share of {words.measured(normal.flagged)} raised an alarm; in the mean over "
            f"sessions, {words.measured(normal.withheld)} of a session's queries ({normal.queries:,} in all) "
            "were refused, or answered with the prior. Both intervals take sessions as independent, and the "
            "second lets the queries of a session hang together as they may; records recur among sessions."
        )
    if (took := found.latency) is not None:
        yield (
            f"An answer to one record takes {took.p50:.1f} ms in the median and {took.p99:.1f} ms at the "
            f"99th percentile; without guards, in turns with these, {took.bare_p50:.1f} and "
            f"{took.bare_p99:.1f} ms ({took.requests:,} requests each, client and service in one process)."
        )
