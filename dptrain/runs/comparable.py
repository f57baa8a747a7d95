"""Whether a report holds what a comparison reads of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class _Comparable(BaseModel):
    """What a comparison reads of a report, so that a damaged one is named before it is half read."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, strict=True)

    class _Data(BaseModel):
        name: str
        source: str

    class _Utility(BaseModel):
        model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

        accuracy: float | None
        accuracy_low: float | None = None
        accuracy_high: float | None = None
        auroc: float | None
        scored: str | None = None
        by_class: dict[str, dict[str, Any]] = {}
        by_subgroup: list[dict[str, Any]] = []

    recipe: str
    data: _Data
    utility: _Utility
    leakage: list[dict[str, Any]]


def not_comparable(report: Mapping[str, Any]) -> str | None:
    """Which part of a report is not what this version of dptrain writes; None: all that is compared is."""
    try:
        _Comparable.model_validate(dict(report))
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))} ({first['type']})"
    return None
