"""A model that is attacked where it is served: through its real interface, with its guards on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from dptrain.contracts import ConfigError, Form, Release, Utility
from dptrain.evaluation.utility import measure_utility
from dptrain.pipeline.experiment import Experiment
from dptrain.pipeline.served import column_names
from dptrain.redaction import redact
from dptrain.tasks import task_of

if TYPE_CHECKING:
    from dptrain.serving.client import Client

UTILITY_QUERIES = 500  # at most, of what the service may answer, for how well it does


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A release of which nothing is held but a client of its interface."""

    release: Release
    client: Client

    def utility(self, experiment: Experiment) -> Utility:
        """How well it does on the first test records: each is a query that an attack lacks."""
        splits = experiment.splits
        few = splits.test.take(torch.arange(min(UTILITY_QUERIES, len(splits.test))))
        return measure_utility(
            self.release,
            replace(splits, test=few, subgroups={}),
            confidence=experiment.config.evidence.confidence,
            as_they_are=False,
        )

    def note(self) -> str:
        """What was asked of the service, in a sentence."""
        client, asked = self.client, f"{self.client.answered:,} queries"
        keys = "one key" if len(client.keys) == 1 else f"{len(client.keys)} keys"
        spent = f"; the budget of {len(client.spent)} of them was spent" if client.spent else ""
        return (
            f"Attacked through {redact(client.url)}: it answered {asked} by {keys}{spent}; it was waited for "
            f"{client.waited_seconds:.0f} seconds. Guards, and what they coarsened, are in all figures"
        )


def reach(url: str, variable: str | None, experiment: Experiment) -> Remote:
    """The release that is served there; raises ConfigError where it is a model of something else."""
    try:
        from dptrain.serving.client import Client, keys_from
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"release={redact(url)} needs the extra `serve` ({error.name} is missing); install dptrain[serve]"
        ) from None
    client = Client(url=url, keys=keys_from(variable))
    splits, found = experiment.splits, client.form()
    names, form = column_names(task_of(splits), splits.classes), splits.forms
    shape = list(form.shape) if isinstance(form, Form) else None
    if shape is None or found["inputs"].get("shape") != shape or list(found["names"]) != list(names):
        raise ConfigError(
            f"release={redact(url)} serves a model of inputs {found['inputs']} and answers "
            f"{found['names']}; the data here have shape {shape} and {list(names)}: choose the data=... that "
            "it was trained on"
        )
    release = Release(predictions=client.predictions, device=torch.device("cpu"), task=splits.task)
    return Remote(release=release, client=client)
