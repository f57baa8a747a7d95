"""From plain values to a configuration, or to one error that names everything wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from dptrain.config.rules import (
    component_problems,
    privacy_problems,
    renamed,
    section,
    shown,
    sweep_problems,
    task_problems,
    training_problems,
)
from dptrain.config.schema import RENAMED, Config, Privacy, Training
from dptrain.redaction import masked_keys, revealed


def parse(values: Mapping[str, Any], *, complete: bool = True) -> Config:
    """The configuration in these values; raises one ConfigError that names everything wrong with them.

    Secrets that no file keeps must have been given to this process, unless it need not be `complete`.
    """
    # Late, as `--help` and `--cfg job`, which compose the defaults and parse nothing, do without.
    from pydantic import TypeAdapter, ValidationError

    from dptrain.contracts import ConfigError, devices

    problems: list[str] = []
    config = None
    values = revealed(_with_release(values))
    try:
        config = TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        problems += [_problem(dict(detail)) for detail in error.errors()]
    for rules, asked in (
        (privacy_problems, {**asdict(Privacy()), **section(values, "privacy")}),
        (training_problems, {**asdict(Training()), **section(values, "training")}),
        (component_problems, values),
        (task_problems, values),
        (sweep_problems, values),
    ):
        # Where a value is of another type, which is said already, no rule can be asked about it.
        with suppress(*() if config is not None else (TypeError, ValueError)):
            problems += rules(asked)
    problems += [
        f"{key}={value}: no file keeps its secret; give it again, {key}=..., as it was given before"
        for key, value in masked_keys(values)
        if complete and key != "tracking.uri"  # which may find it elsewhere, or not be needed
    ]
    if config is not None and config.device != "auto" and not devices.available(config.device):
        problems.append(f"device={config.device} is not available on this machine; use device=auto")
    if problems or config is None:
        raise ConfigError("\n".join(problems))
    return config


def _with_release(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, `release=PATH` being short for `release.source=PATH`."""
    release = values.get("release")
    return {**values, **({"release": {"source": release}} if isinstance(release, str) else {})}


def _problem(detail: dict[str, Any]) -> str:
    """One line from one of pydantic's errors: key=value, what is wrong, the cure."""
    key = ".".join(part for part in map(str, detail["loc"]) if part not in _BRANCHES)
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        if key in RENAMED:
            return renamed(f"{key}={shown(detail['input'])}")
        return f"{key}={shown(detail['input'])}: no such key; `python -m dptrain --cfg job` lists them all"
    wrong = detail["msg"].removeprefix("Input ")
    cure = _description(key)
    return f"{key}={shown(detail['input'])} {wrong}" + (f"; give {cure}" if cure else "")


# What pydantic adds to a location when a field may be one of several types.
_BRANCHES = {"float", "int", "constrained-float", "constrained-int", "none"}


def _description(key: str) -> str | None:
    """What the field of this dotted key says that it should be."""
    from pydantic import TypeAdapter  # as above

    schema = TypeAdapter(Config).json_schema()
    node: dict[str, Any] = schema
    for part in key.split("."):
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        node = node.get("properties", {}).get(part, {})
    *others, last = node.get("enum") or [None]
    return node.get("description", f"{', '.join(others)} or {last}" if others else None)
