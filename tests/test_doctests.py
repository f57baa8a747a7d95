"""Every example in a docstring says what is true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import dptrain

ROOT = Path(dptrain.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    for path in ROOT.rglob("*.py")
    if "_assets" not in path.parts and ">>>" in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
