"""What the adversary sees of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dptrain.contracts.errors import OutOfQueries
from dptrain.contracts.records import Canaries
from dptrain.contracts.task import Task
from dptrain.contracts.trees import Inputs, by_name, count, parts


class Access(Enum):
    """What can be seen of a model and of its training: what an attack must see, what a mechanism offers."""

    WEIGHTS = "weights"  # the final weights and the architecture
    CONFIDENCES = "confidences"  # class probabilities, by query
    LABELS = "labels"  # predicted class only, by query
    TRANSCRIPT = "transcript"  # every noisy gradient


# What a mechanism offers whose release is a model, and which shows its steps.
OF_A_TRAINING = frozenset({Access.WEIGHTS, Access.CONFIDENCES, Access.LABELS, Access.TRANSCRIPT})


class Output(Protocol):
    """What a prediction interface tells of a model's confidences."""

    @property
    def name(self) -> str: ...

    def __call__(self, confidences: Tensor) -> Tensor:
        """From class probabilities (N, classes) to what the caller is shown of them, of the same shape."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """All that the adversary sees of a trained model: an interface for each access, None where there is none.

    Weights come with the `architecture` that they belong to, and predictions and labels follow from them;
    predictions without weights are a function of their own, and so are labels without predictions.
    """

    weights: Mapping[str, Tensor] | None = None
    architecture: Callable[[], nn.Module] | None = None  # builds the module with arbitrary weights
    predictions: Callable[[Tensor], Tensor] | None = None  # of inputs (N, ...): probabilities (N, classes)
    labels: Callable[[Tensor], Tensor] | None = None  # of inputs (N, ...): classes (N,) int64
    answers: int | None = None  # how many inputs are answered in all; None: any number
    transcript: Observer | None = None  # what an attack that watched the training remembers of it
    published: tuple[tuple[int, float, float], ...] = ()  # step, accuracy, loss on held-out records
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    output: Output | None = None  # None: confidences as they are
    task: Task | None = None  # what its predictions are; None: class probabilities

    @property
    def offers(self) -> frozenset[Access]:
        """What can be seen of the model, whatever was seen of its training."""
        if self.weights is not None:
            return frozenset({Access.WEIGHTS, Access.CONFIDENCES, Access.LABELS})
        if self.predictions is not None:
            return frozenset({Access.CONFIDENCES, Access.LABELS})
        return frozenset() if self.labels is None else frozenset({Access.LABELS})

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of each record that the model was trained by, but for declared class frequencies: (n,)."""
        if self.task is None:
            return cross_entropy(outputs, labels, reduction="none")
        return self.task.loss(outputs, labels)

    def blank(self) -> nn.Module:
        """The architecture with arbitrary weights; of a release with weights only."""
        assert self.architecture is not None, "a release without weights has no architecture"
        return self.architecture()

    def build(self) -> nn.Module:
        """The released model in evaluation mode, its parameters frozen; of a release with weights only."""
        model = self.blank()
        assert self.weights is not None
        model.load_state_dict(dict(self.weights))
        return model.to(self.device).eval().requires_grad_(False)

    def predict(self, inputs: Inputs, batch_size: int = 1024) -> Tensor:
        """What the prediction interface answers: class probabilities (N, classes), on the CPU."""
        return self.queries().confidences(inputs, batch_size)

    def queries(self, budget: int | None = None) -> Queries:
        """The prediction interface, which counts what it is asked and ends when the budget is spent.

        Or when there are no more `answers`.
        """
        most = [each for each in (budget, self.answers) if each is not None]
        return Queries(self, min(most, default=None))


class Queries:
    """A prediction interface: the model is built once, every input asked about is counted."""

    def __init__(self, release: Release, budget: int | None) -> None:
        self._answer, self._label = release.predictions, release.labels
        if self._answer is None and release.weights is not None:
            self._answer = partial(_predict, release.build(), release.task)
        self._device = release.device
        self._output = release.output
        self.budget = budget
        self.spent = 0

    @property
    def left(self) -> int | None:
        """How many inputs may still be asked about; None: any number."""
        return None if self.budget is None else self.budget - self.spent

    def confidences(self, inputs: Inputs, batch_size: int = 1024) -> Tensor:
        """Class probabilities as the interface shows them, (N, classes), on the CPU; N queries.

        Of another task its predictions, as they are.
        """
        assert self._answer is not None, "this release answers with labels only"
        answers = self._asked(self._answer, inputs, batch_size).float()
        return answers if self._output is None else self._output(answers)

    def labels(self, inputs: Inputs, batch_size: int = 1024) -> Tensor:
        """The class that the interface names for each input: (N,) int64, on the CPU; N queries."""
        if self._answer is not None:
            return self.confidences(inputs, batch_size).argmax(-1)
        assert self._label is not None, "this release answers no queries"
        return self._asked(self._label, inputs, batch_size)

    @torch.no_grad()
    def _asked(self, interface: Callable[[Any], Tensor], inputs: Inputs, batch_size: int) -> Tensor:
        asked = count(inputs)
        if self.left is not None and asked > self.left:
            raise OutOfQueries(f"{asked} queries asked for, {self.left} left of {self.budget}")
        self.spent += asked
        rows = (by_name(lambda one: one.to(self._device), part) for part in parts(inputs, batch_size))
        return torch.cat([interface(part).cpu() for part in rows])


def _predict(model: nn.Module, task: Task | None, inputs: Inputs) -> Tensor:
    """What a model predicts: class probabilities, or what its task makes of its outputs."""
    outputs: Tensor = model(inputs)
    return outputs.softmax(-1) if task is None else task.predict(outputs)


class Observation(Protocol):
    """One noisy step, as an adversary sees it who knows every record but the one asked about."""

    @property
    def step(self) -> int: ...

    @property
    def sampling(self) -> str:
        """How batches are said to be drawn: poisson or shuffle."""

    @property
    def sample_rate(self) -> float: ...

    @property
    def noise_std(self) -> float:
        """Standard deviation of each coordinate of the noise, as declared."""

    def view(self, slot: int) -> Tensor:
        """The noisy sum of gradients less all that the adversary knows: (parameters,)."""

    def contribution(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """What each of these records would add to the sum if it were sampled: (n, parameters)."""

    def lengths(self, canaries: Canaries) -> Tensor:
        """How much each canary adds along its coordinate if it is sampled, after clipping: (canaries,)."""

    def alone(self) -> float | None:
        """Length of what one sampled probe added, as the engine made it, over max_grad_norm.

        None where no probe was sampled, or where nothing is clipped.
        """

    def undecided(self, on: Literal["probes", "canaries"]) -> Tensor:
        """The noisy sum less all but the probes or canaries, as the engine summed them: (parameters,)."""


class Observer(Protocol):
    """Looks on while the model trains, and remembers what its attack needs, in constant memory."""

    def observe(self, step: Observation) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
