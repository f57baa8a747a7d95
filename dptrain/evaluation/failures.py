"""Failures in words that may stand in a report: what failed and where, and no value of a record."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from dptrain.contracts import DptrainError

LONGEST = 200  # letters of a message
HIDDEN = "…"
# What a library quotes in these is code; in any other exception it may be a cell of somebody's table.
OF_CODE = (AttributeError, ImportError, NameError, TypeError)

_NUMBERS = re.compile(r"(?<![\w.])[-+]?\d[\w.,+-]*")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_LISTED = re.compile(r"[\[(][^\])]*[\])]")


def said(error: BaseException) -> str:
    """Type and message of an exception; our own messages as they are, others without numbers and quotations.

    >>> said(ValueError("could not convert string to float: 'Smith, 47'"))
    'ValueError: could not convert string to float: …'
    >>> said(TypeError("'NoneType' object is not iterable"))
    "TypeError: 'NoneType' object is not iterable"
    """
    if isinstance(error, DptrainError):
        return " ".join(str(error).split())
    first = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, KeyError):  # its message is the key, which may be a cell
        first = HIDDEN
    elif not isinstance(error, OF_CODE):
        first = _QUOTED.sub(HIDDEN, _LISTED.sub(HIDDEN, first))
    first = _NUMBERS.sub(HIDDEN, first)
    first = first if len(first) <= LONGEST else f"{first[:LONGEST]}{HIDDEN}"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def reason(error: BaseException) -> str:
    """What was raised, and in which line; of our own errors, which explain themselves, the message alone."""
    if isinstance(error, DptrainError):
        return said(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{said(error)}{where}"
