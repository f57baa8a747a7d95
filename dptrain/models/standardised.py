"""Convolutions whose kernels are standardised before they are used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dptrain.contracts import MadeKernels

SMALLEST = 1e-4  # of the variance times the number of weights of a kernel


class StandardisedConv2d(MadeKernels):
    """A convolution whose kernels have mean 0 and variance 1 / fan_in, times a gain that is trained.

    Scaled weight standardisation (Brock et al. 2021, "Characterizing signal propagation to close
    the performance gap in unnormalized ResNets", section 4), which De et al. 2022 use beside
    GroupNorm. Kernels depend on weights alone: no records are mixed, and each has its own gradient.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def reset_parameters(self) -> None:
        """Draw weights of variance 1 / fan_in, which standardisation leaves about as they are."""
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if hasattr(self, "gain"):  # there is none yet where nn.Conv2d draws its first weights
            nn.init.ones_(self.gain)

    def kernels(self) -> Tensor:
        """The standardised weights, (out, in, height, width)."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        scale = (variance * self.weight[0].numel()).clamp(min=SMALLEST).rsqrt()
        return (self.weight - mean) * scale * self.gain
