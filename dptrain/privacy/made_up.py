"""Rows that are no record, to try on them whether a model's gradients come record by record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dptrain.contracts import Form, Forms, Inputs
from dptrain.contracts.trees import by_name, leaves


@dataclass(frozen=True, kw_only=True)
class MadeUp:
    """Makes rows like these inputs, of which shape and type are used and no value."""

    like: Inputs
    bounds: tuple[float, float]
    forms: Forms | None  # the bounds of each input, where they are records and no features
    labels: Tensor  # as many as rows are asked for, at least
    copies: int
    vocabulary: int  # entries of the smallest table that is read
    width: torch.dtype  # of inputs that are no whole numbers, and of such labels

    def rows(self, count: int) -> tuple[Any, Tensor]:
        """Inputs and labels of so many records, `copies` of each side by side."""
        # Not from PyTorch's generator, whose draws are constants where all is stilled.
        generator = np.random.default_rng(count)

        def made(like: Tensor, form: Form | None) -> Tensor:
            shape = (count * self.copies, *like.shape[1:])
            if like.is_floating_point():
                low, high = self.bounds if form is None else form.bounds
                rows = (low + (high - low) * torch.from_numpy(generator.random(shape))).to(self.width)
            else:
                ends = (0, self.vocabulary - 1) if form is None else form.bounds
                rows = torch.from_numpy(generator.integers(int(ends[0]), int(ends[1]) + 1, size=shape))
                rows = rows.to(like.dtype)
            return rows.to(like.device)

        forms = self.forms if self.forms is not None else by_name(lambda _: None, self.like)
        inputs = by_name(made, self.like, forms)
        labels = self.labels[:count]
        labels = labels.to(self.width) if labels.is_floating_point() else labels
        labels = labels.repeat_interleave(self.copies, dim=0)
        return inputs, labels.to(leaves(self.like)[0].device)


def vocabulary_of(model: nn.Module) -> int:
    """Entries of a model's smallest table; 2 where it has none."""
    tables = (each for each in model.modules() if isinstance(each, nn.Embedding | nn.EmbeddingBag))
    return min((each.num_embeddings for each in tables), default=2)
