"""Tensors as the bytes of a file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch


def saved(values: Mapping[str, Any]) -> memoryview:
    """What `torch.load` reads. On a full disk `torch.save` itself would fail without naming the cause."""
    content = io.BytesIO()
    torch.save(dict(values), content)
    return content.getbuffer()
