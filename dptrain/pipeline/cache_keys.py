"""Keys of what is kept beside the runs: equal for all runs that would train the same."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from torch import nn

from dptrain.config import Config
from dptrain.contracts import Context, Splits
from dptrain.evaluation.assignment import Assignments
from dptrain.evaluation.stage import Stage
from dptrain.models.frozen import split
from dptrain.runs import binding
from dptrain.runs.cache import content_key, without_privacy

SHAPES_A_TRAINING = ("model", "optimizer", "mechanism", "training", "regulariser", "privacy", "control")


def recipe(config: Config) -> dict[str, Any]:
    """The sections of the configuration that have a say in what a training comes to."""
    return {name: node for name, node in asdict(config).items() if name in SHAPES_A_TRAINING}


def of_control(
    config: Config,
    splits: Splits,
    context: Context,
    stage: Stage,
    assignments: Assignments,
    model: nn.Module,
    *,
    own: bool,
) -> str:
    """The key of a control model, which begins as `model` and is watched by the attacks of a stage.

    It is trained as any mechanism's is, or in the mechanism's `own` way.
    """
    canaries, streams = stage.assignments.enter(context).canaries, context.streams
    sections = {
        "attack": {name: config.attack[name] for name in stage.watching},
        "game": {attack.game: config.game[attack.game] for attack in stage.watching.values()},
    }
    values = (
        streams.seed,
        streams.deterministic,
        context.arithmetic,
        splits.class_prior,
        assignments.fingerprint(splits),
        asdict(config.evidence),
        None if canaries is None else canaries.norm,
        splits.holdout.hashed().hexdigest(),
        *([splits.public.hashed().hexdigest()] if splits.public is not None and splits.public_seen else []),
        *(() if splits.task is None else (repr(splits.task),)),
    )
    tensors = [
        *([] if splits.group_ids is None else [splits.group_ids]),
        *model.state_dict().values(),
        *([] if canaries is None else [canaries.coordinates]),
    ]
    return content_key("twin", values, tensors, {**without_privacy(recipe(config), own=own), **sections})


def of_features(config: Config, splits: Splits, context: Context, model: nn.Module) -> str | None:
    """The key of the features that the frozen part of a model makes of any record; None where it has none."""
    parts = split(model)
    if parts is None:
        return None
    frozen = parts[0]
    packages = sorted({type(module).__module__.partition(".")[0] for module in frozen.modules()})
    values = (
        str(context.device),
        str(context.dtype),
        splits.shape,
        splits.mean,
        splits.std,
        splits.bounds,
        binding.model_code(frozen),
        [(name, getattr(sys.modules[name], "__version__", None)) for name in packages],
    )
    return content_key("features", values, frozen.state_dict().values(), {"model": config.model})
