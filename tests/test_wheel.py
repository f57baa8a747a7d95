"""The installed wheel works from an empty folder: its configuration and recipes travel inside it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

import dptrain

pytestmark = pytest.mark.e2e

CHECKOUT = Path(dptrain.__file__).resolve().parent.parent


def test_the_wheel_runs_from_an_empty_folder(tmp_path: Path) -> None:
    made = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            str(CHECKOUT),
            "--no-deps",
            "--quiet",
            "--wheel-dir",
            tmp_path,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("dptrain-*.whl")
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    assert (installed / "dptrain" / "py.typed").exists()
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    where = "import dptrain, pathlib; print(pathlib.Path(dptrain.__file__).parent)"
    found = subprocess.check_output([sys.executable, "-c", where], cwd=empty, env=environment, text=True)
    assert Path(found.strip()) == installed / "dptrain"
    shown = subprocess.check_output(
        [sys.executable, "-m", "dptrain", "recipe=medical_cnn", "--cfg", "job"],
        cwd=empty,
        env=environment,
        text=True,
    )
    assert "dptrain.data.phantom.ChestPhantom" in shown
    ran = subprocess.run(
        [
            sys.executable, "-m", "dptrain", "tracking=none", "training.steps=2", "training.evaluations=1",
            "attack=[]", "control.enabled=false",
        ],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert list(empty.glob("runs/*/report.json"))
    assert {"dptrain", "dptrain-compare"} <= set(entry_points(installed))
    compared = subprocess.run(
        [sys.executable, "-m", "dptrain.cli.compare", "runs"],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert compared.returncode == 0, compared.stderr
    assert "python -m dptrain.cli.compare runs" in (empty / "runs" / "comparison.html").read_text()


def entry_points(installed: Path) -> dict[str, str]:
    """The commands that installing a wheel makes, and the functions that they call."""
    (told,) = installed.glob("dptrain-*.dist-info/entry_points.txt")
    commands = ConfigParser()
    commands.read(told)
    return dict(commands["console_scripts"])
