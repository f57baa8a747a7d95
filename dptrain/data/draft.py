"""`task=schema`: a schema to fill in, from a table's header and from what its columns are made of."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd
import yaml

from dptrain.contracts import ConfigError, DataError
from dptrain.data.columns import ISO
from dptrain.data.tables import TableFile
from dptrain.storage import write_text

FOLDER = Path("schema")  # a --config-dir, in the folder that the user works in
GAP = "???"
MOST_CLASSES = 20  # whole numbers; more of them are guessed to be a number to predict
WRITING = ("encoding", "delimiter", "decimal", "sheet")  # keys that say how a table is written
LABELS = {"target", "label", "class", "y", "outcome"}  # headers of columns that hold what is to be learned
IDENTIFIERS = re.compile(r"(?:.*[^a-z])?(?:id|uuid|key)", flags=re.I | re.S)  # headers that tell who
FORMATS = (ISO, "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")
EXAMPLES = {
    "number": "lowest and highest, such as [0, 120]",
    "date": "first and last day, such as ['2000-01-01', '2029-12-31']",
    "category": "every value, such as [a, b, c]",
}
NOTES = (
    "Bounds, categories and classes must come from public knowledge (a code book, a form, a law), and not "
    "from these records: what is declared counts as public.",
    "Kinds were guessed from how cells are written, which is a look at the records: confirm each of them.",
)


def write_draft(data: Mapping[str, Any]) -> Path:
    """Write a schema of the table that `data` names, with gaps where a person must decide; its path.

    Raises ConfigError where it is there already, DataError where the table cannot be read.
    """
    if not {"path", *WRITING} <= data.keys() or data["path"] in (None, GAP):
        raise ConfigError("task=schema drafts the schema of a table: give data.path=TABLE, such as loans.csv")
    kinds = get_type_hints(TableFile)
    if wrong := [key for key, kind in kinds.items() if not isinstance(data[key], kind)]:
        raise ConfigError("\n".join(f"data.{key}={data[key]} must be text; quote it" for key in wrong))
    file = TableFile(**{key: data[key] for key in kinds})
    if (found := file.find()) is None:
        raise file.missing()
    name = re.sub(r"\W+", "_", found.name.partition(".")[0]) + "_schema"
    path = FOLDER / "data" / f"{name}.yaml"
    if path.exists():
        raise ConfigError(f"{path} is there already and is not overwritten; rename or remove it")
    table = file.read(found)
    names = [str(column) for column in table.columns]
    if len(names) == 1 and (sign := next((sign for sign in ";\t|" if sign in names[0]), None)):
        raise DataError(f"{found} has one column, whose name holds {sign!r}: is it data.delimiter={sign!r}?")
    lines = _lines(file, table, names, asked=data.get("target", GAP))
    head = [
        f"# {_text(found.name)}: fill in each {GAP}, then: {command(path)}",
        *(f"# {note}" for note in NOTES),
    ]
    try:
        write_text("\n".join([*head, *lines, ""]), path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); work in another folder") from error
    return path


def command(path: Path) -> str:
    """How a schema that is filled in is trained on."""
    return f"python -m dptrain --config-dir={FOLDER} data={path.stem} model=mlp"


def _lines(file: TableFile, table: pd.DataFrame, names: Sequence[str], *, asked: str) -> list[str]:
    """The keys of the schema, one a line."""
    labels = [name for name in names if name.lower() in LABELS]
    target = asked if asked != GAP else labels[0] if len(labels) == 1 else GAP
    if target not in (GAP, *names):
        raise ConfigError(f"data.target={target} is no column of the table; it has {', '.join(names)}")
    tells_who = [name for name in names if IDENTIFIERS.fullmatch(name) and name != target]
    columns = [name for name in names if name != target and name not in tells_who]
    written = {key: getattr(file, key) for key in WRITING if getattr(file, key) != getattr(TableFile, key)}
    return [
        "defaults: [tabular, _self_]",
        f"path: {_text(file.path)}",
        *(f"{key}: {_text(value)}" for key, value in written.items()),
        "columns: # missing: true where cells may be empty; what is not to be learned from goes to ignored",
        *(line for name in columns for line in _declared(file, name, table.iloc[:, names.index(name)])),
        f"target: {GAP if target == GAP else _text(target)} # the column of labels; columns is without it",
        *_target(file, None if target == GAP else table.iloc[:, names.index(target)].dropna()),
        "sensitive: [] # columns that attribute inference aims at; a number also needs bands: [cut, points]",
        _whose(tells_who),
        f"ignored: [{', '.join(map(_text, tells_who if len(tells_who) > 1 else []))}]",
    ]


def _target(file: TableFile, held: pd.Series | None) -> list[str]:
    """What the labels are: a number where the cells have decimals, or are more numbers than classes."""
    # Gaps stand in lists: one that stands alone would give way to the null that it is to replace.
    if held is None or _kind(file, held)[0] != "number":
        return [f"classes: ['{GAP}'] # its values, in the order of the labels 0, 1, ..."]
    numbers = pd.to_numeric(file.with_points(held))
    if not ((numbers % 1 != 0).any() or numbers.nunique() > MOST_CLASSES):
        return [
            f"classes: ['{GAP}'] # values in the order of the labels 0, 1, ...; of grades also task: ordinal"
        ]
    return [
        "task: regression # guessed: the target is a number; of classes: task: classification, and classes",
        f"target_bounds: ['{GAP}', '{GAP}'] # {EXAMPLES['number']}",
        "classes: null",
    ]


def _whose(tells_who: Sequence[str]) -> str:
    """The key that says whose row it is, as far as the header tells."""
    if not tells_who:
        return "group: null # a column that says whose row it is, where a person may have several"
    if len(tells_who) == 1:
        return (
            f"group: {_text(tells_who[0])} # by its name: whose row it is; if it is not, move it to ignored"
        )
    names = ", ".join(map(_text, tells_who))
    return f"group: {GAP} # whose row it is: one of {names}, which ignored loses; or null"


def _declared(file: TableFile, name: str, cells: pd.Series) -> list[str]:
    """The declaration of a column, its kind guessed from what its cells are made of."""
    kind, form = _kind(file, cells.dropna())
    return [
        f"  {_text(name)}:",
        f"    kind: {kind}",
        *([] if form is None else [f"    format: {form}"]),
        f"    {'categories' if kind == 'category' else 'bounds'}: {GAP} # {EXAMPLES[kind]}",
    ]


def _kind(file: TableFile, held: pd.Series) -> tuple[str, str | None]:
    """The kind of a column that holds these cells, and of days the format that they are written in."""
    written = held.map(lambda cell: isinstance(cell, str)).astype(bool)
    texts = held[written].astype(str)
    if (
        len(held) == 0
        or texts.str.match(r"0\d+$").any()
        or held.map(lambda cell: isinstance(cell, bool)).any()
    ):
        return "category", None  # codes, whose leading zeros mean something, among them
    stored = held[~written]
    days = stored.map(lambda cell: isinstance(cell, dt.date)).all()
    if not (days and len(stored)) and pd.to_numeric(file.with_points(held), errors="coerce").notna().all():
        return "number", None
    fits = [form for form in FORMATS if pd.to_datetime(texts, format=form, errors="coerce").notna().all()]
    if not (days and fits):
        return "category", None
    return "date", GAP if len(fits) > 1 and len(texts) else _text(fits[0])


def _text(value: str) -> str:
    """A text as YAML, in one line."""
    style = None if value.isprintable() else '"'  # in which line ends are escaped
    dumped = yaml.safe_dump(
        [value], default_flow_style=True, default_style=style, allow_unicode=True, width=1 << 30
    )
    return dumped.strip()[1:-1]
