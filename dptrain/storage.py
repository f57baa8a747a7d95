"""Files that are written whole or not at all: the one writer of the package."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}  # which nothing but writing meets


class Unwritable(OSError):
    """A file cannot be written: the disk is full, or the folder is not to be written to."""


@contextmanager
def whole(path: Path, *, private: bool = False, durable: bool = False) -> Iterator[Path]:
    """A draft beside this path to write to, which takes its place at the end, and is gone on any failure.

    A `private` file is readable by its owner only; a `durable` one is on the disk before it takes its place.
    Raises Unwritable.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666))
        yield draft
        if durable:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        draft.replace(path)
        if durable and os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # its new name, too
            finally:
                os.close(folder)
    except OSError as error:
        ours = {str(each) for each in (draft, path, *path.parents)}
        if error.errno is None or (error.errno not in FULL and str(error.filename) not in ours):
            raise  # what was to be written could not be had
        raise Unwritable(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # on a disk that is not to be written to it is not there
            draft.unlink(missing_ok=True)


def unwritable(error: OSError) -> str | None:
    """Which file or folder cannot be written and why, where that is what an error says."""
    if not isinstance(error, Unwritable) and error.errno not in FULL:
        return None
    return f"{error.filename or 'a file'} cannot be written ({error.strerror})"


def write_bytes(
    content: bytes | memoryview, path: Path, *, private: bool = False, durable: bool = False
) -> None:
    """Write bytes, whole or not at all."""
    with whole(path, private=private, durable=durable) as draft:
        draft.write_bytes(content)


def write_text(text: str, path: Path) -> None:
    """Write a text, in UTF-8, whole or not at all."""
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(values: Any, path: Path) -> None:
    """Write values as JSON, likewise; raises ValueError where a number among them is not finite."""
    write_text(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def write_csv(rows: Iterable[Sequence[Any]], path: Path) -> None:
    """Write rows as a CSV, likewise."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_bytes(text.getvalue().encode(), path)
