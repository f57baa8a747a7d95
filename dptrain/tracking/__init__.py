"""Where runs are recorded: MLflow, TensorBoard, CSV or nowhere. The only package that imports mlflow."""

from dptrain.tracking.files import CSV
from dptrain.tracking.mlflow import MLflow, MLflowRun
from dptrain.tracking.names import NOTE, PARENT, failure, flatten
from dptrain.tracking.null import NoTracking, NullRun
from dptrain.tracking.read import Tracked, read_runs
from dptrain.tracking.tensorboard import TensorBoard

Tracking = MLflow | TensorBoard | CSV | NoTracking

__all__ = [
    "CSV",
    "NOTE",
    "PARENT",
    "MLflow",
    "MLflowRun",
    "NoTracking",
    "NullRun",
    "TensorBoard",
    "Tracked",
    "Tracking",
    "failure",
    "flatten",
    "read_runs",
]
