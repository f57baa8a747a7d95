"""A run.json that is damaged is one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import order

from dptrain.contracts import DptrainError
from dptrain.runs import folder as runs


@pytest.mark.parametrize(
    "held", [{"begun_with": {}}, {"begun_with": {"salt": 3}}, {"begun": {}}, {"begun": {"plan": 3}}], ids=str
)
def test_what_a_run_was_begun_with_is_whole_or_refused(tmp_path: Path, held: dict[str, Any]) -> None:
    runs.start(tmp_path, order("tracking=none"))
    path = tmp_path / runs.ORDER
    path.write_text(json.dumps(json.loads(path.read_text()) | held))
    (key,) = held
    with pytest.raises(DptrainError, match=rf"run\.json: {key} is not as this version .*; restore the file"):
        runs.read_state(tmp_path)
    runs.start(tmp_path / "b", order("tracking=none"))
    runs.remember(tmp_path / "b", begun_with={"salt": "ab"}, begun={"plan": None})
    assert runs.read_state(tmp_path / "b").begun == {"plan": None}
