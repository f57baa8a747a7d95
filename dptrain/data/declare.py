"""A table's schema, as declared in YAML; a declaration that is wrong is refused with all that is."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeGuard

from dptrain.contracts import ConfigError
from dptrain.data.checks import TAKEN, TAKEN_BY_REPORTS
from dptrain.data.columns import ISO, Category, Date, Number
from dptrain.data.labels import TASKS, Target
from dptrain.data.schema import Schema
from dptrain.tasks import Regression

EPOCH = dt.date(1970, 1, 1)
FIELDS = {
    "number": {"kind", "bounds", "clip", "missing", "bands"},
    "date": {"kind", "bounds", "clip", "missing", "bands", "format"},
    "category": {"kind", "categories", "missing"},
}
PARTS = ("train", "test", "holdout")


def parse_schema(
    *,
    columns: Mapping[str, Any],
    target: str | Sequence[str],
    classes: Sequence[Any] | None,
    task: str = "classification",
    target_bounds: Sequence[float] | None = None,
    sensitive: Sequence[str],
    group: str | None,
    split: Mapping[str, Any] | None,
    ignored: Sequence[str],
    subgroups: Sequence[str] = (),
) -> Schema:
    """The schema that these settings describe; raises one ConfigError that lists all that is wrong."""
    problems: list[str] = []
    for key, listed in (("sensitive", sensitive), ("subgroups", subgroups), ("ignored", ignored)):
        if isinstance(listed, str) or not isinstance(listed, Sequence):
            problems.append(
                f"data.{key}={'null' if listed is None else listed} must be a list of columns, such as "
                f"data.{key}=[a,b], or empty: data.{key}=[]"
            )
    several = isinstance(target, Sequence) and len(target) > 0
    if not several or not all(isinstance(each, str) and each for each in target):
        problems.append(
            f"data.target={'null' if target is None else target} must name the column of labels, or of "
            "data.task=multi_label a list of them"
        )
    if task not in TASKS:
        problems.append(f"data.task={task} must be one of {', '.join(TASKS)}")
    if problems:  # of which all else would be a consequence
        raise ConfigError("\n".join(problems))
    made = [_column(str(name), node, problems) for name, node in columns.items()]
    known = {column.name: column for column in made if column is not None}
    if not columns:
        problems.append("data.columns={} must declare at least one column; e.g. age: {kind: number, ...}")
    named = [target] if isinstance(target, str) else [str(each) for each in target]
    declared = known.get(named[0]) if task == "regression" and len(named) == 1 else None
    if isinstance(declared, Number) and target_bounds is None:  # a column is declared, and is the target
        if declared.missing:
            problems.append(f"data.columns.{target}.missing: a target is in every row; leave it out")
        target_bounds = declared.low, declared.high
        del known[declared.name]
    else:
        declared = None
    labels = _targets(named, task, classes, target_bounds, problems)
    parts = None if split is None else _split(split, problems)
    _one_role_each(
        problems,
        columns=[str(name) for name in columns if declared is None or name != declared.name],
        target=named,
        group=[group] if group else [],
        split=[parts.name] if parts else [],
        ignored=list(ignored),
    )
    for name in sensitive:
        if name not in {str(declared) for declared in columns}:
            problems.append(
                f"data.sensitive={name} is not declared; name one of data.columns: "
                f"{', '.join(map(str, columns))}"
            )
        column = known.get(name)
        if isinstance(column, Number) and column.missing:
            problems.append(
                f"data.sensitive={name} is a number that may be missing, of which no attack can be scored; "
                f"take it from data.sensitive, or missing from data.columns.{name}"
            )
    _by_name("data.sensitive", sensitive, known, problems)
    for name in subgroups:
        if name in TAKEN:
            problems.append(f"data.subgroups={name} {TAKEN_BY_REPORTS}")
        if name not in {*map(str, columns), *ignored}:
            problems.append(
                f"data.subgroups={name} is not declared; name one of data.columns, or of data.ignored where "
                "the model is not to see it"
            )
    _by_name("data.subgroups", subgroups, known, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return Schema(
        columns=tuple(known.values()),
        target=tuple(labels) if declared is None else (declared,),
        sensitive=tuple(sensitive),
        group=group,
        split=parts,
        ignored=tuple(ignored),
        subgroups=tuple(subgroups),
    )


def _by_name(
    key: str, names: Sequence[str], known: Mapping[str, Number | Category], problems: list[str]
) -> None:
    """What keeps the values of these columns from having names: a number needs bands, and each is one."""
    for name in names:
        column = known.get(name)
        if isinstance(column, Number) and not column.bands:
            problems.append(
                f"{key}={name} is a number without bands; declare cut points, "
                f"e.g. bands: [{(column.low + column.high) / 2:g}], in data.columns.{name}"
            )
    if len(set(names)) < len(names):
        problems.append(f"{key}={list(names)} names a column twice; name each once")


def _targets(
    names: Sequence[str],
    task: str,
    classes: Sequence[Any] | None,
    bounds: Sequence[float] | None,
    problems: list[str],
) -> list[Number | Category]:
    """The columns of labels, read by the classes, by the bounds of a number, or as 0 or 1 each."""
    if (len(names) > 1) != (task == "multi_label"):
        cure = (
            "declare data.task=multi_label, or name one column"
            if len(names) > 1
            else "name a list of columns of 0 and 1"
        )
        problems.append(f"data.target={', '.join(names)} with data.task={task}: {cure}")
    elif task == "multi_label":
        if bounds is not None:
            problems.append(
                f"data.target_bounds={bounds} are those of a number; of data.task=multi_label set them to "
                "null"
            )
        if classes is not None:
            problems.append(
                "data.classes names values of one column; of data.task=multi_label set it to null"
            )
        return [Category(name=name, declared=("0", "1")) for name in names]
    elif task == "regression" or classes is None or bounds is not None:
        try:
            found = Target.of(task, classes=classes, bounds=bounds).task
        except ConfigError as error:
            problems.append(str(error))
            return []
        assert isinstance(found, Regression)
        return [Number(name=name, low=found.bounds[0], high=found.bounds[1]) for name in names]
    else:
        labels = _category(names[0], "data.classes", classes, problems)
        return [] if labels is None else [labels]
    return []


def _column(name: str, node: Any, problems: list[str]) -> Number | Category | None:
    key = f"data.columns.{name}"
    kind = node.get("kind") if isinstance(node, Mapping) else None
    if kind not in FIELDS:
        problems.append(
            f"{key}={node} must have kind: number or kind: date (with bounds) or kind: category (with "
            "categories)"
        )
        return None
    problems += [
        f"{key}.{field}: no such key; a {kind} takes {', '.join(sorted(FIELDS[kind]))}"
        for field in sorted(set(map(str, node)) - FIELDS[kind])
    ]
    missing = node.get("missing", False)
    if not isinstance(missing, bool | str) or missing == "":
        problems.append(
            f"{key}.missing={missing} must be true (cells may be empty), false, or the text that stands for "
            "a missing one, such as '?'"
        )
    if kind == "category":
        found = _category(name, f"{key}.categories", node.get("categories"), problems)
        if found is not None and missing in found.declared:
            problems.append(f"{key}.missing={missing} is among its categories; take it from one of the two")
        return None if found is None else replace(found, missing=missing)
    if kind == "date":
        return _date(name, key, node, problems)
    return _number(name, key, node, problems)


def _date(name: str, key: str, node: Mapping[str, Any], problems: list[str]) -> Number | None:
    """A column of dates: a number of days, between bounds written year-month-day."""
    written = str(node.get("format", ISO))
    try:
        first = dt.datetime(2001, 1, 1)
        if dt.datetime.strptime(first.strftime(written), written).replace(tzinfo=None) != first:
            raise ValueError("a day that is written so is read as another")
        days = {
            field: [(dt.date.fromisoformat(str(each)) - EPOCH).days for each in node.get(field, ())]
            for field in ("bounds", "bands")
        }
    except (ValueError, TypeError):
        problems.append(
            f"{key}: bounds and bands of dates are written year-month-day, and `format` as strptime has it; "
            "e.g. {kind: date, bounds: ['2000-01-01', '2029-12-31'], format: '%d.%m.%Y'}"
        )
        return None
    return _number(name, key, {**node, **days}, problems, make=partial(Date, format=written))


def _number(
    name: str,
    key: str,
    node: Mapping[str, Any],
    problems: list[str],
    *,
    make: Callable[..., Number] = Number,
) -> Number | None:
    bounds, clip, bands = node.get("bounds"), node.get("clip", False), node.get("bands", ())
    if not _numbers(bounds) or len(bounds) != 2 or not bounds[0] < bounds[1]:
        problems.append(
            f"{key}.bounds={bounds} must be two finite numbers, the lower first, from public knowledge"
        )
        return None
    if not isinstance(clip, bool):
        problems.append(f"{key}.clip={clip} must be true or false")
    if not _numbers(bands) or any(
        not low < high for low, high in zip([bounds[0], *bands], [*bands, bounds[1]], strict=True)
    ):
        problems.append(f"{key}.bands={bands} must be rising cut points inside the bounds {list(bounds)}")
        return None
    return make(
        name=name,
        low=float(bounds[0]),
        high=float(bounds[1]),
        clip=bool(clip),
        missing=node.get("missing", False),
        bands=tuple(float(cut) for cut in bands),
    )


def _category(name: str, key: str, values: Any, problems: list[str]) -> Category | None:
    listed = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    if any(isinstance(value, bool) or not isinstance(value, str | int) for value in listed):
        problems.append(f"{key}={listed} must be words or whole numbers; quote yes, no, true, false and ?")
    named = tuple(str(value) for value in listed)
    twice = sorted({value for value in named if named.count(value) > 1})
    if twice:
        problems.append(f"{key}: {', '.join(twice)} is declared more than once; declare each once")
    if len(named) < 2:
        problems.append(f"{key}={values} must be a list of at least two, such as [no, maybe, 'yes']")
        return None
    return Category(name=name, declared=named)


def _split(split: Mapping[str, Any], problems: list[str]) -> Category | None:
    """The column that says to which part a row belongs; its categories in the order of PARTS."""
    strange = sorted(set(map(str, split)) - {"column", *PARTS})
    lacking = [field for field in ("column", "train", "test") if split.get(field) is None]
    if strange or lacking:
        problems.append(
            f"data.split={dict(split)} must be {{column: a column, train: its value, test: its value}}, and "
            f"perhaps holdout: its value"
        )
        return None
    values = [split[part] for part in PARTS if split.get(part) is not None]
    return _category(str(split["column"]), "data.split", values, problems)


def _one_role_each(problems: list[str], **roles: list[str]) -> None:
    seen: dict[str, str] = {}
    for role, names in roles.items():
        for name in names:
            if name in seen:
                problems.append(
                    f"data.{role}: column {name} is already in data.{seen[name]}; give it one role"
                )
            seen.setdefault(name, role)


def _numbers(values: Any) -> TypeGuard[Sequence[float]]:
    """Whether this is a list of finite numbers."""
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and all(
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            for value in values
        )
    )
