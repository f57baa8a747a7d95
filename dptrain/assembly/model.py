"""The model that a configuration names, made for these records, on the device that it asks for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.assembly.network import OUTPUT, make_network
from dptrain.config import Config
from dptrain.contracts import ConfigError, Mechanism, Splits, Streams
from dptrain.models.normalise import Normalise
from dptrain.models.one_output import described, inner, outputs
from dptrain.runs.folder import GIVEN
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
    has, as far as it takes these. Whole numbers and inputs with names reach it as they are; a network that
    says `own_normalisation` has values in [0, 1].

    It comes as the mechanism can train it (None: as it is, for nobody trains it), and has been
    tried on two blank inputs. `network` makes one that was handed over, in place of the configured one.
    """
    task = task_of(splits)
    with torch.random.fork_rng():
        made = (
            make_network(
                config.model,
                seed=streams.seeded("model").initial_seed(),
                shape=splits.train.shapes,
                num_classes=task.outputs[-1],
            )
            if network is None
            else network()
        )
    as_they_are = splits.train.names or splits.train.whole
    if normalises_itself(made):
        low, high = splits.bounds
        mean, std = (low,) * len(splits.mean), (high - low,) * len(splits.std)
    else:
        mean, std = splits.mean, splits.std
    normalise = nn.Identity() if as_they_are else Normalise(mean, std)
    model = nn.Sequential(OrderedDict(normalise=normalise, network=made))
    try:
        with torch.no_grad():
            answered = model(splits.train.blank(2))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"model: `{config.model['_target_']}` cannot take inputs of shape {splits.train.shapes} "
            f"({type(error).__name__}: {error}); choose a model for this data, or change model's arguments"
        ) from error
    wanted = (2, *task.outputs)
    if not isinstance(answered, Tensor):
        raise ConfigError(
            f"model: `{config.model['_target_']}` returns {described(answered)}; of two inputs one tensor "
            f"{wanted} is wanted: {_cure(answered, wanted, config.model)}"
        )
    if tuple(answered.shape) != wanted:
        said = f"outputs {wanted}, as data `{splits.name}` has {task.name}"
        if splits.task is None:
            said = f"logits {wanted}, one a class of data `{splits.name}`"
        raise ConfigError(
            f"model: `{config.model['_target_']}` returns shape {tuple(answered.shape)} for two inputs; "
            f"it must return {said}"
        )
    return model if mechanism is None else mechanism.prepare(model, splits)


def normalises_itself(network: nn.Module) -> bool:
    """Whether a network wants its inputs in [0, 1], and not normalised by the constants of the data."""
    return bool(getattr(inner(network), "own_normalisation", False))


def _cure(answered: Any, wanted: tuple[int, ...], node: Mapping[str, Any]) -> str:
    """How to name the output that counts, of a network that returns several."""
    found = outputs(answered)
    fitting = [name for name, each in found.items() if isinstance(each, Tensor) and each.shape == wanted]
    if not found:
        return "return it"
    name = [*fitting, *found][0]
    if node.get(GIVEN):
        return f"name the one that counts: dptrain.OneOutput(model, output={name!r})"
    return (
        f"name the one that counts, by `{OUTPUT}: {name}` in the model's file or "
        f"{'' if OUTPUT in node else '+'}model.{OUTPUT}={name}"
    )
