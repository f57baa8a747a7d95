"""What kinds of devices there are, and what each of them can do: no other file asks about one by its name."""

from __future__ import annotations

import torch
from torch import Tensor

from dptrain.contracts.errors import ConfigError

ACCELERATORS = ("cuda", "mps")  # the fastest first
TAKES_PINNED = ("cuda",)  # devices that copy from page-locked memory while they compute
FILLS_NOISE = ("cuda",)  # devices whose generator seeds in full by 64 bits, and draws words for exact noise
SINGLE_PRECISION = ("mps",)  # devices without float64
ONE_A_PROCESS = ("cuda",)  # devices of which each process of a run has its own


def available(kind: str) -> bool:
    """Whether this machine has a device of this kind.

    >>> available("cpu")
    True
    """
    if kind == "cuda":
        return torch.cuda.is_available()
    return torch.backends.mps.is_available() if kind == "mps" else kind == "cpu"


def named(name: str) -> torch.device:
    """The device of this name; with `auto`, the fastest that there is."""
    found = (kind for kind in ACCELERATORS if available(kind))
    return torch.device(next(found, "cpu") if name == "auto" else name)


def of_local_rank(kind: str, local: int) -> torch.device:
    """The own device of the process of this number on its machine; raises ConfigError where there is none.

    From now on, what names its kind alone means this one: shadow models, attacks and answers do.

    >>> of_local_rank("cpu", 3)
    device(type='cpu')
    """
    if kind == "cpu":
        return torch.device(kind)
    if kind not in ONE_A_PROCESS:
        raise ConfigError(f"device={kind}: several processes compute on cpu or cuda; choose one of them")
    if local >= (count := torch.cuda.device_count()):
        raise ConfigError(
            f"device={kind}: this machine has {count} GPUs, and each process needs one of its own; start "
            "fewer processes"
        )
    torch.cuda.set_device(local)
    return torch.device(kind, local)


def collectives() -> str:
    """The backends of `torch.distributed` by which processes exchange tensors, for each kind that is here."""
    nccl = available("cuda") and torch.distributed.is_nccl_available()
    return "cpu:gloo,cuda:nccl" if nccl else "gloo"


def with_generators() -> range:
    """The accelerators whose generators' states `torch.random.fork_rng` must keep: those that are in use."""
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)


def most_allocated(device: torch.device) -> int | None:
    """The most bytes of a device's own memory that PyTorch has held; None where it has none or does not tell.

    >>> most_allocated(torch.device("cpu")) is None
    True
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def fills_noise(device: torch.device) -> bool:
    """Whether a device's own generator may draw the noise of its parameters, in double precision."""
    return device.type in FILLS_NOISE


def lacks_double(device: torch.device) -> bool:
    """Whether a device computes in single precision at most.

    >>> lacks_double(torch.device("cpu"))
    False
    """
    return device.type in SINGLE_PRECISION


def in_double(tensor: Tensor) -> Tensor:
    """The tensor as float64, on the CPU where its device has no such numbers.

    >>> in_double(torch.ones(2)).dtype
    torch.float64
    """
    return tensor.cpu().double() if lacks_double(tensor.device) else tensor.double()


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
