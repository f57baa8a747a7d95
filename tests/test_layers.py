"""Who may import whom: the layers of the house, read off the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dptrain

ROOT = Path(dptrain.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if "_assets" not in path.parts)

# A package sees those of lower rank only; equals do not see each other.
RANK = {
    "contracts": 0,
    "redaction": 0,
    "data": 1,
    "models": 1,
    "privacy": 1,
    "attacks": 1,
    "evidence": 1,
    "training": 2,
    "report": 2,
    "tracking": 2,
    "config": 2,
}
TOP = 3  # pipeline and what it is made of

# Libraries that one place alone may know.
ONLY = {
    "opacus": {"privacy"},
    "mlflow": {"tracking"},
    "hydra": {"__main__", "assets"},
    "omegaconf": {"__main__", "assets"},
    "dp_accounting": {"privacy"},
    "riskcal": {"privacy"},
    "pydantic": {"config"},
    "rich": {"report"},
    "matplotlib": {"report"},
}

# The words of the project know torch and the standard library.
CONTRACTS_MAY_IMPORT = {
    "__future__", "abc", "collections", "dataclasses", "enum", "hashlib", "hmac", "pathlib", "secrets",
    "torch", "typing",
}  # fmt: skip


def part(path: Path) -> str:
    """The package or module of dptrain that a file belongs to."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Full names of everything that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_sees_lower_layers_only(path: Path) -> None:
    mine = part(path)
    for name in imports(path):
        if not name.startswith("dptrain."):
            continue
        theirs = name.split(".")[1]
        if theirs == mine:
            continue
        assert RANK.get(theirs, TOP) < RANK.get(mine, TOP) or RANK.get(mine, TOP) == TOP, (
            f"{mine} must not import {theirs}"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_library_is_known_to_its_own_place_only(path: Path) -> None:
    for name in imports(path):
        library = name.split(".")[0]
        assert part(path) in ONLY.get(library, {part(path)}), f"{part(path)} must not import {library}"


def test_contracts_need_torch_and_the_standard_library_only() -> None:
    for path in (ROOT / "contracts").glob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= {*CONTRACTS_MAY_IMPORT, "dptrain"}, path


def test_nothing_below_the_pipeline_sees_a_DictConfig() -> None:
    for path in FILES:
        if part(path) not in {"__main__", "assets"}:
            assert "DictConfig" not in path.read_text(), path
