"""What tests of scripts share."""

from __future__ import annotations

from types import ModuleType

import pytest
import support


@pytest.fixture(scope="module")
def measured() -> ModuleType:
    """The module of runs, which scripts that make tables import by name."""
    return support.script("measured")
