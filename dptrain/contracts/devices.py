"""Where records are put before a device takes them: some devices copy from page-locked memory meanwhile."""

from __future__ import annotations

import torch
from torch import Tensor

TAKES_PINNED = ("cuda",)  # devices that copy from page-locked memory while they compute


def staged(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor where this device can take it from while it computes: page-locked; or as it is.

    >>> tensor = torch.ones(2)
    >>> staged(tensor, torch.device("cpu")) is tensor
    True
    """
    return tensor.pin_memory() if device.type in TAKES_PINNED else tensor


def waits(tensor: Tensor, device: torch.device) -> bool:
    """Whether taking this tensor to the device waits until it is there; not from page-locked memory.

    >>> waits(torch.ones(2), torch.device("cpu"))
    True
    """
    return not (device.type in TAKES_PINNED and tensor.is_pinned())
