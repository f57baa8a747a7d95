#!/usr/bin/env python3
"""What guards of a served model cost and what they buy, over real HTTP: python scripts/bench_serving.py

Needs MNIST in DPTRAIN_DATA (mnist.npz). Three experiments, each a line of JSON a row:

latency    A batch of one by a client in a second process, at a given rate, in turns with every guard and
           with none: milliseconds at the 50th and 99th percentile.
load       As many requests as clients can send in some seconds: answers that clients counted, the ledger
           counted, and the store holds; then the server is killed in the middle.
detection  Attacks by query and their disguises, with guards and without, by so many keys of one tenant: the
           share of classes that an evaluator (another architecture, other data) recognises, or the AUC of
           membership; queries withheld, queries until the first alarm. And how sessions score beside
           normal sessions of held-out records that nothing was calibrated on: AUC, and true positives at
           1 % and 10 % false alarms. On mnist or, with --data, pneumoniamnist.
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
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from sqlalchemy import func, select
from torch import Tensor, nn

from dptrain.attacks.label_inversion import LabelInversion
from dptrain.attacks.membership import LossThreshold
from dptrain.attacks.query_inversion import QueryInversion
from dptrain.contracts import Form, Images, Records, Release, Targets
from dptrain.evidence.intervals import auc, clopper_pearson
from dptrain.serving.app import make_app
from dptrain.serving.client import Client
from dptrain.serving.detection.detectors import (
    ClassConcentration,
    Distances,
    NearDuplicates,
    OffManifold,
)
from dptrain.serving.detection.guard import Detection, Watch
from dptrain.serving.detection.traffic import NormalTraffic
from dptrain.serving.guard import Guard, Started, Surroundings
from dptrain.serving.keys import Keys
from dptrain.serving.ledger import QueryBudget
from dptrain.serving.model import ServedModel
from dptrain.serving.observing import Observing
from dptrain.serving.rates import Rates
from dptrain.serving.recording import Recording
from dptrain.serving.server import bound, run, running, url_of
from dptrain.serving.service import Bounds, Service
from dptrain.serving.store import QUERIES, SPENT, Store

SECRET = bytes(range(32))
DETECTORS = {
    "off_manifold": OffManifold(),
    "near_duplicates": NearDuplicates(),
    "distances": Distances(),
    "concentration": ClassConcentration(),
}
IN_RANGE = {"in_range": True}
ATTACKERS: Mapping[str, Any] = {
    "queries": QueryInversion,
    "queries, in range": partial(QueryInversion, **IN_RANGE),
    "queries, in range, jitter .05": partial(QueryInversion, **IN_RANGE, jitter=0.05),
    "queries, in range, decoys .5": partial(QueryInversion, **IN_RANGE, decoys=0.5),
    "queries, in range, jitter .05, decoys .9": partial(QueryInversion, **IN_RANGE, jitter=0.05, decoys=0.9),
    "labels": LabelInversion,
    "labels, in range": partial(LabelInversion, **IN_RANGE),
    "labels, in range, decoys .5": partial(LabelInversion, **IN_RANGE, decoys=0.5),
}
MEMBERSHIP = {"membership": LossThreshold(), "membership, decoys .5": LossThreshold(decoys=0.5)}
PROBES = 500  # members, and as many others


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


def few() -> tuple[Tensor, Tensor]:
    """Images enough for a network whose answers nobody reads."""
    images, labels = data("mnist").victim
    return images[:5000], labels[:5000]


def latency(seconds: float, rate: float) -> None:
    """Milliseconds of a batch of one, in turns with guards and without."""
    net, (images, _) = fitted(cnn(), few(), epochs=1), data("mnist").normal
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
    net = fitted(victim(), few(), epochs=1)
    body = json.dumps({"inputs": data("mnist").normal[0][:1].tolist()}).encode()
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


def detection(name: str, queries: Sequence[int], keys: Sequence[int], seeds: int, sessions: int) -> None:
    """Success of attackers with guards and without, and how their sessions score beside normal ones."""
    used, classes = data(name), len(data(name).classes)
    net, judge = fitted(victim(classes), used.victim, 10), fitted(cnn(classes), used.evaluator, 10)
    images, labels = used.normal
    for role, each in (("victim", net), ("evaluator", judge)):
        right = float((each(images).argmax(1) == labels).float().mean())
        print(json.dumps({"data": name, "network": role, "accuracy": round(right, 3)}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        service = service_of(net, Path(folder), guards(), name=name)
        watch: Any = service.guards["detection"]
        service.close()
    facts = watch.features(images.flatten(1), net(images).softmax(-1))
    rows = NormalTraffic().sessions(facts, 200, sessions, np.random.default_rng(7))
    normal = np.array([watch.calibration.of_session(facts.take(each), DETECTORS) for each in rows])
    odd = np.log(facts.distance) > watch.calibration.query_thresholds["off_manifold"]
    false = int((normal > watch.calibration.session_threshold).sum())
    row = {"normal_sessions": sessions, "false_alarms": false, "interval": interval(false, sessions)}
    print(json.dumps({**row, "normal_queries_off_manifold": float(odd.mean())}), flush=True)
    bench = Bench(name=name, net=net, judge=judge, watch=watch, normal=normal, seeds=seeds)
    for attacker, attack in ATTACKERS.items():
        for asked in queries:
            for many in (0, *keys):  # 0: without guards
                bench.attempt(attacker, attack(queries=asked), asked, many)
    for attacker, attack in MEMBERSHIP.items():
        for many in (0, *keys):
            bench.attempt(attacker, attack, 2 * PROBES, many)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all attempts share."""

    name: str
    net: nn.Module
    judge: nn.Module
    watch: Any
    normal: np.ndarray
    seeds: int

    def attempt(self, attacker: str, attack: Any, queries: int, keys: int) -> None:
        """One attacker with several seeds, through a service of its own each; a row."""
        found = [self._once(attack, keys, seed) for seed in range(self.seeds)]
        successes = [each["success"] for each in found]
        scores = np.concatenate([each["scores"] for each in found])
        row: dict[str, Any] = {"attacker": attacker, "queries": queries, "keys": keys, "seeds": self.seeds}
        row |= {"success": round(float(np.mean(successes)), 3), "each": np.round(successes, 3).tolist()}
        if keys:
            row |= {
                "withheld": round(float(np.mean([each["withheld"] for each in found])), 3),
                "first_alarm_after": [each["first"] for each in found],
            }
        elif len(scores):
            ends = {rate: np.sort(self.normal)[-max(1, int(rate * len(self.normal)))] for rate in (0.01, 0.1)}
            above, same = scores[:, None] > self.normal, scores[:, None] == self.normal
            row |= {"sessions": len(scores), "auc": round(float(above.mean() + 0.5 * same.mean()), 3)}
            row |= {f"tpr_at_{rate:g}": round(float((scores > end).mean()), 3) for rate, end in ends.items()}
        print(json.dumps(row), flush=True)

    def _once(self, attack: Any, keys: int, seed: int) -> dict[str, Any]:
        asked: list[Tensor] = []
        with tempfile.TemporaryDirectory() as folder:
            chosen = guards() if keys else {}
            service = service_of(self.net, Path(folder), chosen, self.watch, self.name, keys=True)
            seen = Observing()
            service.guards = {**service.guards, "seen": seen}
            assert service.keys is not None
            make = partial(service.keys.make, tenant="attacker.0", scopes=["predict"], days=None)
            with running(make_app(service), "127.0.0.1", 0) as url:
                client = Client(url=url, keys=[make() for _ in range(max(1, keys))])

                def answer(inputs: Tensor) -> Tensor:
                    asked.append(inputs)
                    return client.predictions(inputs)

                rng = torch.Generator().manual_seed(seed)
                found = attack.run(Release(predictions=answer), self._targets(), rng)
            service.close()
        counts, every = seen.by_name["attacker"], torch.cat(asked)
        return {
            "success": self._success(found),
            "scores": [] if keys else self._scores(every),
            "withheld": counts.coarse / max(1, counts.answered),
            "first": counts.until_alarm,
        }

    def _targets(self) -> Targets:
        used = data(self.name)
        own = Records(used.others[0][PROBES:], used.others[1][PROBES:])
        parts = zip(used.victim, used.others, strict=True)
        probes = [torch.cat([members[:PROBES], others[:PROBES]]) for members, others in parts]
        mean = (float(used.others[0].mean()),)
        return Targets(
            classes=used.classes,
            shape=(1, 28, 28),
            bounds=(0.0, 1.0),
            mean=mean,
            background=own,
            probes=Records(*probes),
        )

    def _success(self, found: Any) -> float:
        """The share of images that are recognised, or the AUC of scores for members and others."""
        if isinstance(found, Images):
            return float((self.judge(found.inputs).argmax(1) == found.labels).float().mean())
        return auc(found.scores, torch.arange(2 * PROBES) < PROBES, 0.95).value

    def _scores(self, every: Tensor) -> list[float]:
        """How each whole session of 200 queries scores."""
        facts = self.watch.features(every.flatten(1), self.net(every).softmax(-1))
        starts = range(0, len(every) - 199, 200)
        of_session = self.watch.calibration.of_session
        return [of_session(facts.take(np.arange(start, start + 200)), DETECTORS) for start in starts]


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
    parser.add_argument("--keys", type=int, nargs="+", default=[1, 10, 100], help="of one tenant")
    parser.add_argument("--data", nargs="+", default=["mnist"], help="of mnist, pneumoniamnist")
    parser.add_argument("--sessions", type=int, default=400, help="of normal traffic")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    chosen = options.experiments or ["latency", "load", "detection"]
    if "latency" in chosen:
        latency(options.seconds, options.rate)
    if "load" in chosen:
        load(options.seconds, options.clients)
    if "detection" in chosen:
        for name in options.data:
            detection(name, options.queries, options.keys, options.seeds, options.sessions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
