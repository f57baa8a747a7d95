"""What trackers are told: no number that is a secret; one lost at the end loses no more than a record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comparisons import leakage

from dptrain.contracts import BrokenGuarantee, DptrainError, RecordLost, Splits
from dptrain.evidence.verdict import BROKEN
from dptrain.pipeline import publish, tracked
from dptrain.tracking import NullRun


class Lost(NullRun):
    """The tracker of a store that went away."""

    def artifact(self, path: Path, folder: str | None = None) -> None:  # noqa: ARG002
        raise RecordLost("tracking.uri=http://host stopped taking records", "resume the run")


@pytest.mark.parametrize(
    ("broken", "error", "says"),
    [
        (False, RecordLost, r"stopped taking records; the run is complete in "),
        (True, BrokenGuarantee, "do not"),
    ],
)
def test_a_run_whose_record_is_lost_is_complete(
    broken: bool, error: type[DptrainError], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = leakage(0.6, 0.02, 0.4, 1.0)
    if broken:
        lines = (replace(lines[0], verdict=BROKEN), *lines[1:])
    report: Any = SimpleNamespace(leakage=lines, folder=tmp_path)
    wanted: Any = SimpleNamespace(pdf=False, card_measured=False)
    monkeypatch.setattr(publish.documents, "write", lambda *_, **__: [tmp_path / "report.html"])
    with pytest.raises(error, match=rf"(?i){says}") as raised:
        publish.publish(report, None, Lost(), wanted)
    assert "resume" not in str(raised.value)


@pytest.mark.parametrize(
    ("unit", "public", "told"),
    [("record", True, {"train", "holdout", "test"}), ("patient", True, {"units"}), ("record", False, set()),
     ("patient", False, set())],
)  # fmt: skip
def test_a_tracker_is_told_no_count_that_the_statement_withholds(
    unit: str, public: bool, told: set[str], splits: Splits
) -> None:
    patients = replace(splits, group_ids=torch.arange(len(splits.train)) // 2)
    experiment: Any = SimpleNamespace(
        splits=patients,
        assignments=SimpleNamespace(set_aside={"probes": 7}),
        budget=SimpleNamespace(unit=unit, units_public=public),
    )
    found = tracked.counts(experiment)
    assert set(found) == told
    assert found.get("units", len(splits.train) // 2) == len(splits.train) // 2
