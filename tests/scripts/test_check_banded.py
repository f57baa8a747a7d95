"""The check of correlated noise finds the errors that are planned, and noise that is not."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import support

from dptrain.privacy.noise.banded import BandedNoise

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def script(measured: ModuleType) -> ModuleType:  # noqa: ARG001 - the script imports it by name
    return support.script("check_banded")


def test_the_errors_are_those_planned_and_are_written(script: ModuleType, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{script.BEGIN}\n{script.END}\nafter\n")
    assert script.main(["--epsilons", "3", "--coordinates", "2000", "--write", str(readme)]) == 0
    lines = readme.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert [line.split(" | ")[3] for line in lines if line.startswith("| 3 ")] == [
        "19.19", "14.02", "12.81", "14.73", "16.37",
    ]  # fmt: skip


def test_noise_that_is_not_correlated_as_planned_is_found(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BandedNoise, "_carried", lambda *_: None)
    assert script.main(["--epsilons", "3", "--coordinates", "50"]) == 1
