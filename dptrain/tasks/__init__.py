"""Tasks, one a file: the loss of a record, what a prediction is, and how good predictions are."""

from dptrain.contracts import Splits, Task
from dptrain.tasks.classification import Classification
from dptrain.tasks.multi_label import MultiLabel
from dptrain.tasks.next_token import NextToken
from dptrain.tasks.ordinal import Ordinal
from dptrain.tasks.regression import Regression

__all__ = ["Classification", "MultiLabel", "NextToken", "Ordinal", "Regression", "task_of"]


def task_of(splits: Splits) -> Task:
    """The task that the data declare; classification where they declare none."""
    return splits.task or Classification(
        classes=splits.num_classes, prior=splits.class_prior, names=splits.classes
    )
