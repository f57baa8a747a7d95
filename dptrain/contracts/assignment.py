"""Decides what becomes of a unit by a keyed hash of the unit alone, whatever else the data hold."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import torch
from torch import Tensor


def seed_key(rng: torch.Generator) -> bytes:
    """The key that the seed of this generator stands for: as public as the seed is."""
    return hmac.digest(b"dptrain assignment", str(rng.initial_seed()).encode(), "sha256")


def keyed_uniform(key: bytes, purpose: str, units: Tensor) -> Tensor:
    """A number in [0, 1) for each unit, float64 (N,): HMAC-SHA256 of purpose and unit under the key.

    `units` are group ids (N,) int64, or digests of inputs (N, 2) int64. The number depends on key,
    purpose and unit, and on no other unit; equal units get equal numbers; to whoever lacks the key
    they are independent of each other and between purposes.

    >>> numbers = keyed_uniform(b"key", "split", torch.tensor([7, 8, 7]))
    >>> bool(numbers[0] == numbers[2]), bool(numbers[0] == numbers[1])
    (True, False)
    """
    label = f"{purpose}/".encode()
    rows = units.contiguous().numpy().reshape(len(units), -1)
    words = [int.from_bytes(hmac.digest(key, label + row.tobytes(), "sha256")[:8], "big") for row in rows]
    return torch.tensor([word >> 11 for word in words], dtype=torch.int64).double() * 2.0**-53


def another_label(labels: Tensor, draws: Tensor, count: int) -> Tensor:
    """Of so many labels, numbered from 0 on, others than these, by a uniform number in [0, 1) for each.

    >>> another_label(torch.tensor([0, 2]), torch.tensor([0.0, 0.9]), 3).tolist()
    [1, 1]
    """
    return (labels + 1 + (draws * (count - 1)).long()) % count


def stable_ids(names: Sequence[object]) -> Tensor:
    """Group ids (N,) int64 in [0, 2^62), one a name: a hash of the name, whatever other names there are.

    Two of ten million names share one with a chance of 1e-5; they then count as one unit.

    >>> stable_ids(["b", "a", "b"]).tolist() == stable_ids(["z", "b", "a", "b"])[1:].tolist()
    True
    """
    found: dict[object, int] = {}
    for name in names:
        if name not in found:
            digest = hmac.digest(b"dptrain group", str(name).encode("utf-8", "surrogatepass"), "sha256")
            found[name] = int.from_bytes(digest[:8], "big") >> 2
    return torch.tensor([found[name] for name in names], dtype=torch.int64)
