"""Records between two records."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Beta

from dptrain.contracts import ConfigError, Inputs
from dptrain.contracts.ranges import Positive
from dptrain.contracts.regulariser import Objective, RecordLoss, Regulariser
from dptrain.contracts.trees import by_name, count, leaves


@dataclass(frozen=True, kw_only=True)
class MixUp(Regulariser):
    """Each record of a physical batch is mixed with another one, by a share from Beta(alpha, alpha).

    Zhang et al. 2018, "mixup: Beyond empirical risk minimization": inputs are mixed, and the losses of both
    labels by the same share, which one draw decides for the whole batch.
    """

    alpha: Positive = 0.4

    def of_batch(self, objective: Objective) -> Objective:
        return partial(self._mixed, objective)

    def _mixed(
        self, objective: Objective, model: nn.Module, inputs: Inputs, labels: Tensor, loss: RecordLoss
    ) -> Tensor:
        if not all(each.is_floating_point() for each in leaves(inputs)):
            raise ConfigError(
                "regulariser.mix_up: inputs of whole numbers, such as token ids, cannot be mixed; leave "
                "it out"
            )
        share = float(Beta(self.alpha, self.alpha).sample())
        partner = torch.randperm(count(inputs)).to(labels.device)
        mixed = by_name(lambda one: share * one + (1 - share) * one[partner], inputs)
        return objective(model, mixed, labels, partial(_of_both, loss, share, partner))


def _of_both(loss: RecordLoss, share: float, partner: Tensor, outputs: Tensor, labels: Tensor) -> Tensor:
    return share * loss(outputs, labels) + (1 - share) * loss(outputs, labels[partner])
