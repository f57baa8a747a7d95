"""The version of this package as it is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

UNKNOWN = "unknown"


def own_version() -> str:
    """The version of this package; `UNKNOWN` for a checkout that nobody installed."""
    try:
        return version("dptrain")
    except PackageNotFoundError:
        return UNKNOWN
