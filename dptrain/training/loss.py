"""The loss of single records, made up for classes of declared, unequal frequency."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def make_loss(class_prior: Sequence[float] | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy of logits (n, classes) and labels (n,), one value a record: (n,).

    With a prior, its logarithm is added to the logits (logit adjustment, Menon et al. 2021), so
    that the model itself learns to weigh classes alike. Weights in the loss would not: clipping
    undoes them. The prior is a declared constant; one counted from the records would leak.

    >>> make_loss((0.5, 0.5))(torch.zeros(1, 2), torch.tensor([0])).item() == torch.tensor(2.0).log().item()
    True
    """
    if class_prior is None:
        return lambda logits, labels: cross_entropy(logits, labels, reduction="none")
    shift = torch.tensor(class_prior).log()
    return lambda logits, labels: cross_entropy(logits + shift.to(logits), labels, reduction="none")
