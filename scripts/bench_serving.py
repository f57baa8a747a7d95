#!/usr/bin/env python3
"""What guards of a served model cost and what they buy, over real HTTP: python scripts/bench_serving.py

Needs MNIST in DPTRAIN_DATA (mnist.npz). Three experiments, each a line of JSON a row:

latency    A batch of one by a client in a second process, at a given rate, in turns with every guard and
           with none: milliseconds at the 50th and 99th percentile.
load       As many requests as clients can send in some seconds: answers that clients counted, the ledger
           counted, and the store holds; then the server is killed in the middle.
detection  The shipped black-box inversions and tuned ones, with guards and without: the share of classes that
           an evaluator (another architecture, other data) recognises, queries answered with the prior,
           queries until the first alarm. And how each session scores beside normal sessions of held-out
           records that nothing was calibrated on: AUC, and true positives at 1 % and 10 % false alarms.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from sqlalchemy import func, select
from torch import Tensor, nn

from dptrain.attacks.label_inversion import LabelInversion
from dptrain.attacks.query_inversion import QueryInversion
from dptrain.contracts import Form, Records, Release, Targets
from dptrain.evidence.intervals import clopper_pearson
from dptrain.serving.app import make_app
from dptrain.serving.client import Client
from dptrain.serving.detection.detectors import (
    ClassConcentration,
    Distances,
    NearDuplicates,
    OffManifold,
)
from dptrain.serving.detection.guard import Detection, Watch
from dptrain.serving.detection.history import History
from dptrain.serving.detection.traffic import NormalTraffic
from dptrain.serving.guard import Guard, Surroundings
from dptrain.serving.ledger import QueryBudget
from dptrain.serving.model import ServedModel
from dptrain.serving.rates import Rates
from dptrain.serving.recording import Recording
from dptrain.serving.server import bound, run, running, url_of
from dptrain.serving.service import Bounds, Service
from dptrain.serving.store import ALARMS, QUERIES, SPENT, Store

SECRET = bytes(range(32))
DIGITS = tuple("0123456789")
DETECTORS = {
    "off_manifold": OffManifold(),
    "near_duplicates": NearDuplicates(),
    "distances": Distances(),
    "concentration": ClassConcentration(),
}
ATTACKERS = {
    "queries": QueryInversion,
    "queries, radius .1": partial(QueryInversion, radius=0.1),
    "queries, radius .1 contrast .3 norm .1": partial(QueryInversion, radius=0.1, contrast=0.3, norm=0.1),
    "labels": LabelInversion,
}


@cache
def mnist() -> Mapping[str, Tensor]:
    """Images (N, 1, 28, 28) in (0, 1), and labels."""
    found = np.load(Path(os.environ["DPTRAIN_DATA"]) / "mnist.npz")
    return {
        name: torch.from_numpy(found[name]).float()[:, None] / 255
        if name.endswith("images")
        else torch.from_numpy(found[name]).long().flatten()
        for name in ("train_images", "train_labels", "test_images", "test_labels")
    }


def fitted(net: nn.Module, part: slice, epochs: int = 3) -> nn.Module:
    """A network, trained without privacy on some of the training images."""
    images, labels = mnist()["train_images"][part], mnist()["train_labels"][part]
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def victim() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
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
    net: nn.Module, folder: Path, chosen: Mapping[str, Guard], watch: Watch | None = None
) -> Service:
    """A service of a network, calibrated on the first half of the test images, or as `watch` is."""
    model = ServedModel(
        title="mnist",
        answers=nn.Sequential(net, nn.Softmax(-1)),
        names=DIGITS,
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
        classes=10,
        forms=model.forms,
        folder=folder,
        secret=SECRET,
        calibration=lambda: mnist()["test_images"][:5000].flatten(1),
        answer=lambda rows: model.predict(rows.view(-1, 1, 28, 28)),
    )
    if watch is not None:
        asked = Detection(detectors=DETECTORS, actions=("coarsen",))
        again = Watch(asked, watch.calibration, watch.features, store, model.digest)
    return Service(
        model=model,
        guards={
            name: again if watch is not None and name == "detection" else guard.start(surroundings)
            for name, guard in chosen.items()
        },
        store=store,
        keys=None,
        bounds=Bounds(body_bytes=2**24, body_seconds=60.0, records=256, waiting=4096),
        secret=SECRET,
        prior=torch.full((10,), 0.1),
    )


# ------------------------------------------------------------------ cost


def child(folder: str, weights: Mapping[str, Tensor], kind: str, guarded: bool, told: Any) -> None:
    """A server in a process of its own; tells its URL."""
    torch.set_num_threads(1)
    net = cnn() if kind == "cnn" else victim()
    net.load_state_dict(dict(weights))
    made = service_of(net.eval(), Path(folder), guards(("slow",)) if guarded else {})
    listening = bound("127.0.0.1", 0)
    told.send(url_of(listening))
    run(make_app(made), listening)


@contextmanager
def server(net: nn.Module, kind: str, folder: str, *, guarded: bool) -> Iterator[tuple[str, Any]]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=child, args=(folder, net.state_dict(), kind, guarded, theirs), daemon=True)
    process.start()
    url = ours.recv()
    for _ in range(600):
        try:
            requests.get(f"{url}/health", timeout=5)
            break
        except requests.ConnectionError:
            time.sleep(0.1)
    try:
        yield url, process
    finally:
        process.kill()
        process.join()


def latency(seconds: float, rate: float) -> None:
    """Milliseconds of a batch of one, in turns with guards and without."""
    net = fitted(cnn(), slice(0, 5000), epochs=1)
    images = mnist()["test_images"][5000:]
    bodies = [json.dumps({"inputs": images[row : row + 1].tolist()}).encode() for row in range(256)]
    took: dict[str, list[float]] = {"with guards": [], "without": []}
    with ExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(2)]
        guarded, _ = stack.enter_context(server(net, "cnn", folders[0], guarded=True))
        bare, _ = stack.enter_context(server(net, "cnn", folders[1], guarded=False))
        sessions = {"with guards": (guarded, requests.Session()), "without": (bare, requests.Session())}
        for turn in range(int(seconds * rate)):
            for name, (url, session) in sessions.items():
                began = time.perf_counter()
                answer = session.post(f"{url}/v1/predict", bodies[turn % 256], timeout=30)
                if turn > 50:
                    took[name].append(1000 * (time.perf_counter() - began))
                assert answer.status_code == 200, answer.text
                time.sleep(max(0.0, 1 / rate / 2 - (time.perf_counter() - began)))
    for name, every in took.items():
        p50, p99 = np.percentile(every, [50, 99])
        print(json.dumps({"latency": name, "requests": len(every), "p50_ms": p50, "p99_ms": p99}), flush=True)


def load(seconds: float, clients: int) -> None:
    """Count on all sides, under as much as clients send; then kill the server."""
    net = fitted(victim(), slice(0, 5000), epochs=1)
    body = json.dumps({"inputs": mnist()["test_images"][:1].tolist()}).encode()
    with tempfile.TemporaryDirectory() as folder:
        for killed in (False, True):
            with server(net, "mlp", folder, guarded=True) as (url, process):
                counts, until = [0] * clients, time.monotonic() + seconds

                def ask(place: int, url: str = url, counts: list[int] = counts, until: float = until) -> None:
                    session = requests.Session()
                    while time.monotonic() < until:
                        try:
                            answer = session.post(f"{url}/v1/predict", body, timeout=30)
                        except requests.ConnectionError:
                            return
                        counts[place] += answer.status_code == 200

                before = counted(Path(folder))
                threads = [threading.Thread(target=ask, args=(place,)) for place in range(clients)]
                for each in threads:
                    each.start()
                if killed:
                    time.sleep(seconds / 2)
                    os.kill(process.pid, signal.SIGKILL)
                for each in threads:
                    each.join()
                after = counted(Path(folder))
            row = {"load": "killed" if killed else "whole", "clients": clients, "answered": sum(counts)}
            row |= {name: after[name] - before[name] for name in after}
            print(json.dumps(row), flush=True)


def counted(folder: Path) -> dict[str, int]:
    store = Store(folder)
    spent = store.rows(select(func.sum(SPENT.c.queries)).where(SPENT.c.scope == "key"))[0][0]
    kept = store.rows(select(func.count()).select_from(QUERIES))[0][0]
    store.close()
    return {"ledger": spent or 0, "store": kept}


# ------------------------------------------------------------------ use


def detection(queries: Sequence[int], seeds: int, normal_sessions: int) -> None:
    """Success of attackers with guards and without, and how their sessions score beside normal ones."""
    net, judge = fitted(victim(), slice(0, 20000)), fitted(cnn(), slice(20000, 40000))
    images = mnist()["test_images"]
    accuracy = [
        float((each(images).argmax(1) == mnist()["test_labels"]).float().mean()) for each in (net, judge)
    ]
    print(json.dumps({"victim_accuracy": accuracy[0], "evaluator_accuracy": accuracy[1]}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        watch: Any = service_of(net, Path(folder), guards()).guards["detection"]
    facts = watch.features(images[5000:].flatten(1), net(images[5000:]).softmax(-1))
    sessions = list(NormalTraffic().sessions(facts, 200, normal_sessions, np.random.default_rng(7)))
    normal = np.array([score(watch, [facts.take(np.array([row])) for row in rows]) for rows in sessions])
    odd = np.log(facts.distance) > watch.calibration.query_thresholds["off_manifold"]
    false = int((normal > watch.calibration.session_threshold).sum())
    row = {
        "normal_sessions": normal_sessions,
        "false_alarms": false,
        "interval": interval(false, len(normal)),
    }
    print(json.dumps({**row, "normal_queries_off_manifold": float(odd.mean())}), flush=True)
    for name, attacker in ATTACKERS.items():
        for asked in queries:
            for guarded in (False, True):
                attempt(name, attacker(queries=asked), net, judge, watch, normal, seeds, guarded=guarded)


def attempt(
    name: str,
    attack: Any,
    net: nn.Module,
    judge: nn.Module,
    watch: Any,
    normal: np.ndarray,
    seeds: int,
    *,
    guarded: bool,
) -> None:
    """One attacker with several seeds, through a service of its own each; a row."""
    hits, shown, coarse, alarms, scores = 0, 0, 0, [], []
    for seed in range(seeds):
        asked: list[Tensor] = []
        with tempfile.TemporaryDirectory() as folder:
            service = service_of(net, Path(folder), guards() if guarded else {}, watch)
            with running(make_app(service), "127.0.0.1", 0) as url:
                client = Client(url=url, keys=("",))

                def answer(inputs: Tensor, client: Client = client, asked: list[Tensor] = asked) -> Tensor:
                    asked.append(inputs)
                    return client.predictions(inputs)

                blank = Records(torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.int64))
                targets = Targets(
                    classes=DIGITS, shape=(1, 28, 28), bounds=(0.0, 1.0), mean=(0.1307,), background=blank
                )
                rng = torch.Generator().manual_seed(seed)
                found = attack.run(Release(predictions=answer), targets, rng)
            if guarded:
                kept = service.store.rows(select(QUERIES.c.outcome))
                coarse += sum(each.outcome == "coarse" for each in kept)
                raised = service.store.rows(select(ALARMS.c.at, ALARMS.c.queries).order_by(ALARMS.c.id))
                alarms.append(raised[0].queries if raised else None)
            service.close()
        hits += int((judge(found.inputs).argmax(1) == found.labels).sum())
        shown += len(found.labels)
        every = torch.cat(asked)
        facts = watch.features(every.flatten(1), net(every).softmax(-1))
        for start in range(0, len(every) - 199, 200):
            scores.append(score(watch, [facts.take(np.array([row])) for row in range(start, start + 200)]))
    first = np.array(scores)
    row: dict[str, Any] = {"attacker": name, "queries": attack.queries, "guarded": guarded, "seeds": seeds}
    row |= {"recognised": hits / shown, "interval": interval(hits, shown), "images": shown}
    row |= {
        "sessions": len(first),
        "auc": float((first[:, None] > normal).mean() + 0.5 * (first[:, None] == normal).mean()),
        "tpr_at_1%": float((first > np.sort(normal)[-max(1, len(normal) // 100)]).mean()),
        "tpr_at_10%": float((first > np.sort(normal)[-max(1, len(normal) // 10)]).mean()),
    }
    if guarded:
        row |= {"answered_with_prior": coarse / (attack.queries * seeds), "first_alarm_after": alarms}
    print(json.dumps(row), flush=True)


def score(watch: Any, queries: Sequence[Any]) -> float:
    """The largest deviation of a session, over its checks."""
    history, found = History(len(queries)), [0.0]
    for each in queries:
        history.add(each, DETECTORS)
        if history.count in watch.calibration.checks:
            found.append(watch.calibration.score(history.means(), history.count)[0])
    return max(found)


def interval(hits: int, trials: int) -> tuple[float, float]:
    found = clopper_pearson(hits, trials, 0.95)
    return round(found.low, 3), round(found.high, 3)


def main(words: list[str] | None = None) -> int:
    """Run the experiments that are named, all of them by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("experiments", nargs="*", help="of latency, load, detection")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second, half to each server")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--queries", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=400, help="of normal traffic")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    chosen = options.experiments or ["latency", "load", "detection"]
    if "latency" in chosen:
        latency(options.seconds, options.rate)
    if "load" in chosen:
        load(options.seconds, options.clients)
    if "detection" in chosen:
        detection(options.queries, options.seeds, options.sessions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
