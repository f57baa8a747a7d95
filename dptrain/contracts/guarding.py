"""What guards of a service did to those who asked it: attackers, and people."""

from __future__ import annotations

from dataclasses import dataclass

from dptrain.contracts.evidence import Interval


@dataclass(frozen=True, kw_only=True)
class Probing:
    """An attack's questions to a service, in queries, and what it made of them.

    `seconds` it waited, by the service's clock. Whoever only asks is told of no alarm, and not which answers
    were coarse: all that follows is None. `until_alarm` is None, too, where there was none.
    """

    attack: str
    keys: int
    asked: int
    answered: int
    seconds: float
    tenants: int | None = None
    coarse: int | None = None  # answered with the prior
    sessions: int | None = None  # of its keys and tenants
    flagged: int | None = None  # sessions that raised an alarm
    until_alarm: int | None = None  # queries answered before the first alarm, and the one that raised it

    @property
    def refused(self) -> int:
        return self.asked - self.answered


@dataclass(frozen=True, kw_only=True)
class NormalUse:
    """Sessions of normal traffic, each of a key and tenant of its own: how many guards took for probing."""

    sessions: int
    flagged: Interval  # the share of sessions
    queries: int
    withheld: Interval  # the share of a session's queries refused, or answered with the prior: their mean


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds that an answer to one record takes, with guards and, in turns with it, without."""

    requests: int
    p50: float
    p99: float
    bare_p50: float
    bare_p99: float


@dataclass(frozen=True, kw_only=True)
class Guarding:
    """The guards that attacks met, in their order, what they stopped, and what they cost; None: not known."""

    guards: tuple[str, ...] | None
    probing: tuple[Probing, ...]
    normal: NormalUse | None = None
    latency: Latency | None = None
