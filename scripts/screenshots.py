"""The pictures of the README: a run's report, a comparison, and the same runs in MLflow's own view.

python scripts/screenshots.py runs/sweep_2026-01-01_12-00-00 [folder for the pictures]
python scripts/screenshots.py runs/2026-01-01_12-00-00_quickstart [folder]: the dashboard of its service
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # the browser that the tests drive

import requests
import torch
from browser import Page, browser, find
from mlflow_pages import select, serve, show_comparison, wait
from PIL import Image
from sklearn.datasets import load_digits

import dptrain
from dptrain.serving.client import Client
from dptrain.serving.keys import Keys, server_secret
from dptrain.serving.store import Store

WIDTH, PHONE = 1280, 390
ASSETS = Path(__file__).resolve().parents[1] / ".github" / "assets"
PARAMETERS = ("privacy.epsilon",)
METRICS = ("accuracy", "attack/audit_canaries.certified_epsilon", "bound/membership_loss.auc")


def take(
    page: Page, document: Path, path: Path, *, until: str, width: int = WIDTH, scheme: str = "light"
) -> Path:
    """Picture the top of a page down to the first element that this selector finds."""
    url = document.resolve().as_uri()
    page.open(url, width=width, scheme=scheme)
    bottom: float = page.run(f"document.querySelector({json.dumps(until)}).getBoundingClientRect().bottom")
    page.open(url, width=width, height=round(bottom) + 4, scheme=scheme)
    page.screenshot(path, whole=False)
    return small(path)


def take_mlflow(page: Page, sweep: Path, path: Path) -> Path:
    """Picture MLflow's comparison of a sweep's runs: parallel coordinates from epsilon to a bound."""
    orders = [json.loads(each.read_text()) for each in sorted(sweep.glob("*/run.json"))]
    with serve(tracking_store(orders[0], sweep), path.with_suffix(".log")) as address:
        ids = [order["tracked_as"] for order in orders if order["tracked_as"]]
        show_comparison(page, address, experiment(address, ids[0]), ids, width=1400, height=620)
        select(page, 0, PARAMETERS)
        select(page, 1, METRICS)
        wait(page, "document.querySelectorAll('.parcoords .y-axis').length === 4")
        page.screenshot(path, whole=False)
    path.with_suffix(".log").unlink()
    return small(path)


def take_dashboard(page: Page, run: Path, path: Path) -> Path:
    """Picture what those who serve a run on the digits see: two wards ask of digits, somebody of noise."""
    digits = torch.tensor(load_digits().images[:, None] / 16, dtype=torch.float32)
    noise = torch.rand(300, *digits.shape[1:], generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        where = (f"serve.folder={folder}", "serve.port=0", "tracking=none")
        guards = ("serving=[rates,detection,record,budget]", "serve.calibration=held_out")
        store = Store(folder)
        keys = Keys(store, server_secret(folder))
        asking = {
            keys.make(tenant=tenant, scopes=["predict"], days=365): asked
            for tenant, asked in {"ward_3": digits[:120], "ward_7": digits[120:180], "guest": noise}.items()
        }
        admin = keys.make(tenant="operators", scopes=["admin"], days=365)
        store.close()
        with dptrain.serve(run, *where, *guards) as url:
            for key, asked in asking.items():
                client = Client(url=url, keys=(key,))
                for one in asked.split(4):
                    client.predictions(one)
            shown = requests.get(f"{url}/admin", auth=("admin", admin), timeout=60)
        document = folder / "dashboard.html"
        document.write_text(shown.text)
        return take(page, document, path, until="body > :last-child")


def tracking_store(order: dict[str, Any], sweep: Path) -> str:
    """Where a run is tracked: its own uri, or the database beside the folder of all runs."""
    uri: str | None = order["config"]["tracking"]["uri"]
    return uri or f"sqlite:///{sweep.resolve().parents[1] / 'mlflow.db'}"


def experiment(address: str, run_id: str) -> str:
    """The experiment of a run, as the server knows it."""
    from mlflow import MlflowClient

    identity: str = MlflowClient(address).get_run(run_id).info.experiment_id
    return identity


def small(path: Path) -> Path:
    """The same picture with 256 colours, a third of the size."""
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def main(found: Path, folder: Path) -> None:
    if find() is None:
        raise SystemExit("no Chromium on the PATH; install one, or name it by DPTRAIN_CHROMIUM")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as page:
        if not (found / "comparison.html").exists():
            print(take_dashboard(page, found, folder / "dashboard.png"))
            return
        reports = sorted(found.glob("*/report.html"))
        middle = reports[len(reports) // 2]
        print(take(page, middle, folder / "report.png", until=".answers"))
        print(take(page, middle, folder / "report_dark.png", until=".answers", scheme="dark"))
        print(take(page, middle, folder / "report_phone.png", until=".answers", width=PHONE))
        print(take(page, found / "comparison.html", folder / "comparison.png", until="figure"))
        print(take_mlflow(page, found, folder / "mlflow.png"))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else ASSETS)
