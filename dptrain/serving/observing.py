"""What a guard after all others sees of them: how much is coarse, who is flagged, and when first."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import Connection
from torch import Tensor

from dptrain.serving.detection.guard import BEGUN, FIRST, FLAGGED
from dptrain.serving.guard import Query, Started

APART = "."  # between the name that tenants are counted by, and their number


@dataclass
class Seen:
    """Counts of the tenants of one name."""

    answered: int = 0
    coarse: int = 0
    sessions: int = 0
    flagged: int = 0
    until_alarm: int | None = None
    delayed_seconds: float = 0.0


class Observing(Started):
    """Counts what was answered, for an owner who tries her guards out: of `name.1` and `name.2` together."""

    def __init__(self) -> None:
        self.by_name: dict[str, Seen] = defaultdict(Seen)

    def after(self, query: Query, answers: Tensor, connection: Connection) -> Tensor:  # noqa: ARG002
        seen = self.by_name[query.caller.tenant.rpartition(APART)[0]]
        if seen.until_alarm is None and FIRST in query.facts:
            seen.until_alarm = seen.answered + query.facts[FIRST] + 1
        seen.answered += query.count
        seen.delayed_seconds += query.delay_seconds
        seen.coarse += 0 if query.coarse is None else int(query.coarse.sum())
        seen.sessions += query.facts.get(BEGUN, 0)
        seen.flagged += query.facts.get(FLAGGED, 0)
        return answers
