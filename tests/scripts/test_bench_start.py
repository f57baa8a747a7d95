"""scripts/bench_start.py: CPU seconds and memory of each start, in a table and as JSON."""

from __future__ import annotations

import json

import pytest
import support

pytestmark = pytest.mark.run


def test_every_start_is_measured_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    script = support.script("bench_start")
    assert script.main(["--repeats", "1", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert list(found) == [line[:14].strip() for line in lines[1:-1]] == list(script.STARTS)
    assert all(value > 0 for row in found.values() for value in row.values())


def test_a_start_that_fails_is_no_measurement() -> None:
    with pytest.raises(SystemExit, match="3"):
        support.script("bench_start").start(("-c", "raise SystemExit(3)"))
