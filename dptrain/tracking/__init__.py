"""Where runs are recorded: MLflow, or nowhere. The only package that imports mlflow."""

from dptrain.tracking.mlflow import MLflow, MLflowRun
from dptrain.tracking.names import NOTE, PARENT, failure, flatten
from dptrain.tracking.null import NoTracking, NullRun
from dptrain.tracking.read import Tracked, read_runs

__all__ = [
    "NOTE",
    "PARENT",
    "MLflow",
    "MLflowRun",
    "NoTracking",
    "NullRun",
    "Tracked",
    "failure",
    "flatten",
    "read_runs",
]
