#!/usr/bin/env python3
"""What guards of a served model cost, over real HTTP: python scripts/bench_serving.py

Needs MNIST in DPTRAIN_DATA (mnist.npz). A batch of one by a client in a second process, at a given rate, in
turns with every guard and with none: milliseconds at the 50th and 99th percentile, a line of JSON each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from torch import Tensor, nn

from dptrain.contracts import Form
from dptrain.serving.app import make_app
from dptrain.serving.detection.detectors import (
    ClassConcentration,
    Distances,
    NearDuplicates,
    OffManifold,
)
from dptrain.serving.detection.guard import Detection, Watch
from dptrain.serving.guard import Guard, Started, Surroundings
from dptrain.serving.keys import Keys
from dptrain.serving.ledger import QueryBudget
from dptrain.serving.metrics import Metrics
from dptrain.serving.model import ServedModel
from dptrain.serving.rates import Rates
from dptrain.serving.recording import Recording
from dptrain.serving.server import bound, run, url_of
from dptrain.serving.service import Bounds, Service
from dptrain.serving.store import Store

SECRET = bytes(range(32))
DETECTORS = {
    "off_manifold": OffManifold(),
    "near_duplicates": NearDuplicates(),
    "distances": Distances(),
    "concentration": ClassConcentration(),
}
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, kw_only=True)
class Data:
    """Images (N, 1, 28, 28) in (0, 1) and labels, in parts that have no image in common."""

    classes: tuple[str, ...]
    victim: tuple[Tensor, Tensor]
    evaluator: tuple[Tensor, Tensor]
    others: tuple[Tensor, Tensor]  # the adversary's own, and probes that are no members
    calibration: Tensor
    normal: tuple[Tensor, Tensor]


@cache
def data(name: str) -> Data:
    """The parts of a data set in DPTRAIN_DATA."""
    found = np.load(Path(os.environ["DPTRAIN_DATA"]) / f"{name}.npz")
    parts = [each for each in ("train", "val", "test") if f"{each}_images" in found]
    images = torch.cat([torch.from_numpy(found[f"{each}_images"]) for each in parts]).float()[:, None] / 255
    labels = torch.cat([torch.from_numpy(found[f"{each}_labels"]).flatten().long() for each in parts])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    sizes = [int(share * len(images)) for share in (0.3, 0.3, 0.2, 0.1)]
    victim, evaluator, others, calibration, normal = (
        (images[rows], labels[rows]) for rows in order.split([*sizes, len(images) - sum(sizes)])
    )
    return Data(
        classes=tuple(map(str, range(int(labels.max()) + 1))),
        victim=victim,
        evaluator=evaluator,
        others=others,
        calibration=calibration[0],
        normal=normal,
    )


def fitted(net: nn.Module, part: tuple[Tensor, Tensor], epochs: int = 3) -> nn.Module:
    """A network, trained without privacy on these images."""
    images, labels = part
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def victim(classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, classes))


def cnn(classes: int = 10) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, classes),
    )


def guards(actions: Sequence[str] = ("coarsen",)) -> dict[str, Guard]:
    """Every guard, limits too high to be met."""
    return {
        "rates": Rates(key=["1000000/second"], tenant=["100000000/day"]),
        "detection": Detection(detectors=DETECTORS, actions=tuple(actions)),
        "record": Recording(),
        "budget": QueryBudget(per_key=10**9, per_tenant=10**9),
    }


def service_of(
    net: nn.Module,
    folder: Path,
    chosen: Mapping[str, Guard],
    watch: Watch | None = None,
    name: str = "mnist",
    *,
    keys: bool = False,
    workers: int = 1,
    metrics: Metrics | None = None,
) -> Service:
    """A service of a network, calibrated on images of their own, or as `watch` is; observed."""
    used = data(name)
    model = ServedModel(
        title=name,
        answers=nn.Sequential(net, nn.Softmax(-1)),
        names=used.classes,
        forms=Form(shape=(1, 28, 28)),
        raw=None,
        statement={},
        card="",
        digest="0" * 64,
        output="confidences",
        task="classification",
    )
    store = Store(folder)
    surroundings = Surroundings(
        store=store,
        model=model.digest,
        classes=len(used.classes),
        forms=model.forms,
        folder=folder,
        secret=SECRET,
        calibration=lambda: used.calibration.flatten(1),
        answer=lambda rows: model.predict(rows.view(-1, 1, 28, 28)),
        workers=workers,
        recorded="record" in chosen,
    )
    started: dict[str, Started] = {}
    for each, guard in chosen.items():
        if watch is not None and each == "detection":
            assert isinstance(guard, Detection)
            started[each] = Watch(guard, watch.calibration, watch.features, store, model.digest)
        else:
            started[each] = guard.start(surroundings)
    return Service(
        model=model,
        guards=started,
        store=store,
        keys=Keys(store, SECRET) if keys else None,
        bounds=Bounds(body_bytes=2**24, body_seconds=60.0, records=256, waiting=4096),
        secret=SECRET,
        prior=torch.full((len(used.classes),), 1 / len(used.classes)),
        metrics=metrics or Metrics(),
    )


# ------------------------------------------------------------------ cost


def child(folder: str, weights: Mapping[str, Tensor], guarded: bool, told: Any) -> None:
    """A server in a process of its own; tells its URL."""
    torch.set_num_threads(1)
    net = cnn()
    net.load_state_dict(dict(weights))
    made = service_of(net.eval(), Path(folder), guards(("slow",)) if guarded else {})
    listening = bound("127.0.0.1", 0)
    told.send(url_of(listening))
    run(make_app(made), listening)


@contextmanager
def server(net: nn.Module, folder: str, *, guarded: bool) -> Iterator[str]:
    """The URL of a server in a process of its own, which has the weights of this CNN."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=child, args=(folder, net.state_dict(), guarded, theirs), daemon=True)
    process.start()
    url = ours.recv()
    for _ in range(600):
        try:
            requests.get(f"{url}/health", timeout=5)
            break
        except requests.ConnectionError:
            time.sleep(0.1)
    try:
        yield url
    finally:
        process.kill()
        process.join()


