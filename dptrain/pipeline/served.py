"""The model as others are given it: raw records in, what is released of its predictions out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dptrain.assembly.values import given_output
from dptrain.contracts import Form, Inputs, Output, Raw, Release, Report, Served, Splits, Task
from dptrain.evidence.criteria import Condition
from dptrain.evidence.verdict import ABOVE, BROKEN, kind
from dptrain.pipeline.experiment import Experiment
from dptrain.report import answers, sentences
from dptrain.report.statement import as_statement
from dptrain.tasks import Regression, task_of
from dptrain.training.paid_answers import Predictor

PASSED, UNPROVED, FAILED = "passed", "unproved", "failed"  # aliases in a registry of models


class Answers(nn.Module):
    """A network and all that stands between its outputs and whoever asks."""

    def __init__(self, network: nn.Module, task: Task, output: Output | None) -> None:
        super().__init__()
        self.network, self.task, self.output = network, task, output

    def forward(self, inputs: Inputs) -> Tensor:
        answers = self.task.predict(self.network(inputs)).float()
        return answers if self.output is None else self.output(answers)


class PaidFor(nn.Module):
    """What answers for as long as there are answers that are paid for."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, inputs: Tensor) -> Tensor:
        return self.predictor.confidences(inputs).float()


def served(report: Report, release: Release, experiment: Experiment) -> Served:
    """A release with weights as it is served, which answers no more than `release.output` gives away."""
    splits = experiment.splits
    task, stated = task_of(splits), report.guarantee
    return Served(
        answers=Answers(release.build().cpu().float(), task, given_output(experiment.config.release)),
        blank=splits.train.blank(2),
        names=column_names(task, splits.classes),
        raw=splits.raw or image_form(splits),
        metadata={
            "guarantee": sentences.void(stated) if stated.void else answers.promise(stated),
            "statement": as_statement(report),
            "output": stated.interface,
            "task": task.name,
        },
        verdict=verdict(report, experiment.conditions),
    )


def verdict(report: Report, conditions: Sequence[Condition]) -> str | None:
    """The verdict on a model in one word; None where an attack has broken its guarantee."""
    found = {kind(line.verdict) for line in report.leakage}
    if BROKEN in found:
        return None
    again = ABOVE in found  # it is to be trained and attacked once more
    if again or any(True for condition in conditions for _ in condition.met(report)):
        return FAILED
    return PASSED if report.guarantee.private and not report.guarantee.void else UNPROVED


def column_names(task: Task, classes: Sequence[str]) -> tuple[str, ...]:
    """The columns of predictions; none where a prediction is no row."""
    if isinstance(task, Regression):
        return ("value",)
    return tuple(classes) if task.outputs == (len(classes),) else ()


def image_form(splits: Splits) -> Raw | None:
    """Inputs that are images by their shape, in bounds that are declared."""
    from dptrain.data.raw import of_images  # which reads tables and images: when a run has trained
    from dptrain.data.raw_pixels import MODES

    form = splits.forms
    if not isinstance(form, Form) or form.whole or len(form.shape) != 3 or form.shape[0] not in MODES:
        return None
    return of_images(form.shape, form.bounds)
