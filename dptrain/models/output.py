"""What a prediction interface shows of a model's confidences. None of these is a guarantee."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from dptrain.contracts import ConfigError, Output

NAMES = ("weights", "confidences", "top_k", "rounded", "temperature", "labels_only")


@dataclass(frozen=True, kw_only=True)
class Confidences:
    """All confidences as they are: an interface without a defence."""

    name: ClassVar[str] = "confidences"

    def __call__(self, confidences: Tensor) -> Tensor:
        return confidences


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The `k` largest confidences as they are, zeros elsewhere.

    Shokri et al. 2017, "Membership inference attacks against machine learning models", section VIII-A.
    No guarantee: what it hides of one answer, many answers tell.
    """

    k: int

    @property
    def name(self) -> str:
        return f"top_{self.k}"

    def __call__(self, confidences: Tensor) -> Tensor:
        kept = confidences.topk(min(self.k, confidences.shape[-1]), dim=-1)
        return confidences.new_zeros(confidences.shape).scatter(-1, kept.indices, kept.values)


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """Confidences to so many decimal digits; they need no longer sum to one.

    Fredrikson, Jha and Ristenpart 2015, "Model inversion attacks that exploit confidence information
    and basic countermeasures", section VI-B; Shokri et al. 2017, section VIII-A. No guarantee: a
    search that takes larger steps sees over the rounding.
    """

    digits: int

    @property
    def name(self) -> str:
        return f"rounded_{self.digits}"

    def __call__(self, confidences: Tensor) -> Tensor:
        return confidences.round(decimals=self.digits)


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Confidences as if the logits had been divided by `temperature`: above 1 they level, below they sharpen.

    A softmax at another temperature (Guo et al. 2017, "On calibration of modern neural networks",
    section 4.2), as a mitigation in Shokri et al. 2017, section VIII-A. No guarantee: it can be undone.
    """

    temperature: float

    @property
    def name(self) -> str:
        return f"temperature_{self.temperature:g}"

    def __call__(self, confidences: Tensor) -> Tensor:
        # Logits are log-confidences but for a constant, which the softmax cancels.
        return (confidences.log() / self.temperature).softmax(-1)


@dataclass(frozen=True, kw_only=True)
class LabelsOnly:
    """One for the most likely class, zeros elsewhere.

    No guarantee: labels alone give classes away (Kahla et al. 2022, "Label-only model inversion
    attacks via boundary repulsion") and members (Choquette-Choo et al. 2021, "Label-only
    membership inference attacks").
    """

    name: ClassVar[str] = "labels_only"

    def __call__(self, confidences: Tensor) -> Tensor:
        return F.one_hot(confidences.argmax(-1), confidences.shape[-1]).to(confidences.dtype)


def make_output(name: str, *, top_k: int, digits: int, temperature: float) -> Output | None:
    """The output of this name; None for `weights`, where there is no interface. Raises ConfigError."""
    if name in ("weights", "confidences", "labels_only"):
        return {"weights": None, "confidences": Confidences(), "labels_only": LabelsOnly()}[name]
    if name == "top_k":
        if top_k < 1:
            raise ConfigError(f"release.top_k={top_k} shows nothing; give a whole number from 1 on")
        return TopK(k=top_k)
    if name == "rounded":
        if digits < 0:
            raise ConfigError(f"release.digits={digits} is negative; give a whole number from 0 on")
        return Rounded(digits=digits)
    if name == "temperature":
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ConfigError(
                f"release.temperature={temperature} must be positive and finite; above 1 levels confidences"
            )
        return Temperature(temperature=temperature)
    raise ConfigError(f"release.output={name} is unknown; choose one of {', '.join(NAMES)}")
