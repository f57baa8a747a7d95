"""Conditions that the user can cure, each with a type of its own."""

from __future__ import annotations


class DptrainError(Exception):
    """A condition the user can cure; its text names the key, the value and the cure."""


class ConfigError(DptrainError):
    """The configuration cannot be run as it stands."""


class DoesNotApply(ConfigError):
    """A mechanism or a size that data or model do not allow; another may go, so that a sweep goes on."""


class DataError(DptrainError):
    """The data cannot be found, read or trusted."""


class RecordLost(DptrainError):
    """A tracker stopped taking records: `what` happened, and its cure."""

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(f"{what}; {cure}")
        self.what = what


class BrokenGuarantee(DptrainError):
    """An attack measured more leakage than the guarantee allows: the implementation is wrong."""


class LimitExceeded(DptrainError):
    """A number of the report is beyond a limit that the user set with `fail_if`."""


class OutOfQueries(DptrainError):
    """A query budget is spent."""
