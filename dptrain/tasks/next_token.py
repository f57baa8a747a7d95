"""Next token: at each place of a sequence, what comes after it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dptrain.contracts import Interval, Utility
from dptrain.contracts.assignment import another_label
from dptrain.contracts.task import Pairs
from dptrain.evidence.intervals import UNDEFINED_AREA
from dptrain.tasks.classification import LEAST
from dptrain.tasks.means import interval_of_mean

IGNORED = -100  # the label of a place that is not scored, such as padding


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """Labels (n, length) int64: the token after each place, or IGNORED; outputs logits of each token.

    A record is a whole sequence. Its loss is the mean over its places, so that long ones weigh no more than
    short ones; its accuracy likewise. A sequence with nothing to score has no loss and is not measured.
    Predictions are log-probabilities.
    """

    name: ClassVar[str] = "next_token"
    metric: ClassVar[str] = "token_accuracy"
    of_classes: ClassVar[bool] = False

    vocabulary: int
    length: int

    @property
    def outputs(self) -> tuple[int, ...]:
        return (self.length, self.vocabulary)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        losses = cross_entropy(outputs.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        return _mean(losses, labels)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.log_softmax(-1)

    def made_up(self, count: int, rng: torch.Generator) -> Tensor:
        return torch.randint(self.vocabulary, (count, self.length), generator=rng)

    def mislabelled(self, labels: Tensor, draws: Tensor) -> Tensor:
        others = another_label(labels, draws[:, None], self.vocabulary)
        return torch.where(labels == IGNORED, labels, others)

    def log_likelihood(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Of all tokens of a record together."""
        mine = predictions.double().gather(2, labels.clamp(min=0)[..., None]).squeeze(-1)
        return (mine.nan_to_num(math.log(LEAST)).clamp(min=math.log(LEAST)) * (labels != IGNORED)).sum(-1)

    def evaluate(self, outputs: Pairs) -> tuple[float, float]:
        right, losses = self._by_record(outputs)
        return float(right.mean()), float(losses.mean())

    def utility(self, predictions: Pairs, *, confidence: float, groups: Tensor | None = None) -> Utility:
        """Share of tokens that are named rightly, and the perplexity: by records, who are drawn, not tokens.

        Batch by batch: a prediction has a number for each token of the vocabulary.
        """
        kept: list[Tensor] = []
        right, losses = self._by_record(predictions, kept)
        groups = None if groups is None else groups[torch.cat(kept)]
        loss = interval_of_mean(losses, confidence, most=math.inf, groups=groups)
        return Utility(
            accuracy=interval_of_mean(right, confidence, groups=groups),
            auroc=UNDEFINED_AREA,
            loss=loss.value,
            records=len(right),
            metric=self.metric,
            more={"perplexity": Interval(**{end: math.exp(at) for end, at in vars(loss).items()})},
        )

    def _by_record(self, logits: Pairs, kept: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Share of right tokens and loss of each record that has any; log-probabilities are logits, too.

        To `kept` it is added, batch by batch, which records those are.
        """
        right, losses = [], []
        for made, labels in logits:
            scored = (labels != IGNORED).any(-1)
            if kept is not None:
                kept.append(scored.cpu())
            made, labels = made[scored].float(), labels[scored]
            right.append(_mean((made.argmax(-1) == labels).double(), labels).cpu())
            losses.append(self.loss(made, labels).double().cpu())
        return torch.cat(right), torch.cat(losses)

    def floor(self, labels: Tensor) -> float:
        """Accuracy of always naming the most frequent token."""
        scored = labels[(labels != IGNORED).any(-1)]
        most = scored[scored != IGNORED].bincount().argmax()
        return float(_mean((scored == most).double(), scored).mean())

    def problem(self, labels: Tensor) -> str | None:
        if labels.dtype != torch.int64 or labels.shape[1:] != (self.length,):
            return f"are {labels.dtype}, {tuple(labels.shape)}; give int64 of shape (N, {self.length})"
        if bool(((labels != IGNORED) & ((labels < 0) | (labels >= self.vocabulary))).any()):
            return f"lie outside 0 ... {self.vocabulary - 1} (or {IGNORED}: not scored); correct them"
        return None


def _mean(values: Tensor, labels: Tensor) -> Tensor:
    """Of each record, over the places that are scored: (n,)."""
    scored = labels != IGNORED
    return (values * scored).sum(-1) / scored.sum(-1).clamp(min=1)
