"""The table of what guards buy has a line for each attacker, of whatever was tried."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import support


@pytest.fixture(scope="module")
def script(measured: ModuleType) -> ModuleType:  # noqa: ARG001 - the script imports it by name
    return support.script("probing_table")


def row(attacker: str, keys: int, **more: Any) -> str:
    found = {"attacker": attacker, "queries": 1000, "keys": keys, "seeds": 2, "success": 0.4}
    return json.dumps({**found, "each": [0.3, 0.5], **more})


BARE = {"sessions": 12, "auc": 0.9, "tpr_at_0.01": 0.25, "tpr_at_0.1": 0.5}


def test_lines_of_several_files_are_put_together(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, readme = tmp_path / "1.jsonl", tmp_path / "2.jsonl", tmp_path / "README.md"
    data = json.dumps({"data": "mnist", "network": "victim", "accuracy": 0.9})
    one_key = row("queries", 1, withheld=0.9, first_alarm_after=[10, 10])
    first.write_text("\n".join([data, row("queries", 0, **BARE), one_key, row("membership", 0)]))
    second.write_text("\n".join([data, row("queries", 10, withheld=0.9, first_alarm_after=[25, None])]))
    readme.write_text(f"before {script.BEGIN}\nold\n{script.END} after")
    assert script.main([str(first), str(second), "--write", str(readme)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == (
        "| MNIST, 0.1 | queries | 1,000 | 0.40 [0.30, 0.50] | 0.40 [0.30, 0.50] | 0.40 [0.30, 0.50] "
        "| 10 to 25, never in 1 of 4 | 0.900 of 12 | 0.25, 0.50 |"
    )
    assert lines[3] == (
        "| MNIST, 0.5 | membership | 1,000 | 0.40 [0.30, 0.50] | not tried | not tried | not tried "
        "| too few | too few |"
    )
    assert lines[2] in readme.read_text()
    assert "old" not in readme.read_text()