def few() -> tuple[Tensor, Tensor]:
    """Images enough for a network whose answers nobody reads."""
    images, labels = data("mnist").victim
    return images[:5000], labels[:5000]


def bodies() -> list[bytes]:
    """Requests about an image each, of normal ones."""
    images, _ = data("mnist").normal
    return [json.dumps({"inputs": images[row : row + 1].tolist()}).encode() for row in range(256)]


def latency(seconds: float, rate: float) -> None:
    """Milliseconds of a batch of one, in turns with guards and without."""
    net, asked = fitted(cnn(), few(), epochs=1), bodies()
    took: dict[str, list[float]] = {"with guards": [], "without": []}
    with ExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(2)]
        guarded = stack.enter_context(server(net, folders[0], guarded=True))
        bare = stack.enter_context(server(net, folders[1], guarded=False))
        sessions = {"with guards": (guarded, requests.Session()), "without": (bare, requests.Session())}
        for turn in range(int(seconds * rate)):
            for name, (url, session) in sessions.items():
                began = time.perf_counter()
                answer = session.post(f"{url}/v1/predict", asked[turn % len(asked)], headers=JSON, timeout=30)
                if turn > 50:
                    took[name].append(1000 * (time.perf_counter() - began))
                assert answer.status_code == 200, answer.text
                time.sleep(max(0.0, 1 / rate / 2 - (time.perf_counter() - began)))
    for name, every in took.items():
        p50, p99 = np.percentile(every, [50, 99])
        print(json.dumps({"latency": name, "requests": len(every), "p50_ms": p50, "p99_ms": p99}), flush=True)


def main(words: list[str] | None = None) -> int:
    """Measure it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second, half to each server")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    latency(options.seconds, options.rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
