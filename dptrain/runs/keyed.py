"""Keyed hashes of records: without the key, a hash would confirm a record to whoever knows the others."""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from filelock import FileLock

from dptrain.contracts import DptrainError
from dptrain.storage import write_bytes

SECRET = ".secret"  # in the folder that a hash is kept in


def keyed(folder: Path, text: str) -> str:
    """HMAC-SHA256 of this text under the secret of a folder: 40 hexadecimal digits.

    The secret is made when it is first needed, is readable by its owner only, and never leaves the folder.
    """
    path = folder / SECRET
    if not path.exists():
        _make(path)
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise DptrainError(f"{path} cannot be read ({error.strerror}); restore it, or start anew") from error
    return hmac.new(secret, text.encode(), "sha256").hexdigest()[:40]


def _make(path: Path) -> None:
    """Write a secret, whole, of which no second process makes another."""
    with FileLock(path.with_name(f"{SECRET}.lock")):
        if path.exists():
            return
        write_bytes(secrets.token_bytes(32), path, private=True)
