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

RIDGE = 1e-5  # as in the authors' program


@dataclass(frozen=True, kw_only=True)
class BiDO(Regulariser):
    """Bilateral dependency optimisation (Peng et al., KDD 2022, section 4, by HSIC).

    To the mean loss of a physical batch are added `inputs` times the `dependency` of each hidden layer on the
    inputs, less `labels` times its dependency on the labels. Hidden layers are those with matrices of
    weights, but for the last. Kernels are Gaussian, `bandwidth` times the root of the number of
    coordinates wide; of classes 1 where they are equal, else 0.
    """

    inputs: NotNegative = 0.05
    labels: NotNegative = 0.5
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
            apart = self.inputs * dependency(made, given) - self.labels * dependency(made, wanted)
            total = total + len(rows) * apart
        return total

    def _gaussian(self, rows: Tensor) -> Tensor:
        return gaussian(rows, self.bandwidth)

    def _of_labels(self, labels: Tensor) -> Tensor:
        if labels.dim() == 1 and not labels.is_floating_point():
            return (labels[:, None] == labels).float()
        return self._gaussian(labels.flatten(1).float() if labels.dim() > 1 else labels[:, None].float())


def dependency(one: Tensor, other: Tensor) -> Tensor:
    """The normalised Hilbert-Schmidt independence criterion of two kernel matrices (n, n): ().

    tr(R S), where R = K (K + n RIDGE)^-1 of a centred kernel K (Fukumizu et al. 2007, "Kernel measures of
    conditional dependence", section 2.2), which the authors of BiDO take: 0 where one kernel is constant, and
    at most the rank of either.

    >>> apart = torch.eye(3)
    >>> round(float(dependency(apart, apart)), 3), float(dependency(apart, torch.ones(3, 3)))
    (2.0, 0.0)
    """
    return (_normalised(one) * _normalised(other)).sum()


def _normalised(kernel: Tensor) -> Tensor:
    count = len(kernel)
    centred = kernel - kernel.mean(0, keepdim=True) - kernel.mean(1, keepdim=True) + kernel.mean()
    ridge = count * RIDGE * torch.eye(count, dtype=kernel.dtype, device=kernel.device)
    solved: Tensor = torch.linalg.solve(centred + ridge, centred)
    return solved


def gaussian(rows: Tensor, bandwidth: float) -> Tensor:
    """The Gaussian kernel of rows (n, coordinates), `bandwidth` times the root of their number wide."""
    lengths = rows.square().sum(1)
    squares = (lengths[:, None] + lengths - 2 * rows @ rows.T).clamp(min=0)
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
