"""Names under which MLflow keeps what it is told: parameters, tags, the reason of a failure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

PARENT = "mlflow.parentRunId"  # the tag by which MLflow shows a run below another
NOTE = "mlflow.note.content"  # the tag that MLflow shows as a run's description, in Markdown
TABLES = "mlflow.loggedArtifacts"  # the tag by which MLflow knows which files of a run are tables
UNNAMEABLE = re.compile(r"[^\w.\-/ :]")  # characters that MLflow refuses in the name of a parameter


def failure(error: str) -> dict[str, str]:
    """The tags of a run that failed: why, to be found by and to be read on its page."""
    return {"error": error, NOTE: f"**Failed:** {error}"}


def flatten(values: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping, with dotted names; a class stands under its node's own name.

    A list of words becomes one text, with commas. Nothing is left of what is empty.

    >>> flatten({"model": {"_target_": "my.Net", "channels": [8, 16]}, "compare": ["top_k", "rounded"]})
    {'model': 'my.Net', 'model.channels.0': 8, 'model.channels.1': 16, 'compare': 'top_k, rounded'}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
        name = prefix.removesuffix(".") if prefix and key == "_target_" else f"{prefix}{key}"
        if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
            flat[name] = ", ".join(value)
        elif isinstance(value, Mapping | list | tuple):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
