"""The linear head of a model on a frozen part, for mechanisms that train nothing else."""

from __future__ import annotations

import copy

from torch import nn

from dptrain.contracts import ConfigError, DoesNotApply, Splits
from dptrain.models.clipped import Clipped
from dptrain.models.frozen import FrozenFeatures, split
from dptrain.training.settings import Settings

NAME = "mechanism=sufficient_statistics"
MOST_FEATURES = 10_000  # whose moments take 0.8 GB, and minutes to be solved
PASSING = (nn.Flatten, nn.Identity, Clipped)  # what may stand before the last layer of a head


def clipped_head(model: nn.Module, norm: float) -> nn.Module:
    """A copy of the model, whose linear head sees features clipped to `norm`; raises ConfigError.

    One that does already is given back as it is.
    """
    linear = linear_of(model)
    if any(isinstance(module, Clipped) for module in model.modules()):
        return model
    prepared = copy.deepcopy(model)
    (owner,) = [module for module in prepared.modules() if isinstance(module, FrozenFeatures)]
    owner.head = nn.Sequential(nn.Flatten(), Clipped(norm), copy.deepcopy(linear))
    return prepared


def linear_of(model: nn.Module) -> nn.Linear:
    """The layer that a model's head consists of; raises ConfigError where there is none on a frozen part."""
    parts = split(model)
    last = None
    if parts is not None:
        *before, last = parts[1] if isinstance(parts[1], nn.Sequential) else (parts[1],)
        if not all(isinstance(each, PASSING) for each in before):
            last = None
    if not isinstance(last, nn.Linear) or last.bias is None:
        raise DoesNotApply(
            f"{NAME} trains a linear layer with a bias on a frozen part, and the model does not end in one; "
            "choose model=scatter_linear, or a pre-trained model with model.trainable=head, or "
            "mechanism=dpsgd"
        )
    if last.in_features > MOST_FEATURES:
        raise DoesNotApply(
            f"{NAME} sums products of all pairs of features, of which the model has {last.in_features:,}; "
            f"choose {MOST_FEATURES:,} at most, such as by model.components=1000, or mechanism=dpsgd"
        )
    return last


def check_task(splits: Splits, settings: Settings) -> None:
    """Raise ConfigError for data and settings of which no second moments are made."""
    if not splits.of_classes:
        assert splits.task is not None
        raise DoesNotApply(
            f"{NAME} knows labels that are one of some classes, and data `{splits.name}` has labels of "
            f"{splits.task.name}; use mechanism=dpsgd"
        )
    if splits.train.names:
        raise DoesNotApply(
            f"{NAME} takes inputs of one tensor, and data `{splits.name}` has inputs by name "
            f"({', '.join(splits.train.names)}); use mechanism=dpsgd"
        )
    if settings.augmentation is not None:
        raise ConfigError(
            f"training.augmentations={settings.copies}: {NAME} uses each record once, as it is; set it to 0"
        )
