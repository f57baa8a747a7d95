"""A model that is served for as long as an audit attacks it: its guards, its keys, and what they did."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from dptrain.config import Config
from dptrain.contracts import Guarding, Latency, NormalUse, OutOfQueries, Probing, Release, Splits
from dptrain.evidence.intervals import clopper_pearson
from dptrain.evidence.shares import mean_of_shares
from dptrain.pipeline.experiment import Experiment
from dptrain.pipeline.over_http import UTILITY, Remote, reach
from dptrain.pipeline.serve import make_service
from dptrain.serving.app import make_app
from dptrain.serving.client import Client
from dptrain.serving.detection.traffic import NormalTraffic
from dptrain.serving.metrics import Metrics
from dptrain.serving.observing import APART, Observing
from dptrain.serving.server import running
from dptrain.serving.service import Service

HERE = "127.0.0.1"
FOLDER = "serving"  # in that of the audit
PEOPLE = "people"
LENGTH = 200  # queries of a session of normal traffic
BURST = 8  # of them at once, in the mean
BETWEEN_SECONDS = 60.0  # bursts, in the mean
REQUESTS = 300  # that latency is measured by, after as many that are not
WARM = 50


class Clock:
    """The time of a service and of those who ask it: the machine's, and all that was waited in name only."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_seconds

    def skip(self, seconds: float) -> None:
        """Let so much time pass, at once."""
        self.ahead_seconds += seconds

    async def skipped(self, seconds: float) -> None:
        """The same of an answer that is delayed."""
        self.skip(seconds)


@dataclass(frozen=True, kw_only=True)
class Guarded(Remote):
    """A release behind a service that is at work in this process, and watched from within."""

    service: Service
    seen: Observing
    clock: Clock
    bare_url: str  # of the same model, without guards

    def release(self, name: str = UTILITY) -> Release:
        """The release as whoever bears this name meets it: an attack gets as many answers as people do."""
        found = super().release(name)
        return found if name == UTILITY else replace(found, answers=self.service.model.most)

    def guarding(self) -> Guarding:
        """What the guards made of the attacks, and of normal traffic."""
        sessions = self.experiment.config.release.sessions
        return replace(
            super().guarding(),
            guards=tuple(name for name, each in self.service.guards.items() if each is not self.seen),
            normal=self._replayed(sessions) if sessions else None,
            latency=self._latency(),
        )

    def probing(self, name: str) -> Probing:
        seen, chosen = self.seen.by_name[name], self.experiment.config.release
        asked = super().probing(name)
        return replace(
            asked,
            seconds=asked.seconds + seen.delayed_seconds,
            tenants=chosen.tenants,
            coarse=seen.coarse,
            sessions=seen.sessions,
            flagged=seen.flagged,
            until_alarm=seen.until_alarm,
        )

    def _replayed(self, count: int) -> NormalUse:
        """What the guards make of held-out records as people ask about them, each by a key of her own."""
        experiment = self.experiment
        inputs, labels = _normal(experiment.splits)
        rng = np.random.default_rng(experiment.context.streams.seeded("traffic").initial_seed())
        asked = flagged = 0
        withheld: list[float] = []  # the share of each session's queries
        seen = self.seen.by_name[PEOPLE]
        for number, rows in enumerate(NormalTraffic().rows(labels.numpy(), LENGTH, count, rng)):
            (key,) = make_keys(self.service, PEOPLE, first=number)
            client, alarms, coarse = Client(url=self.url, keys=(key,)), seen.flagged, seen.coarse
            waiting, unasked = torch.from_numpy(rows), 0
            while len(waiting):
                burst = int(min(rng.geometric(1 / BURST), len(waiting)))
                try:
                    client.predictions(inputs[waiting[:burst]])
                except OutOfQueries:
                    unasked = len(waiting) - burst
                    break
                waiting = waiting[burst:]
                self.clock.skip(rng.exponential(BETWEEN_SECONDS))
            wanted = client.asked + unasked
            withheld.append((wanted - client.answered + seen.coarse - coarse) / wanted)
            asked, flagged = asked + wanted, flagged + (seen.flagged > alarms)
        confidence = experiment.config.evidence.confidence
        return NormalUse(
            sessions=count,
            flagged=clopper_pearson(flagged, count, confidence),
            queries=asked,
            withheld=mean_of_shares(float(np.mean(withheld)), count, confidence),
        )

    def _latency(self) -> Latency:
        """How long an answer to one record takes, with guards and without, in turns."""
        inputs, _ = _normal(self.experiment.splits)
        keys = make_keys(self.service, "latency")
        guarded, bare = (Client(url=url, keys=keys) for url in (self.url, self.bare_url))
        took: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(WARM + REQUESTS):
            row = turn % len(inputs)
            for of, client in ((True, guarded), (False, bare)):
                began = time.perf_counter()
                client.predictions(inputs[row : row + 1])
                if turn >= WARM:
                    took[of].append(1000 * (time.perf_counter() - began))
        p50, p99 = np.percentile(took[True], [50, 99]).tolist()
        bare_p50, bare_p99 = np.percentile(took[False], [50, 99]).tolist()
        return Latency(requests=REQUESTS, p50=p50, p99=p99, bare_p50=bare_p50, bare_p99=bare_p99)


@contextmanager
def served_here(
    config: Config, overrides: tuple[str, ...], folder: Path, experiment: Experiment
) -> Iterator[Guarded]:
    """The model of an experiment, served in this process within the context as `config` says.

    Answers that are paid for are a replica's, with a ledger of its own: people's are not spent.
    """
    with TemporaryDirectory() as ledger:
        clock, seen, chosen = Clock(), Observing(), config.release
        own = replace(config, serve=replace(config.serve, host=HERE, port=0, folder=str(folder / FOLDER)))
        service = make_service(own, overrides, clock=clock, replica=Path(ledger))
        service.guards = {**service.guards, "seen": seen}
        service.sleep = clock.skipped
        bare = replace(service, guards={}, metrics=Metrics(None))

        def make_client(name: str) -> Client:
            of_attack = {} if name == UTILITY else {"keys": chosen.keys, "tenants": chosen.tenants}
            return Client(
                url=url,
                keys=make_keys(service, name, **of_attack),
                rest=clock.skip,
                pause_seconds=chosen.pause_seconds,
                at_once=chosen.at_once,
            )

        try:
            with running(make_app(service), HERE, 0) as url, running(make_app(bare), HERE, 0) as bare_url:
                yield Guarded(
                    url=url,
                    experiment=experiment,
                    clients=reach(url, make_client, experiment).clients,
                    service=service,
                    seen=seen,
                    clock=clock,
                    bare_url=bare_url,
                )
        finally:
            bare.close()
            service.close()


def make_keys(
    service: Service, name: str, *, keys: int = 1, tenants: int = 1, first: int = 0
) -> tuple[str, ...]:
    """New keys of so many tenants, `name.0` or `name.first` and on."""
    assert service.keys is not None
    return tuple(
        service.keys.make(tenant=f"{name}{APART}{first + number % tenants}", scopes=["predict"], days=None)
        for number in range(keys)
    )


def _normal(splits: Splits) -> tuple[Tensor, Tensor]:
    """Held-out records, of which no guard was calibrated on any, and their classes."""
    held_out = splits.holdout
    labels = held_out.labels if splits.of_classes else torch.zeros(len(held_out), dtype=torch.int64)
    return held_out.inputs, labels
