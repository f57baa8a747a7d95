"""A privacy statement as JSON, and back: the one place where the two meet."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from dptrain.contracts import DataError, Statement

VERSION = 2  # 1 had `mu`, and `decided_by_coins` for the assignment


def to_json(value: Any) -> Any:
    """A statement, or a part of one, as plain JSON values; a number that is not finite becomes None."""
    if is_dataclass(value):
        content = {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
        if isinstance(value, Statement):
            return {"version": VERSION, "void": value.void, **content}
        return content
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_json(values: Any, where: str = "guarantee") -> Statement:
    """The statement that `to_json` wrote, of an older version too; raises DataError naming what is wrong.

    Fields that an older version did not know take their defaults.
    """
    if not isinstance(values, Mapping):
        raise DataError(f"{where} is no privacy statement but {type(values).__name__}; train the run again")
    version = values.get("version", 1)
    if not isinstance(version, int) or version > VERSION:
        raise DataError(f"{where}.version={version} is newer than this dptrain knows ({VERSION}); update it")
    known = dict(values)
    if version < VERSION:
        known = _updated(known)
    if known.get("epsilon", 0) is None:
        known["epsilon"] = math.inf
    statement: Statement = part(Statement, known, where)
    return statement


def _updated(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of version 1 under today's names."""
    if values.get("void") and values.get("void_reason") is None:
        values["void_reason"] = "it is not known why"
    told = values.pop("decided_by_coins", None)
    if isinstance(told, Mapping):
        values["assignment"] = {**told, "slots": told.get("planted_records")}
    return values


def part(kind: Any, values: Any, where: str) -> Any:
    """A dataclass of a statement from plain values; fields that are not known are left out.

    Raises DataError, naming the field, where one is missing or has another type.
    """
    if not isinstance(values, Mapping):
        raise _wrong(where, values, "an object")
    hints = _hints(kind)
    made: dict[str, Any] = {}
    for each in fields(kind):
        if each.name in values:
            made[each.name] = _read(hints[each.name], values[each.name], f"{where}.{each.name}")
        elif each.default is MISSING and each.default_factory is MISSING:
            raise DataError(
                f"{where}.{each.name} is missing: another version of dptrain wrote it, or it is damaged; "
                "train the run again"
            )
    return kind(**made)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(hint: Any, value: Any, where: str) -> Any:
    """A value of this type; numbers may be whole where a fraction is meant."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        (hint,) = (each for each in inner if each is not type(None))
        return _read(hint, value, where)
    if is_dataclass(hint):
        return part(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(where, value, "a list")
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) != len(value):
            raise _wrong(where, value, f"a list of {len(kinds)}")
        return tuple(
            _read(kind, each, f"{where}[{at}]")
            for at, (kind, each) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is not None:  # a mapping by name
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "an object")
        return {
            str(key): item if inner[1] is Any else _read(inner[1], item, f"{where}.{key}")
            for key, item in value.items()
        }
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _wrong(where, value, {str: "a text", bool: "true or false"}.get(hint, "a number"))
    return value


def _wrong(where: str, value: Any, wanted: str) -> DataError:
    shown = repr(value)
    return DataError(
        f"{where}={shown if len(shown) < 60 else shown[:57] + '...'} is not {wanted}: another version of "
        "dptrain wrote it, or it is damaged; train the run again"
    )
