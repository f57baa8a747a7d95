"""Train a PyTorch model with differential privacy, prove what it protects, and attack it, in one command."""

import os
from importlib import import_module

# How threads wait for each other, read once, when torch loads OpenMP. Those that spin for long starve when
# another process wants the cores (a step takes fifty times as long); those that sleep at once take nearly
# twice as long for small models. So they spin for microseconds (GNU's OpenMP), or sleep (others).
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
for _name, _value in WAITING.items():
    os.environ.setdefault(_name, _value)

# The public API. It is imported when it is first asked for: `python -m dptrain --help` needs none of it.
_PUBLIC = {
    "run": "dptrain.api",
    "audit": "dptrain.api",
    "compare": "dptrain.api",
    "plan": "dptrain.api",
    "predictor": "dptrain.api",
    "ranks": "dptrain.api",
    "serve": "dptrain.api",
    "OneOutput": "dptrain.models.one_output",
    "ReportView": "dptrain.report.notebook",
    "ComparisonView": "dptrain.report.notebook",
    **dict.fromkeys(
        (
            "Attack", "BrokenGuarantee", "Budget", "ConfigError", "Context", "DataError", "DptrainError",
            "Forecast", "Guarantee", "LimitExceeded", "Mechanism", "OutOfQueries", "Plan", "Records",
            "Release", "Splits", "Statement",
        ),
        "dptrain.contracts",
    ),
}  # fmt: skip
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
