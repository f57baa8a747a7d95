"""The start of the program: what is not imported yet, and what is refused before anything is composed."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf
from support import order
from torch import nn

from dptrain.assembly.given import Given
from dptrain.cli import main as cli
from dptrain.cli import start
from dptrain.cli.hydra import _ending_the_sweep
from dptrain.config import RENAMED
from dptrain.report.console import Console
from dptrain.runs import folder as runs

pytestmark = pytest.mark.e2e

# A run's end needs these; --help and --cfg job need nothing that computes.
LATE = {"PIL", "jinja2", "markdown_it", "matplotlib", "mlflow", "pandas", "riskcal", "sklearn", "torchvision"}
COMPUTES = {"torch", "numpy", "scipy", "opacus", "dp_accounting", "PIL", "rich"}

IMPORTED = """
import os, sys
from dptrain.__main__ import run

def told():
    print("imported:", *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr, flush=True)

if "--help" in sys.argv or "--cfg" in sys.argv:
    import atexit
    atexit.register(told)
else:
    from dptrain.report.console import Console
    Console.briefing = lambda *_: (told(), os._exit(0))
run()
"""


@pytest.mark.parametrize(
    ("words", "absent"),
    [(("--help",), LATE | COMPUTES), (("--cfg", "job"), LATE | COMPUTES), ((), LATE)],
    ids=["help", "configuration", "quickstart until its briefing"],
)
def test_what_is_not_needed_yet_is_not_imported(
    tmp_path: Path, words: tuple[str, ...], absent: set[str]
) -> None:
    started = [sys.executable, "-c", IMPORTED, *words]
    done = subprocess.run(started, cwd=tmp_path, capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("imported: "))
    imported = set(line.split()[1:])
    assert "hydra" in imported
    assert imported & absent == set()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "training.physical_batch_size=64",
            "training.physical_batch_size=64 is now performance.physical_batch_size; rename it",
        ),
        ("++threads=1,2", "++threads=1,2 is now performance.threads; rename it"),
    ],
)
def test_a_key_of_an_earlier_version_is_refused_with_its_new_name(
    capsys: pytest.CaptureFixture[str], word: str, said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        start.check(["-m", "recipe=quickstart", word])
    assert ended.value.code == cli.FAILED
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_run_of_an_earlier_version_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = order("tracking=none")
    before = asked.config
    performance = before.pop("performance")
    before["threads"] = performance.pop("threads")
    before["training"].update(performance)
    runs.start(tmp_path, asked)
    with pytest.raises(SystemExit) as ended:
        cli.main(order(f"resume={tmp_path}"), None)
    assert ended.value.code == cli.FAILED
    said = "".join(capsys.readouterr().err.split())
    for key, now in RENAMED.items():
        assert f"{key}isnow{now}" in said
    assert f"resume={tmp_path}:anearlierversionofdptrainbeganit" in said


@pytest.mark.parametrize("words", [("resume={}",), ("task=audit", "release={}")], ids=["resumed", "audited"])
def test_a_run_that_knew_no_games_is_refused_as_an_earlier_versions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    asked = order("tracking=none")
    del asked.config["game"]
    runs.start(tmp_path / "run", asked)
    with pytest.raises(SystemExit) as ended:
        cli.main(order(*(word.format(tmp_path / "run") for word in words), f"output={tmp_path}"), None)
    assert ended.value.code == cli.FAILED
    said = "".join(capsys.readouterr().err.split())
    assert "anearlierversionofdptrainbeganit,whoseconfigurationhasnosection`game`" in said
    assert "usethatversionforit,orstartanewrun" in said


@pytest.mark.parametrize("words", [("resume={}",), ("task=audit", "release={}")], ids=["resumed", "audited"])
def test_a_run_of_objects_that_a_program_handed_over_is_refused_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    asked = order("tracking=none")
    asked.config.update(Given(model=nn.Linear(1, 1)).nodes())
    runs.start(tmp_path / "run", asked)
    with pytest.raises(SystemExit) as ended:
        cli.main(order(*(word.format(tmp_path / "run") for word in words), f"output={tmp_path}"), None)
    assert ended.value.code == cli.FAILED
    said = " ".join("".join(c for c in capsys.readouterr().err if c not in "│").split())
    assert "a program handed over its model as Python objects" in said
    assert "dptrain.run(model=...)" in said
    assert "cannot be made" not in said


@pytest.mark.parametrize(
    ("error", "code"), [(OSError("of anything"), 1), (OSError(errno.ENOSPC, "full", "a"), 2), (KeyError(), 1)]
)
def test_a_sweep_never_goes_on_after_a_callback_that_failed(error: Exception, code: int) -> None:
    """Hydra makes a warning of whatever leaves a callback but an exit."""

    def failing(*_: object) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        _ending_the_sweep(failing)(Callback(), OmegaConf.create())
    assert ended.value.code == code


def test_what_an_encoding_lacks_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    start.write_any_text()
    Console().note("budget", "\N{GREEK SMALL LETTER EPSILON} = 3")
    assert raw.getvalue() == b"budget  ? = 3\n"
    monkeypatch.setattr(sys, "stdout", None)  # as under pythonw
    start.write_any_text()
