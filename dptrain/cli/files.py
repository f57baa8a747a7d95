"""Where the configuration and the recipes are."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """`conf` or `recipes`: inside the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "_assets" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    from dptrain.contracts import ConfigError  # with PyTorch, which takes seconds

    raise ConfigError(f"the folder `{name}` is missing from {package}; install dptrain again")
