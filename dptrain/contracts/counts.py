"""How many records a run found and what it used them for, and numbers that it had to make smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of all records that were found; None: not stated.

    `files` are those of all parts as they were read, `trained_on` records and `units` those whom they belong
    to, called `unit`; `set_aside` are in no part any more, by what attacks need them for.
    """

    unit: str
    files: int | None = None
    trained_on: int | None = None
    units: int | None = None
    holdout: int
    test: int
    set_aside: Mapping[str, int] = field(default_factory=dict)

    def published(self, *, units_public: bool, set_aside: Mapping[str, int]) -> Counts:
        """What may be told to anyone, with as many `set_aside` as were expected.

        How many records the units have, and how many came to be set aside, is a property of the records.
        """
        units = self.units if units_public else None
        records = units if self.unit == "record" else None
        return replace(self, files=None, units=units, trained_on=records, set_aside=set_aside)


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A number of `evidence` that there was no room for, and what is left of it.

    `limits` are the most that so many trials, and those asked for, can certify; None: not a share.
    """

    key: str
    asked: int
    used: int
    limits: tuple[float, float] | None
