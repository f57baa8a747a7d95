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


def read_first(theirs: Path) -> list[str]:
    """The options in another folder of configuration that are never read: `conf` has those names itself."""
    ours = folder("conf")
    if theirs.resolve() == ours.resolve():
        return []
    names = (path.relative_to(ours) for path in sorted(ours.glob("*/*.yaml")))
    return [str(name) for name in names if (theirs / name).is_file()]
