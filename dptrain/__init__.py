"""Train a PyTorch model with differential privacy, prove what it protects, and attack it, in one command."""

import os
from importlib import import_module
from typing import TYPE_CHECKING

# How threads wait for each other, read once, when torch loads OpenMP. Those that spin for long starve when
# another process wants the cores (a step takes fifty times as long); those that sleep at once take nearly
# twice as long for small models. So they spin for microseconds (GNU's OpenMP), or sleep (others).
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
for _name, _value in WAITING.items():
    os.environ.setdefault(_name, _value)

# The public API. It is imported when it is first asked for: `python -m dptrain --help` needs none of it.
# Editors and type checkers, which run nothing, read the same names here.
if TYPE_CHECKING:
    from dptrain.api import audit as audit
    from dptrain.api import compare as compare
    from dptrain.api import plan as plan
    from dptrain.api import predictor as predictor
    from dptrain.api import ranks as ranks
    from dptrain.api import run as run
    from dptrain.api import serve as serve
    from dptrain.contracts import Attack as Attack
    from dptrain.contracts import BrokenGuarantee as BrokenGuarantee
    from dptrain.contracts import Budget as Budget
    from dptrain.contracts import ConfigError as ConfigError
    from dptrain.contracts import Context as Context
    from dptrain.contracts import DataError as DataError
    from dptrain.contracts import DptrainError as DptrainError
    from dptrain.contracts import Forecast as Forecast
    from dptrain.contracts import Guarantee as Guarantee
    from dptrain.contracts import LimitExceeded as LimitExceeded
    from dptrain.contracts import Mechanism as Mechanism
    from dptrain.contracts import OutOfQueries as OutOfQueries
    from dptrain.contracts import Plan as Plan
    from dptrain.contracts import Records as Records
    from dptrain.contracts import Release as Release
    from dptrain.contracts import Splits as Splits
    from dptrain.contracts import Statement as Statement
    from dptrain.models.one_output import OneOutput as OneOutput
    from dptrain.report.notebook import ComparisonView as ComparisonView
    from dptrain.report.notebook import ReportView as ReportView

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
