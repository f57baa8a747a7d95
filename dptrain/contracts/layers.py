"""Layers that a model and the engines that train it must know by name."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

FEWEST_OF_IMAGE = 8  # channels a group at least: an image may have come down to one position


class MadeKernels(nn.Conv2d, ABC):
    """A convolution with kernels that are made of its parameters each time, such as standardised ones.

    Engines rely on the forward pass being this one: a convolution with `kernels()`, and the bias, which
    plays no part in the kernels.
    """

    @abstractmethod
    def kernels(self) -> Tensor:
        """The kernels (out, in / groups, height, width), a differentiable function of parameters alone."""

    @property
    def as_promised(self) -> bool:
        """Whether no subclass has replaced the forward pass that engines rely on."""
        mine, promised = type(self), MadeKernels
        return mine.forward is promised.forward and mine._conv_forward is promised._conv_forward

    def forward(self, inputs: Tensor) -> Tensor:
        return self._conv_forward(inputs, self.kernels(), self.bias)


class FrozenBatchNorm(nn.Module):
    """The affine map that a BatchNorm is in evaluation, in training too: its statistics are constants.

    Parameters and buffers have the names that BatchNorm's have. Scale and shift are constants too, until
    they are made to require gradients.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__()
        self.eps = layer.eps
        for name, value in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
            kept = value.detach().clone()
            if name in ("weight", "bias"):
                self.register_parameter(name, nn.Parameter(kept, requires_grad=False))
            else:
                self.register_buffer(name, kept)

    def forward(self, inputs: Tensor) -> Tensor:
        weight, bias = getattr(self, "weight", None), getattr(self, "bias", None)
        return F.batch_norm(
            inputs, self.running_mean, self.running_var, weight, bias, training=False, eps=self.eps
        )


class GroupNormOfEnough(nn.GroupNorm):
    """GroupNorm that leaves inputs of fewer than 8 values a group as they are, times scale, plus shift.

    Normalised, one value is always zero, and two are one and minus one.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs[0].numel() >= FEWEST_OF_IMAGE * self.num_groups:
            return super().forward(inputs)
        shape = (1, -1) + (1,) * (inputs.dim() - 2)
        return inputs * self.weight.view(shape) + self.bias.view(shape) if self.affine else inputs


def put(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The model with a layer in the place of this name."""
    if not name:
        return layer
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, layer)
    return model
