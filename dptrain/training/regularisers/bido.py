"""Hidden layers that depend little on the inputs and much on the labels, by the kernels of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dptrain.contracts import ConfigError, Inputs
from dptrain.contracts.ranges import NotNegative, Positive
from dptrain.contracts.regulariser import Objective, RecordLoss, Regulariser
from dptrain.contracts.trees import leaves


@dataclass(frozen=True, kw_only=True)
class BiDO(Regulariser):
    """Bilateral dependency optimisation (Peng et al., KDD 2022, section 4, by HSIC).

    To the mean loss of a physical batch are added `inputs` times the dependency (`hsic`) of each hidden layer
    on the inputs, less `labels` times its dependency on the labels. Hidden layers are those with matrices of
    weights, but for the last. Kernels are Gaussian, `bandwidth` times the root of the number of
    coordinates wide; of
    classes 1 where they are equal, else 0.
    """

    inputs: NotNegative = 2.0
    labels: NotNegative = 20.0
    bandwidth: Positive = 5.0

    def of_batch(self, objective: Objective) -> Objective:
        return partial(self._penalised, objective)

    def _penalised(
        self, objective: Objective, model: nn.Module, inputs: Inputs, labels: Tensor, loss: RecordLoss
    ) -> Tensor:
        with _outputs(_hidden(model)) as hidden:
            total = objective(model, inputs, labels, loss)
        rows = torch.cat([each.flatten(1).float() for each in leaves(inputs)], dim=1)
        given, wanted = self._gaussian(rows), self._of_labels(labels)
        for layer in hidden:
            made = self._gaussian(layer.flatten(1).float())
            dependency = self.inputs * hsic(made, given) - self.labels * hsic(made, wanted)
            total = total + len(rows) * dependency
        return total

    def _gaussian(self, rows: Tensor) -> Tensor:
        return gaussian(rows, self.bandwidth)

    def _of_labels(self, labels: Tensor) -> Tensor:
        if labels.dim() == 1 and not labels.is_floating_point():
            return (labels[:, None] == labels).float()
        return self._gaussian(labels.flatten(1).float() if labels.dim() > 1 else labels[:, None].float())


def hsic(one: Tensor, other: Tensor) -> Tensor:
    """The Hilbert-Schmidt independence criterion of two kernel matrices (n, n), of n >= 2 records; else 0.

    The estimate of Gretton et al. 2005, equation 4: tr(K H L H) / (n - 1)^2, with H the centring matrix.

    >>> apart = torch.eye(3)
    >>> round(float(hsic(apart, apart)), 4), float(hsic(apart, torch.ones(3, 3)))
    (0.5, 0.0)
    """
    if len(one) < 2:
        return one.new_zeros(())
    centred = one - one.mean(0, keepdim=True) - one.mean(1, keepdim=True) + one.mean()
    return (centred * other).sum() / (len(one) - 1) ** 2


def gaussian(rows: Tensor, bandwidth: float) -> Tensor:
    """The Gaussian kernel of rows (n, coordinates), `bandwidth` times the root of their number wide."""
    squares = (rows[:, None] - rows).square().sum(-1)
    return (-squares / (2 * bandwidth**2 * rows.shape[1])).exp()


def _hidden(model: nn.Module) -> list[nn.Module]:
    """The layers with matrices of weights but the last; raises ConfigError where there is none."""
    layers = [
        module
        for module in model.modules()
        if any(each.dim() > 1 and each.requires_grad for each in module.parameters(recurse=False))
    ]
    if len(layers) < 2:
        raise ConfigError(
            "regulariser.bido: what is trained of this model has no hidden layer; choose model=mlp or "
            "model=small_cnn, or leave it out"
        )
    return layers[:-1]


@contextmanager
def _outputs(layers: list[nn.Module]) -> Iterator[list[Tensor]]:
    """What these layers return within, in the order of their calls."""
    seen: list[Tensor] = []
    handles = [layer.register_forward_hook(lambda _, __, made: seen.append(made)) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
