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
    holdout: int | None = None
    test: int | None = None
    set_aside: Mapping[str, int] = field(default_factory=dict)

    def published(self, *, units_public: bool, set_aside: Mapping[str, int]) -> Counts:
        """What may be told to anyone, with as many `set_aside` as were expected.

        How many records the units have, and how many came to be set aside, is a property of the records. So
        is how many are held out and tested on: they are a share of all, each cut by a hash of itself.
        """
        units = self.units if units_public else None
        if units is None or self.unit != "record":
            return Counts(unit=self.unit, units=units, set_aside=set_aside)
        return replace(self, files=None, trained_on=units, set_aside=set_aside)


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A number of `evidence` that there was no room for, and what is left of it.

    `limits` are the most that so many trials, and those asked for, can certify; None: not a share.
    """

    key: str
    asked: int
    used: int
    limits: tuple[float, float] | None
