"""What the adversary sees of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dptrain.contracts.errors import OutOfQueries
from dptrain.contracts.records import Canaries
from dptrain.contracts.task import Task
from dptrain.contracts.trees import Inputs, by_name, count, parts


class Knowledge(Enum):
    """What an attack must be given."""

    WEIGHTS = "weights"  # the final weights and the architecture
    CONFIDENCES = "confidences"  # class probabilities, by query
    LABELS = "labels"  # predicted class only, by query
    TRANSCRIPT = "transcript"  # every noisy gradient
    SLOTS = "slots"  # for each planted record, the candidates that it was drawn from
    PROBES = "probes"  # records of which a coin decided whether they are trained on; not the coins
    CANARIES = "canaries"  # artificial gradients, likewise
    SHADOWS = "shadows"  # models of the adversary's own, trained on known halves of the probes
    ATTRIBUTES = "attributes"  # all of the probes but one sensitive column


# What is seen of a model and of its training: of these a mechanism says which it offers.
ACCESS = frozenset({Knowledge.WEIGHTS, Knowledge.CONFIDENCES, Knowledge.LABELS, Knowledge.TRANSCRIPT})


class Output(Protocol):
    """What a prediction interface tells of a model's confidences."""

    @property
    def name(self) -> str: ...

    def __call__(self, confidences: Tensor) -> Tensor:
        """From class probabilities (N, classes) to what the caller is shown of them, of the same shape."""
        ...


@dataclass(frozen=True, kw_only=True)
class Release:
    """All that the adversary sees of a trained model."""

    architecture: Callable[[], nn.Module]  # builds the module with arbitrary weights
    weights: Mapping[str, Tensor]
    transcript: Observer | None = None  # what an attack that watched the training remembers of it
    published: tuple[tuple[int, float, float], ...] = ()  # step, accuracy, loss on held-out records
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    output: Output | None = None  # None: confidences as they are
    task: Task | None = None  # what its predictions are; None: class probabilities

    def build(self) -> nn.Module:
        """The released model in evaluation mode, its parameters frozen."""
        model = self.architecture()
        model.load_state_dict(dict(self.weights))
        return model.to(self.device).eval().requires_grad_(False)

    def predict(self, inputs: Inputs, batch_size: int = 1024) -> Tensor:
        """What the prediction interface answers: class probabilities (N, classes), on the CPU."""
        return self.queries().confidences(inputs, batch_size)

    def queries(self, budget: int | None = None) -> Queries:
        """The prediction interface, which counts what it is asked and ends when the budget is spent."""
        return Queries(self, budget)


class Queries:
    """A prediction interface: the model is built once, every input asked about is counted."""

    def __init__(self, release: Release, budget: int | None) -> None:
        self._model = release.build()
        self._device = release.device
        self._output = release.output
        self._task = release.task
        self.budget = budget
        self.spent = 0

    @property
    def left(self) -> int | None:
        """How many inputs may still be asked about; None: any number."""
        return None if self.budget is None else self.budget - self.spent

    @torch.no_grad()
    def confidences(self, inputs: Inputs, batch_size: int = 1024) -> Tensor:
        """Class probabilities as the interface shows them, (N, classes), on the CPU; N queries.

        Of another task its predictions, as they are.
        """
        asked = count(inputs)
        if self.left is not None and asked > self.left:
            raise OutOfQueries(f"{asked} queries asked for, {self.left} left of {self.budget}")
        self.spent += asked
        answers = torch.cat(
            [
                self._predict(by_name(lambda one: one.to(self._device), part)).float().cpu()
                for part in parts(inputs, batch_size)
            ]
        )
        return answers if self._output is None else self._output(answers)

    def _predict(self, inputs: Inputs) -> Tensor:
        outputs: Tensor = self._model(inputs)
        return outputs.softmax(-1) if self._task is None else self._task.predict(outputs)

    def labels(self, inputs: Tensor, batch_size: int = 1024) -> Tensor:
        """The class that the interface names for each input: (N,) int64, on the CPU; N queries."""
        return self.confidences(inputs, batch_size).argmax(-1)


class Observation(Protocol):
    """One noisy step, as an adversary sees it who knows every record but the one asked about."""

    @property
    def step(self) -> int: ...

    @property
    def sampling(self) -> str:
        """How batches are said to be drawn: poisson or shuffle."""
        ...

    @property
    def sample_rate(self) -> float: ...

    @property
    def noise_std(self) -> float:
        """Standard deviation of each coordinate of the noise, as declared."""
        ...

    def view(self, slot: int) -> Tensor:
        """The noisy sum of gradients less all that the adversary knows: (parameters,)."""
        ...

    def contribution(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """What each of these records would add to the sum if it were sampled: (n, parameters)."""
        ...

    def lengths(self, canaries: Canaries) -> Tensor:
        """How much each canary adds along its coordinate if it is sampled, after clipping: (canaries,)."""
        ...

    def alone(self) -> float | None:
        """Length of what one sampled probe added, as the engine made it, over max_grad_norm.

        None where no probe was sampled, or where nothing is clipped.
        """
        ...

    def undecided(self, on: Knowledge) -> Tensor:
        """The noisy sum less all but the PROBES or CANARIES, as the engine summed them: (parameters,)."""
        ...


class Observer(Protocol):
    """Looks on while the model trains, and remembers what its attack needs, in constant memory."""

    def observe(self, step: Observation) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
