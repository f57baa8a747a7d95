"""A model that is attacked where it is served: through its real interface, with its guards on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from dptrain.contracts import ConfigError, Form, Guarding, Probing, Release, Utility
from dptrain.evaluation.utility import measure_utility
from dptrain.pipeline.experiment import Experiment
from dptrain.pipeline.served import column_names
from dptrain.redaction import redact
from dptrain.tasks import task_of

if TYPE_CHECKING:
    from dptrain.serving.client import Client

UTILITY = "utility"  # who asks for how well the model does
UTILITY_QUERIES = 500  # at most, of what the service may answer


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A release of which nothing is held but clients of its interface: one of each attack."""

    url: str
    experiment: Experiment
    clients: Mapping[str, Client]

    def release(self, name: str = UTILITY) -> Release:
        """The release as whoever bears this name meets it."""
        task = self.experiment.splits.task
        predictions = self.clients[name].predictions
        return Release(predictions=predictions, device=torch.device("cpu"), task=task)

    @property
    def met(self) -> dict[str, Release]:
        """The release as each attack meets it."""
        return {name: self.release(name) for name in self.experiment.parts.attacks}

    def utility(self) -> Utility:
        """How well it does on the first test records: each is a query."""
        splits = self.experiment.splits
        few = splits.test.take(torch.arange(min(UTILITY_QUERIES, len(splits.test))))
        groups = None if splits.test_group_ids is None else splits.test_group_ids[: len(few)]
        return measure_utility(
            self.release(),
            replace(splits, test=few, test_group_ids=groups, subgroups={}),
            confidence=self.experiment.config.evidence.confidence,
            as_they_are=False,
        )

    def guarding(self) -> Guarding:
        """What whoever only asks knows of the guards."""
        found = tuple(self.probing(name) for name in self.experiment.parts.attacks)
        return Guarding(guards=None, probing=found)

    def probing(self, name: str) -> Probing:
        """What an attack asked, as far as its client knows."""
        client = self.clients[name]
        return Probing(
            attack=name,
            keys=len(client.keys),
            asked=client.asked,
            answered=client.answered,
            seconds=client.waited_seconds,
        )

    def note(self) -> str:
        """What was asked of the service, in a sentence."""
        every = list(self.clients.values())
        asked = f"{sum(each.answered for each in every):,} queries"
        used, spent = ({key for each in every for key in getattr(each, of)} for of in ("keys", "spent"))
        keys = "one key" if len(used) == 1 else f"{len(used)} keys"
        gone = f"; the budget of {len(spent)} of them was spent" if spent else ""
        waited = sum(each.waited_seconds for each in every)
        return (
            f"Attacked through {redact(self.url)}: it answered {asked} by {keys}{gone}; it was waited for "
            f"{waited:.0f} seconds. Guards, and what they coarsened, are in all figures"
        )


def reach(url: str, make_client: Callable[[str], Client], experiment: Experiment) -> Remote:
    """The release that is served there, asked by a client of each attack; raises ConfigError.

    So it does where the service has a model of something else.
    """
    clients = {name: make_client(name) for name in (UTILITY, *experiment.parts.attacks)}
    splits, found = experiment.splits, clients[UTILITY].form()
    names, form = column_names(task_of(splits), splits.classes), splits.forms
    shape = list(form.shape) if isinstance(form, Form) else None
    if shape is None or found["inputs"].get("shape") != shape or list(found["names"]) != list(names):
        raise ConfigError(
            f"release={redact(url)} serves a model of inputs {found['inputs']} and answers "
            f"{found['names']}; the data here have shape {shape} and {list(names)}: choose the data=... that "
            "it was trained on"
        )
    return Remote(url=url, experiment=experiment, clients=clients)


@contextmanager
def extra_needed(asked: str) -> Iterator[None]:
    """Within, raise ConfigError where a module of the extra `serve` is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in ("dptrain", "torch"):
            raise
        raise ConfigError(
            f"{asked} needs the extra `serve` ({error.name} is missing); install dptrain[serve]"
        ) from None


def reach_url(url: str, experiment: Experiment) -> Remote:
    """The release of a service that others run; raises ConfigError."""
    with extra_needed(f"release={redact(url)}"):
        from dptrain.serving.client import Client, keys_from
    chosen = experiment.config.release
    keys = keys_from(chosen.key_env)

    def make_client(name: str) -> Client:  # noqa: ARG001
        return Client(url=url, keys=keys, pause_seconds=chosen.pause_seconds, at_once=chosen.at_once)

    return reach(url, make_client, experiment)
