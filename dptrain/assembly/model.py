"""The model that a configuration names, made for these records, on the device that it asks for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from dptrain.assembly.build import build
from dptrain.config import Config
from dptrain.contracts import ConfigError, Mechanism, Splits, Streams
from dptrain.models.normalise import Normalise
from dptrain.tasks import task_of


def make_model(
    config: Config,
    mechanism: Mechanism | None,
    splits: Splits,
    streams: Streams,
    network: Callable[[], nn.Module] | None = None,
) -> nn.Module:
    """The model with its seeded initial weights, behind the normalisation that the data declare.

    Built for the shape of an input (by name, where inputs have names) and for as many outputs as the task
    has. Whole numbers and inputs with names reach it as they are; a network that says `own_normalisation`
    has values in [0, 1].

    It comes as the mechanism can train it (None: as it is, for nobody trains it), and has been
    tried on two blank inputs. `network` makes one that was handed over, in place of the configured one.
    """
    task = task_of(splits)
    with torch.random.fork_rng():
        torch.manual_seed(streams.seeded("model").initial_seed())
        made = (
            build("model", config.model, shape=splits.train.shapes, num_classes=task.outputs[-1])
            if network is None
            else network()
        )
    as_they_are = splits.train.names or splits.train.whole
    if getattr(made, "own_normalisation", False):
        low, high = splits.bounds
        mean, std = (low,) * len(splits.mean), (high - low,) * len(splits.std)
    else:
        mean, std = splits.mean, splits.std
    normalise = nn.Identity() if as_they_are else Normalise(mean, std)
    model = nn.Sequential(OrderedDict(normalise=normalise, network=made))
    try:
        with torch.no_grad():
            answered = tuple(model(splits.train.blank(2)).shape)
    except Exception as error:
        raise ConfigError(
            f"model: `{config.model['_target_']}` cannot take inputs of shape {splits.train.shapes} "
            f"({type(error).__name__}: {error}); choose a model for this data, or change model's arguments"
        ) from error
    if answered != (2, *task.outputs):
        wanted = f"outputs {(2, *task.outputs)}, as data `{splits.name}` has {task.name}"
        if splits.task is None:
            wanted = f"logits (2, {splits.num_classes}), one a class of data `{splits.name}`"
        raise ConfigError(
            f"model: `{config.model['_target_']}` returns shape {answered} for two inputs; "
            f"it must return {wanted}"
        )
    return model if mechanism is None else mechanism.prepare(model, splits)
