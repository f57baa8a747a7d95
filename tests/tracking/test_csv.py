"""metrics.csv after a full disk or a power cut: half a row is left out, and the run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dptrain.tracking.files import CSV, METRICS

WHOLE = "step,name,value\r\n0,holdout/accuracy,0.5\r\n1,holdout/accuracy,0.625\r\n"


@pytest.mark.parametrize(
    "left",
    ["2,hold", "2", "2,holdout/accuracy", "2,holdout/accuracy,0.7", "\0\0", "2,a,0.5,7\r\n", '2,"'],
)
def test_half_a_row_is_left_out_and_its_step_written_again(tmp_path: Path, left: str) -> None:
    path = tmp_path / METRICS
    path.write_bytes((WHOLE + left).encode())
    with CSV().open("again", tmp_path) as run:
        assert path.read_bytes().decode() == WHOLE
        run.metric("holdout/accuracy", 0.75, 2)
    assert path.read_bytes().decode() == WHOLE + "2,holdout/accuracy,0.75\r\n"


def test_a_file_without_a_whole_row_is_begun_anew(tmp_path: Path) -> None:
    for left in (b"", b"step,na", b"\xff\xfe\x00"):
        (tmp_path / METRICS).write_bytes(left)
        with CSV().open("again", tmp_path) as run:
            run.metric("loss", 0.5)
        assert (tmp_path / METRICS).read_text() == "step,name,value\n0,loss,0.5\n"
