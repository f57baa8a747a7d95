"""What is installed: versions of this package and of the libraries under it, the revision of a checkout."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

UNKNOWN = "unknown"


def own_version() -> str:
    """The version of this package; `UNKNOWN` for a checkout that nobody installed."""
    try:
        return version("dptrain")
    except PackageNotFoundError:
        return UNKNOWN


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a guarantee rests on."""
    return {"dptrain": own_version(), **_versions_of_others()}


@cache  # what is imported stays what it is
def _versions_of_others() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "opacus", "dp-accounting", "numpy")}


def code_revision() -> str | None:
    """The git revision of a checkout, with "+changes" when it was edited; None for an installed wheel."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        found = subprocess.run(
            ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False
        )
        return found.stdout.strip()

    revision = git("rev-parse", "--short=12", "HEAD")
    return (revision + ("+changes" if git("status", "--porcelain") else "")) or None
