"""Models of which a part is never trained, so that what it makes of a record need not be made twice."""

from __future__ import annotations

from collections import OrderedDict
from typing import Self, TypeGuard

from torch import Tensor, nn

from dptrain.models.normalise import Normalise


class FeaturesAndHead(nn.Module):
    """A model whose head makes logits (N, num_classes) of features."""

    features: nn.Module
    head: nn.Module

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(inputs))
        return logits


class FrozenFeatures(FeaturesAndHead):
    """Features that stay as they are, and a head that is trained on them: logits (N, num_classes).

    `features` may be the scattering transform, or a network that was trained on public data. It
    must treat each record by itself: it is frozen, and stays in evaluation mode while the head
    trains. It remains differentiable from the inputs.

    >>> model = FrozenFeatures(nn.Linear(4, 3), nn.Linear(3, 2)).train()
    >>> sum(parameter.requires_grad for parameter in model.parameters()), model.features.training
    (2, False)
    """

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features = features.requires_grad_(False).eval()
        self.head = head

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.features.eval()
        return self


class LinearModel(FrozenFeatures):
    """A head on inputs as they are: what comes before it has nothing that could be trained."""


def frozen(model: nn.Module) -> nn.Module:
    """The model, its features frozen where they hold nothing that could be trained, as logistic regression's.

    >>> model = FeaturesAndHead()
    >>> model.features, model.head = nn.Flatten(), nn.Linear(3, 2)
    >>> isinstance(frozen(model), FrozenFeatures)
    True
    """
    if _normalised(model):
        (first, normalise), (last, network) = model.named_children()
        made = frozen(network)
        return model if made is network else nn.Sequential(OrderedDict({first: normalise, last: made}))
    if not isinstance(model, FeaturesAndHead) or isinstance(model, FrozenFeatures):
        return model
    features, head = model.get_submodule("features"), model.get_submodule("head")
    return model if any(True for _ in features.parameters()) else LinearModel(features, head)


def split(model: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The frozen part of a model and its head, whose composition it is; None where nothing is frozen.

    Normalisation by constants in front of the model belongs to the frozen part.
    """
    if isinstance(model, FrozenFeatures):
        return model.features, model.head
    if _normalised(model):
        inner = split(model[1])
        return None if inner is None else (nn.Sequential(model[0], inner[0]).eval(), inner[1])
    return None


def _normalised(model: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether this is a network behind normalisation by constants."""
    return isinstance(model, nn.Sequential) and len(model) == 2 and isinstance(model[0], Normalise)
