"""MLflow's own user interface in a real browser: a server on this machine, and its pages."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from browser import Page

# What `mlflow server` needs not do here.
QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
PRESS = """for (const kind of ['pointerdown', 'mousedown', 'pointerup', 'mouseup', 'click'])
  element.dispatchEvent(new MouseEvent(kind, {bubbles: true, button: 0}));"""
UNFOLD = ".ag-cell button[data-component-id*=runnamecell]"
ROWS = "document.querySelectorAll('.ag-center-cols-container .ag-row').length"
VISIBLE = (
    "const seen = selector => [...document.querySelectorAll(selector)].filter(e => e.checkVisibility());"
)


@contextmanager
def serve(uri: str, log: Path, *, seconds: float = 120) -> Iterator[str]:
    """The address of an MLflow server that shows this store, until the end of the block."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--workers", "1", "--backend-store-uri", uri],
            stdout=output,
            stderr=output,
            env={**os.environ, **QUIET},
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            until_it_answers(f"{address}/health", log, seconds=seconds)
            yield address
        finally:
            os.killpg(server.pid, 15)  # it has workers
            server.wait(30)


def free_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def until_it_answers(url: str, log: Path, *, seconds: float = 120) -> None:
    """Wait for a server that writes this log."""
    _until(lambda: _answers(url), seconds, f"no answer from MLflow: see {log}")


def show(page: Page, url: str, **size: int) -> None:
    """Open a page of MLflow's, all of which are one document to a browser that comes from another of them."""
    page.open("about:blank")
    page.open(url, **size)


def show_runs(page: Page, address: str, experiment: str, *, charts: bool = False, **size: int) -> None:
    """The table of an experiment's runs, or their charts, each family unfolded."""
    mode = "?compareRunsMode=CHART" if charts else ""
    show(page, f"{address}/#/experiments/{experiment}/runs{mode}", **size)
    wait(page, f"document.querySelector('{UNFOLD}')")
    close_assistant(page)
    if page.run(f"{ROWS} === document.querySelectorAll('{UNFOLD}').length"):  # or they were unfolded before
        page.run(f"document.querySelectorAll('{UNFOLD}').forEach(button => button.click())")


def show_comparison(page: Page, address: str, experiment: str, runs: Sequence[str], **size: int) -> None:
    """MLflow's comparison of these runs, which begins with parallel coordinates."""
    listed = json.dumps(list(runs)), json.dumps([experiment])
    show(page, f"{address}/#/compare-runs?runs={listed[0]}&experiments={listed[1]}", **size)
    wait(page, "document.querySelector('.js-plotly-plot .parcoords')")
    close_assistant(page)


def close_assistant(page: Page) -> None:
    """Put away the panel that MLflow opens beside everything."""
    page.run("document.querySelector('[data-component-id*=assistant][data-component-id*=close]')?.click()")


def press(page: Page, selector: str, words: str) -> None:
    """Press the first element of this kind that says these words."""
    found = f"seen({json.dumps(selector)}).find(e => e.textContent.trim() === {json.dumps(words)})"
    wait(page, f"(() => {{ {VISIBLE} return {found} }})()")
    page.run(f"(() => {{ {VISIBLE} const element = {found}; {PRESS} }})()")


def choose(page: Page, field: str, option: str) -> None:
    """Choose an option of the field with this id."""
    wait(page, f"document.getElementById('{field}')")
    page.run(f"(() => {{ const element = document.getElementById('{field}'); {PRESS} }})()")
    press(page, "[role=option]", option)
    wait(page, f"document.getElementById('{field}').textContent.trim() === {json.dumps(option)}")


def select(page: Page, place: int, options: Sequence[str]) -> None:
    """Select these options, and no others, in a comparison's list of parameters (0) or of metrics (1)."""
    box = f"document.querySelectorAll('.du-bois-light-select-multiple')[{place}]"
    removing = ".du-bois-light-select-selection-item-remove"
    while page.run(f"Boolean({box}.querySelector('{removing}'))"):
        page.run(f"{box}.querySelector('{removing}').click()")
    page.run(
        f"(() => {{ const element = {box}.querySelector('.du-bois-light-select-selector'); {PRESS} }})()"
    )
    for option in options:
        page.run(f"{box}.querySelector('input').focus()")
        page.call("Input.insertText", text=option)
        press(page, ".du-bois-light-select-item-option", option)
    page.run(f"(() => {{ const element = document.querySelector('h1, h2'); {PRESS} }})()")  # folds the list
    page.run("document.activeElement.blur()")
    wait(page, "!document.querySelector('.du-bois-light-select-dropdown')?.checkVisibility()")


def wait(page: Page, script: str, *, seconds: float = 60) -> Any:
    """The value of this expression in the page as soon as it is not empty."""
    return _until(lambda: page.run(f"Boolean({script})"), seconds, f"never true: {script}")


def _until(there: Any, seconds: float, otherwise: str) -> Any:
    ends = time.monotonic() + seconds
    while not (found := there()):
        if time.monotonic() > ends:
            raise TimeoutError(otherwise)
        time.sleep(0.2)
    return found


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
