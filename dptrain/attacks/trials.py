"""Attacks cut short, by which it is told how long they take."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from dptrain.contracts import Part, Release, Targets

SHARE = 20  # of an attack's steps or queries, one in so many is tried


def shortened(attack: Any, *keys: str, release: Release, targets: Targets, rng: torch.Generator) -> Part:
    """The run of an attack with fewer of what the fields `keys` count.

    The first of them counts the steps or queries that the time is made of.
    """
    asked = getattr(attack, keys[0])
    short = replace(attack, **{key: -(-getattr(attack, key) // SHARE) for key in keys})
    few = getattr(short, keys[0])
    return Part(work=partial(short.run, release, targets, rng), times=asked / few if few else 1.0)
