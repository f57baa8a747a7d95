#!/usr/bin/env python3
"""What guards of a served model buy against attackers who know them: python scripts/bench_probing.py

Needs mnist.npz, or with --data pneumoniamnist.npz, in DPTRAIN_DATA. Each attack by query and its disguises,
over real HTTP, without guards (`--keys 0`) and with all of them by so many keys of one tenant. A line of JSON
has the share of images that an evaluator (another architecture, other data) recognises, or the AUC of
membership; queries withheld (answered with the prior), queries until the first alarm. And, of the queries
that were asked without guards, how sessions of 200 score beside normal sessions of records that nothing was
calibrated on: AUC, and true positives at 1 % and 10 % false alarms.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_serving import DETECTORS, cnn, data, fitted, guards, service_of, victim
from torch import Tensor, nn

from dptrain.attacks.label_inversion import LabelInversion
from dptrain.attacks.membership import LossThreshold
from dptrain.attacks.query_inversion import QueryInversion
from dptrain.contracts import Images, Records, Release, Targets
from dptrain.evidence.intervals import auc, clopper_pearson
from dptrain.serving.app import make_app
from dptrain.serving.client import Client
from dptrain.serving.detection.traffic import NormalTraffic
from dptrain.serving.observing import Observing
from dptrain.serving.server import running

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


def detection(
    name: str, chosen: Sequence[str], queries: Sequence[int], keys: Sequence[int], seeds: int, sessions: int
) -> None:
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
    for attacker in chosen:
        for many in keys:
            if attacker in MEMBERSHIP:
                bench.attempt(attacker, MEMBERSHIP[attacker], 2 * PROBES, many)
            for asked in queries if attacker in ATTACKERS else ():
                bench.attempt(attacker, ATTACKERS[attacker](queries=asked), asked, many)


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
            every = torch.from_numpy(np.concatenate([scores, self.normal]))
            area = auc(every, torch.arange(len(every)) < len(scores), 0.95)
            row |= {"sessions": len(scores), "auc": round(area.value, 3)}
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
    """Attack services of each data set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", default=["mnist"], help="of mnist, pneumoniamnist")
    parser.add_argument("--queries", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--keys", type=int, nargs="+", default=[0, 1, 10, 100], help="0: no guards")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=400, help="of normal traffic")
    parser.add_argument("--attackers", nargs="+", help="of those in this file, by name; all by default")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    for name in options.data:
        chosen = options.attackers or [*ATTACKERS, *MEMBERSHIP]
        detection(name, chosen, options.queries, options.keys, options.seeds, options.sessions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
