"""Layers that a model and the engines that train it must know by name."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


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
