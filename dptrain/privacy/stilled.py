"""Forward passes without their randomness, so that a record alone can be compared with one among others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from dptrain.contracts import devices

aten = torch.ops.aten


@contextmanager
def stilled() -> Iterator[list[str]]:
    """Inside of the `with`, every random draw is a constant: dropout keeps everything as it is.

    The names of what would have drawn gather in the list that it gives.

    Draws of a distribution are its mean where that is known, else one half. The state of PyTorch's
    generators is left as it was.
    """
    with torch.random.fork_rng(devices.with_generators()), sdpa_kernel(SDPBackend.MATH), _Constant() as mode:
        yield mode.seen


class Noticed(TorchDispatchMode):
    """Whether anything random happens inside."""

    random = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.random |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


class _Constant(TorchDispatchMode):
    """Fills what random operations return; what draws is marked as such by PyTorch itself."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return found
        self.seen.append(str(func))
        if func is aten.native_dropout.default:
            # Its backward pass takes the mask, and scales by what was kept.
            scale = 1 / (1 - args[1]) if args[1] < 1 and args[2] is not False else 1.0
            return args[0] * scale, torch.ones_like(found[1])
        value = _mean(func, args, kwargs or {})
        for each in found if isinstance(found, tuple | list) else (found,):
            if isinstance(each, Tensor):
                each.copy_(value) if isinstance(value, Tensor) else each.fill_(value)
        return found


def _mean(func: Any, args: Any, named: Any) -> Any:
    name = func.overloadpacket.__name__
    if func is aten.bernoulli.default:
        return args[0]
    if name in ("bernoulli", "bernoulli_"):  # a chance, which dropout divides by; PyTorch leaves out defaults
        return args[1] if len(args) > 1 else named.get("p", 0.5)
    return 0.0 if "normal" in name or "randn" in name or "int" in name or "perm" in name else 0.5
