"""The linear head of a model on a frozen part, for mechanisms that train nothing else."""

from __future__ import annotations

import copy

from torch import nn

from dptrain.contracts import ConfigError, DoesNotApply, Splits
from dptrain.models.clipped import Clipped
from dptrain.models.frozen import FrozenFeatures, frozen, split
from dptrain.training.settings import Settings

PASSING = (nn.Flatten, nn.Identity, Clipped)  # what may stand before the last layer of a head


def clipped_head(model: nn.Module, norm: float, mechanism: str, *, most: int | None) -> nn.Module:
    """A copy of the model, whose linear head sees features clipped to `norm`; raises DoesNotApply.

    One that does already is given back as it is.
    """
    model = frozen(model)
    linear = linear_of(model, mechanism, most=most)
    if any(isinstance(module, Clipped) for module in model.modules()):
        return model
    prepared = copy.deepcopy(model)
    (owner,) = [module for module in prepared.modules() if isinstance(module, FrozenFeatures)]
    owner.head = nn.Sequential(nn.Flatten(), Clipped(norm), copy.deepcopy(linear))
    return prepared


def linear_of(model: nn.Module, mechanism: str, *, most: int | None = None) -> nn.Linear:
    """The layer that a model's head consists of; raises DoesNotApply where there is none on a frozen part.

    Or where it takes more features than the `most` that this mechanism can do with.
    """
    parts = split(model)
    last = None
    if parts is not None:
        *before, last = parts[1] if isinstance(parts[1], nn.Sequential) else (parts[1],)
        if not all(isinstance(each, PASSING) for each in before):
            last = None
    if not isinstance(last, nn.Linear) or last.bias is None:
        raise DoesNotApply(
            f"{mechanism} trains a linear layer with a bias on a frozen part, and the model does not end "
            "in one; choose model=scatter_linear, a pre-trained model with model.trainable=head, "
            "model=logistic on inputs as they are, or mechanism=dpsgd"
        )
    if most is not None and last.in_features > most:
        raise DoesNotApply(
            f"{mechanism} sums products of all pairs of features, of which the model has "
            f"{last.in_features:,}; choose {most:,} at most, such as by model.components=1000, or "
            "mechanism=dpsgd"
        )
    return last


def check_task(splits: Splits, settings: Settings, mechanism: str) -> None:
    """Raise ConfigError for data and settings of which a linear head is not made at once."""
    if not splits.of_classes:
        assert splits.task is not None
        raise DoesNotApply(
            f"{mechanism} knows labels that are one of some classes, and data `{splits.name}` has labels of "
            f"{splits.task.name}; use mechanism=dpsgd"
        )
    if splits.train.names:
        raise DoesNotApply(
            f"{mechanism} takes inputs of one tensor, and data `{splits.name}` has inputs by name "
            f"({', '.join(splits.train.names)}); use mechanism=dpsgd"
        )
    settings.refuse_regularisers(mechanism)
    if settings.augmentation is not None:
        raise ConfigError(
            f"training.augmentations={settings.copies}: {mechanism} uses each record once, as it is; set it "
            "to 0"
        )
