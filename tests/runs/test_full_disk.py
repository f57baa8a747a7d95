"""A disk that is full at any write of a run: a sentence, exit code 2, and it goes on with space again."""

from __future__ import annotations

import errno
import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest
from support import QUICK, order

from dptrain import storage
from dptrain.cli import main as cli
from dptrain.mechanisms import dpsgd, non_private
from dptrain.report.document import read_json
from dptrain.runs import folder as runs

pytestmark = pytest.mark.run

SMALL = (
    "tracking=none", *QUICK, "attack=[membership_loss]", "performance.checkpoint_seconds=0",
    "deterministic=true", "performance.threads=1", "mechanism.audit_sensitivity=false",
)  # fmt: skip


@pytest.fixture(autouse=True)
def tried_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is not tried again for each run."""
    for module in (dpsgd, non_private):
        monkeypatch.setattr(module, "refuse_dependence", lambda *_: None, raising=False)


@pytest.fixture(scope="module")
def asked() -> runs.Order:
    return order(*SMALL, recipe="health_mlp")


def carry_out(asked: runs.Order, **keys: str) -> int:
    """The exit code of an order with other values of some keys."""
    words = tuple(f"{key}={value}" for key, value in keys.items())
    try:
        cli.main(replace(asked, config={**asked.config, **keys}, overrides=words), None)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def failing_at(monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> list[str]:
    """From this write on all fail, drafts being half written; returns what is written, as it grows."""
    replace, written = Path.replace, list[str]()

    def full(draft: Path, path: Path) -> Path:
        written.append(Path(path).name)
        if len(written) >= number:
            raise OSError(code, os.strerror(code), str(draft))
        return replace(draft, path)

    monkeypatch.setattr(storage.Path, "replace", full)
    return written


def test_a_run_goes_on_after_a_disk_was_full_at_any_write(
    tmp_path: Path, asked: runs.Order, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written = failing_at(patch, 10**9, errno.ENOSPC)
        assert carry_out(asked, output=f"{tmp_path}/whole") == 0
    (path,) = (tmp_path / "whole").glob("*/report.json")
    epsilon = read_json(path)["guarantee"]["epsilon"]
    assert {"checkpoint.pt", "ledger.json", "weights.pt", "report.json", "run.json"} <= set(written)
    # Documents are written by one function: the first of each kind stands for all.
    kinds = {
        name if name.endswith((".pt", ".json")) else Path(name).suffix: name for name in reversed(written)
    }
    for number in sorted(written.index(name) + 1 for name in kinds.values()):
        output = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            failing_at(patch, number, errno.ENOSPC if number % 2 else errno.EDQUOT)
            assert carry_out(asked, output=str(output)) == 2, written[number - 1]
        said = "".join(capsys.readouterr().err.split())
        assert f"{written[number - 1].partition('_')[0]}" in said
        assert "cannotbewritten(" in said
        assert "Traceback" not in said
        assert not [path for path in output.rglob(".*") if path.name.count(".") > 2], "half-written files"
        begun = list(output.glob("*/run.json"))
        if not begun:
            continue
        if not (begun[0].parent / runs.REPORT).exists():
            assert carry_out(asked, resume=str(begun[0].parent), output=str(output)) == 0
        assert read_json(begun[0].parent / runs.REPORT)["guarantee"]["epsilon"] == epsilon


@pytest.mark.parametrize("most", [300, 3_000, 30_000])
def test_files_that_may_not_grow_are_a_sentence(
    tmp_path: Path, asked: runs.Order, capsys: pytest.CaptureFixture[str], most: int
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        code = carry_out(asked, output=f"{tmp_path}/runs")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert "cannot be written (File too large); free space there" in " ".join(capsys.readouterr().err.split())
