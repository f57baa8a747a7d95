"""Services of a small model with weights of its own, guards as a test asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests
import torch
from torch import nn

from dptrain.contracts import Form
from dptrain.data.raw import of_images
from dptrain.serving.app import make_app
from dptrain.serving.guard import Guard, Surroundings
from dptrain.serving.keys import Keys
from dptrain.serving.metrics import Metrics
from dptrain.serving.model import ServedModel
from dptrain.serving.recording import Recording
from dptrain.serving.server import run
from dptrain.serving.service import Bounds, Service
from dptrain.serving.store import Store

CLASSES, SHAPE = ("a", "b", "c"), (1, 8, 8)
SECRET = bytes(range(32))


class Website:
    """A running service, and a client of it."""

    def __init__(self, service: Service, url: str, key: str) -> None:
        self.service, self.url, self.key = service, url, key
        self.session = requests.Session()
        self.session.trust_env = False

    def get(self, path: str, key: str | None = None) -> requests.Response:
        return self.session.get(self.url + path, headers=self._headers(key), timeout=20)

    def ask(self, body: Any, key: str | None = None, **more: Any) -> requests.Response:
        """POST to /v1/predict, JSON or bytes, which are said to be JSON too where nothing else is said."""
        headers = self._headers(key) | {"Content-Type": "application/json"} | more.pop("headers", {})
        given = {"json": body} if isinstance(body, dict | list) else {"data": body}
        return self.session.post(f"{self.url}/v1/predict", headers=headers, timeout=20, **given, **more)

    def inputs(self, inputs: torch.Tensor, key: str | None = None) -> requests.Response:
        return self.ask({"inputs": inputs.tolist()}, key)

    def _headers(self, key: str | None) -> dict[str, str]:
        used = self.key if key is None else key
        return {"Authorization": f"Bearer {used}"} if used else {}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 3)).eval()


def served(output: nn.Module | None = None, digest: str = "0" * 64) -> ServedModel:
    return ServedModel(
        title="squares",
        answers=nn.Sequential(network(), nn.Softmax(-1), *([output] if output else [])),
        names=CLASSES,
        forms=Form(shape=SHAPE, bounds=(0.0, 1.0)),
        raw=of_images(SHAPE),
        statement={"status": "unknown"},
        card="# squares\n",
        digest=digest,
        output="confidences",
        task="classification",
    )


def make_service(
    folder: Path,
    guards: dict[str, Guard] | None = None,
    *,
    keys: bool = True,
    model: ServedModel | None = None,
    calibration: torch.Tensor | None = None,
    workers: int = 1,
    url: str | None = None,
    **changes: Any,
) -> Service:
    """One of so many `workers`, whose store is at `url`, or in the folder."""
    store = Store(folder, url)
    model = model or served()
    surroundings = Surroundings(
        store=store,
        model=model.digest,
        classes=3,
        forms=model.forms,
        folder=folder,
        secret=SECRET,
        calibration=lambda: calibration,  # type: ignore[arg-type, return-value]
        answer=model.predict,
        workers=workers,
        recorded=any(isinstance(guard, Recording) for guard in (guards or {}).values()),
    )
    bounds = {
        "body_bytes": 65536,
        "body_seconds": 5.0,
        "records": 16,
        "waiting": 512,
        "transit_bytes": 2**26,
    }
    for name in bounds.keys() & changes.keys():
        bounds[name] = changes.pop(name)
    return Service(
        model=model,
        guards={name: guard.start(surroundings) for name, guard in (guards or {}).items()},
        store=store,
        keys=Keys(store, SECRET) if keys else None,
        bounds=Bounds(**bounds),  # type: ignore[arg-type]
        secret=SECRET,
        prior=torch.full((3,), 1 / 3),
        **changes,
    )


def worker(
    folder: Path, guards: dict[str, Guard], more: dict[str, Any], listening: Any, counters: Path
) -> None:
    """The work of one of two workers."""
    torch.set_num_threads(1)
    service = make_service(folder, guards, workers=2, metrics=Metrics(counters), **more)
    run(make_app(service), listening)
