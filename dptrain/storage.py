"""Files that are written whole or not at all: the one writer of the package."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path, *, private: bool = False, durable: bool = False) -> Iterator[Path]:
    """A draft beside this path to write to, which takes its place at the end, and is gone on any failure.

    A `private` file is readable by its owner only; a `durable` one is on the disk before it takes its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666))
        yield draft
        if durable:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(text: str, path: Path) -> None:
    """Write a text, in UTF-8, whole or not at all."""
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(values: Any, path: Path) -> None:
    """Write values as JSON, likewise; raises ValueError where a number among them is not finite."""
    write_text(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)
