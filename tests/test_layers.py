"""Who may import whom: the ranks of the rooms, no circles, and libraries that one room alone knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import dptrain

ROOT = Path(dptrain.__file__).parent
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if "_assets" not in path.parts
}

# A room sees rooms of lower rank and itself; equals never meet. Every module of dptrain belongs to one.
RANK = {
    "contracts": 0,
    "installed": 0,
    "redaction": 0,
    "storage": 0,
    "models": 1,
    "privacy": 1,
    "attacks": 1,
    "evidence": 1,
    "tracking": 1,
    "config": 1,
    "tasks": 2,
    "data": 3,
    "training": 3,
    "report": 3,
    "runs": 4,
    "mechanisms": 4,
    "assembly": 5,
    "serving": 6,
    "evaluation": 7,
    "sweep": 8,
    "pipeline": 9,
    "comparison": 9,
    "cli": 10,
    "api": 11,
    "__init__": 12,
    "__main__": 12,
}

# Libraries that these rooms alone may know.
ONLY = {
    "opacus": {"privacy"},
    "mlflow": {"tracking"},
    "hydra": {"__main__", "api", "cli", "assembly"},
    "omegaconf": {"__main__", "api", "cli"},
    "dp_accounting": {"privacy"},
    "riskcal": {"privacy"},
    "pydantic": {"config", "runs", "sweep"},
    "rich": {"report"},
    "jinja2": {"report"},
    "matplotlib": set(),
    "fastapi": {"serving"},
    "uvicorn": {"serving"},
    "sqlalchemy": {"serving"},
    "limits": {"serving"},
    "prometheus_client": {"serving"},
}

# The words of the project know torch, the standard library and words for ranges.
CONTRACTS_MAY_IMPORT = {
    "__future__", "abc", "annotated_types", "collections", "contextlib", "dataclasses", "decimal", "enum",
    "functools", "hashlib", "hmac", "math", "pathlib", "secrets", "torch", "typing",
}  # fmt: skip


def imports(path: Path) -> Iterator[str]:
    """Full names of everything that a file imports, wherever in it, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(path: Path) -> set[str]:
    """The modules of dptrain that a file imports, by their names below it; `__init__` is dptrain itself."""
    found = set()
    for name in imports(path):
        head, _, name = name.partition(".")
        if head == "dptrain":
            while name and name not in FILES:
                name = name.rpartition(".")[0]
            found.add(name or "__init__")
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_belongs_to_a_room_with_a_rank() -> None:
    assert {room(module) for module in FILES} == set(RANK)


def test_rooms_see_rooms_of_lower_rank_only() -> None:
    wrong = [
        f"{mine} imports {theirs}"
        for mine, path in FILES.items()
        for theirs in modules(path)
        if room(theirs) != room(mine) and RANK[room(theirs)] >= RANK[room(mine)]
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    # A package's front imports what it shows: within it, modules are imported by their own names.
    graph = {mine: modules(path) - {mine} for mine, path in FILES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_a_library_is_known_to_its_own_rooms_only() -> None:
    wrong = [
        f"{mine} imports {name}"
        for mine, path in FILES.items()
        for name in imports(path)
        if room(mine) not in ONLY.get(name.partition(".")[0], {room(mine)})
    ]
    assert wrong == []


def test_contracts_need_torch_and_the_standard_library_only() -> None:
    for module, path in FILES.items():
        if room(module) == "contracts":
            assert {name.partition(".")[0] for name in imports(path)} <= {*CONTRACTS_MAY_IMPORT, "dptrain"}, (
                path
            )


def test_nothing_below_the_command_line_sees_a_DictConfig() -> None:
    for module, path in FILES.items():
        assert room(module) in {"__main__", "cli"} or "DictConfig" not in path.read_text(), path
