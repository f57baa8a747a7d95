"""The table of trainings with correlated noise pairs runs by their seeds."""

from __future__ import annotations

from types import ModuleType

import pytest
import support

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def script(measured: ModuleType) -> ModuleType:  # noqa: ARG001 - the script imports it by name
    return support.script("bench_banded")


def test_differences_are_of_the_same_seed(
    script: ModuleType, measured: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path, capsys
) -> None:
    asked = []

    def measure(words, seeds, folder):  # noqa: ARG001
        asked.append(words)
        better = 0.01 if "mechanism=banded" in words else 0.0
        return [
            measured.Run(
                accuracy=0.9 + 0.02 * seed + better + 0.0001 * seed * bool(better), auroc=0.99, holdout=0.9,
                epsilon=8.0, delta=1e-5, noise_multiplier=None if better else 0.5, minutes=1.0, peak_gib=None,
            )
            for seed in range(seeds)
        ]  # fmt: skip

    monkeypatch.setattr(script, "measure", measure)
    page = tmp_path / "page.md"
    page.write_text(f"{script.BEGIN}\n{script.END}\n")
    assert script.main(["--epsilons", "8", "--write", str(page)]) == 0
    assert [len(set(words) & {"training.sampling=shuffle"}) for words in asked] == [0, 0, 1]
    shown = capsys.readouterr().out.splitlines()
    assert shown[2] == "| 8 | DP-SGD | 92.00 [90.00, 94.00] % |  | 1.0 |"
    assert "| +1.01 [+0.99, +1.03] |" in shown[3]  # not the spread over seeds, which is 2 points
    assert shown[2] in page.read_text()
