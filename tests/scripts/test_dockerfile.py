"""The Dockerfile: what it copies is there and not ignored, what it installs is in pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "scripts" / "Dockerfile").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_what_is_copied_is_there_and_all_that_the_wheel_needs() -> None:
    copied = [source for line in LINES if line.startswith("COPY ") for source in line.split()[1:-1]]
    copied = [source for source in copied if not source.startswith(("--from", "/"))]
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(kept)
    assert all((ROOT / source).exists() for source in copied)
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], PROJECT["readme"], *PROJECT["license-files"]}
    assert needed <= set(copied)


def test_what_is_installed_is_what_the_project_declares() -> None:
    text = "\n".join(LINES)
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", text, flags=re.M)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    for requirement in re.findall(r'"(torch[^"]*)"', text):
        assert requirement in PROJECT["dependencies"]
    assert f'ENTRYPOINT ["{PROJECT["name"]}"]' in text
    assert "USER dptrain" in text.partition("ENTRYPOINT")[0]
