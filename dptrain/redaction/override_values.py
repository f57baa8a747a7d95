"""Values of the command line, as far as Hydra's grammar says where the texts in them begin and end.

Hydra itself is not imported where secrets are struck out: that is before anything of it is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Leaf:
    """A text within a value: its dotted key, where it stands, and what it is without quotation marks."""

    key: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Values:
    """What a word of the command line gives to its key: several values where it is a choice of them."""

    values: list[Any]
    leaves: list[Leaf]


_QUOTED = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'", re.DOTALL)
_UNQUOTED = re.compile(r"(?:\\.|\$\{[^{}]*\}|[^,\[\]{}'\"\\]|\\$)+", re.DOTALL)
_KEY = re.compile(r"\s*([^,:\[\]{}'\"]+?)\s*:")


def read(text: str, key: str) -> Values:
    """Hydra's grammar, as far as it says where texts begin and end; raises ValueError where it does not."""
    found = Values([], [])
    if not text.strip():
        return Values([text], [Leaf(key, 0, len(text), text)])
    at = 0
    while True:
        value, at = _element(text, at, key, found.leaves)
        # A number by itself stays a text, as passwords are.
        found.values.append(value if isinstance(value, list | dict) else found.leaves[-1].text)
        if at == len(text):
            return found
        at = _after(text, at, ",")


def _element(text: str, at: int, key: str, leaves: list[Leaf]) -> tuple[Any, int]:
    """The value that begins here, and where it ends; its texts are added to the leaves."""
    at = _space(text, at)
    opening = text[at : at + 1]
    if opening in ("[", "{"):
        closing = "]" if opening == "[" else "}"
        found: dict[str, Any] = {}
        at = _space(text, at + 1)
        while text[at : at + 1] != closing:
            if found:
                at = _after(text, at, ",")
            name = str(len(found))
            if opening == "{":
                if (named := _KEY.match(text, at)) is None:
                    raise ValueError(text)
                name, at = named[1], named.end()
            found[name], at = _element(text, at, f"{key}.{name}", leaves)
        return list(found.values()) if opening == "[" else found, _space(text, at + 1)
    if (match := _QUOTED.match(text, at)) is not None:
        value = bare(match[0])
        leaves.append(Leaf(key, at, match.end(), value))
        return value, _space(text, match.end())
    if (match := _UNQUOTED.match(text, at)) is None:
        raise ValueError(text)
    raw = match[0].rstrip()
    value = re.sub(r"\\([\\()\[\]{}:=, \t])", r"\1", raw)
    leaves.append(Leaf(key, at, at + len(raw), value))
    return decoded(value) if value == raw else value, match.end()


def _after(text: str, at: int, sign: str) -> int:
    if text[at : at + 1] != sign:
        raise ValueError(text)
    return at + 1


def _space(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def bare(text: str) -> str:
    """A value without the quotation marks around it."""
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    return re.sub(rf"(\\+)({text[0]}|$)", lambda m: m[1][: len(m[1]) // 2] + m[2], text[1:-1])


def quoted(text: str) -> str:
    """A value with quotation marks around it."""
    inside = re.sub(r"(\\*)(\"|\Z)", lambda m: m[1] * 2 + ('\\"' if m[2] else ""), text)
    return f'"{inside}"'


def decoded(text: str) -> Any:
    """What was kept as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
