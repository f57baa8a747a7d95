"""All that a model remembers: parameters, buffers, and whatever hangs on its modules."""

from __future__ import annotations

import hashlib
import types
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

NOTE = "_tested_apart"  # hangs on a model that was found to be in order: its fingerprint
_OWN = frozenset(vars(nn.Module())) | {"autograd_grad_sample_hooks", NOTE}
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_DEPTH = 6  # containers within containers that are looked into

LARGE = 2**22  # numbers of a tensor that is not kept to be compared with, but digested

State = dict[str, Any]  # by path, such as `encoder.bank[0]`: a tensor, or a plain value


@dataclass(frozen=True)
class Digest:
    """A tensor as it was, without its numbers."""

    dtype: torch.dtype
    shape: torch.Size
    digest: bytes

    @classmethod
    def of(cls, tensor: Tensor) -> Digest:
        values = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data
        return cls(tensor.dtype, tensor.shape, hashlib.sha256(values).digest())


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, by name, themselves."""
    return {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}


def copied(state: State, *, like: Mapping[str, Any] = MappingProxyType({})) -> State:
    """The same, as it stays whatever becomes of the model; what is `like` an earlier copy is that one."""

    def kept(path: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if path in like and _equal(like[path], value):
            return like[path]
        return Digest.of(value) if value.numel() > LARGE else value.clone()

    return {path: kept(path, value) for path, value in state.items()}


def state_of(model: nn.Module) -> State:
    """Everything that the modules hold, by path: tensors themselves; arrays as tensors.

    Of what is divided among processes, what this one holds.
    """
    found: State = dict(weights_of(model))
    for name, module in model.named_modules():
        for key, value in _attributes(module):
            found.update(_walk(value, f"{name}.{key}" if name else key, _DEPTH, set()))
    return {path: value.to_local() if isinstance(value, DTensor) else value for path, value in found.items()}


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What hangs on a module, and on the classes that it is of and that PyTorch does not define."""
    for key, value in vars(module).items():
        if key not in _OWN:
            yield key, value
    for cls in type(module).__mro__:
        if cls.__module__.split(".")[0] in ("torch", "builtins", "typing", "opacus", "torchvision"):
            continue
        for key, value in vars(cls).items():
            if isinstance(value, (Tensor, np.ndarray, list, dict, set, int, float)) and key[:2] != "__":
                yield key, value


def _walk(value: Any, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor):
        yield path, value.detach()
    elif isinstance(value, np.ndarray | np.generic):
        yield path, torch.from_numpy(np.array(value)) if value.dtype.kind in "fiub" else repr(value)
    elif isinstance(value, _PLAIN):
        yield path, value
    elif depth and id(value) not in seen:
        seen = seen | {id(value)}
        for key, inner in _inside(value):
            yield from _walk(inner, path + key, depth - 1, seen)


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a container or of an object, each with what its path goes on with."""
    if isinstance(value, Mapping):
        yield ".size", len(value)
        yield from ((f"[{key!r}]" if isinstance(key, str | int) else "[...]", v) for key, v in value.items())
    elif isinstance(value, set | frozenset):
        yield ".values", repr(sorted(map(repr, value)))
    elif isinstance(value, list | tuple | deque):
        yield ".size", len(value)
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif (
        not isinstance(value, type | nn.Module | types.ModuleType | types.FunctionType | types.MethodType)
        and not type(value).__module__.startswith("torch.distributed")  # memory that comes and goes
        and hasattr(value, "__dict__")
    ):
        yield from ((f".{key}", inner) for key, inner in vars(value).items())


def changed(before: Mapping[str, Any], after: Mapping[str, Any], *, tensors: bool) -> str | None:
    """Path of the first tensor (else: plain value) that is another now, or is there only once; None: none."""
    for path in dict.fromkeys([*before, *after]):
        one, other = before.get(path), after.get(path)
        if (isinstance(one, Tensor | Digest) or isinstance(other, Tensor | Digest)) != tensors:
            continue
        if not _equal(one, other):
            return path
    return None


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Digest) and isinstance(other, Tensor):
        return one == Digest.of(other)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not one.is_floating_point():
            return torch.equal(one, other)
        return bool(torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True))
    return type(one) is type(other) and (one == other or one != one)


def fingerprint(model: nn.Module, surroundings: object) -> str:
    """A SHA-256 of all that a model holds, of its classes, and of what it is used with."""
    digest = hashlib.sha256(repr(surroundings).encode())
    for name, module in model.named_modules():
        digest.update(
            f"{name} {type(module).__module__} {type(module).__qualname__} {id(type(module))}".encode()
        )
    for path, value in state_of(model).items():
        digest.update(path.encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)} {value.requires_grad}".encode())
            value = value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        digest.update(value if isinstance(value, bytes) else repr(value).encode())
    return digest.hexdigest()
