"""DP-SGD steps: per-record gradients, clipping, noise, the optimizer's update.

Built piece by piece from one plan rather than by Opacus' `PrivacyEngine.make_private`, which reads the
sample rate and the number of steps off a data loader.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dptrain.contracts import ConfigError, Inputs
from dptrain.contracts.trees import parts
from dptrain.privacy.agreement import Chosen, choose
from dptrain.privacy.banded import GradientPlan
from dptrain.privacy.bookkeeping.shares import Instantiated
from dptrain.privacy.clipping import KINDS, Clipper, scaled, wide
from dptrain.privacy.gradients import Gradients, RecordLoss
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.noisy import NoisySum

ENGINES = ("bookkeeping", "hooks")

log = logging.getLogger(__name__)


class Engine(Protocol):
    """Adds up gradients over one logical batch, in physical batches of any size, then updates once."""

    def accumulate(self, inputs: Inputs, labels: Tensor, copies: int = 1) -> Tensor:
        """Add what these records contribute, be it none; returns their summed loss, which is private.

        With `copies`, inputs (records * copies, ...) and labels (records * copies,) hold several
        views of each record side by side. Its gradient and its loss are means over them, taken
        before clipping (De et al. 2022, section 3.2), so that copies cost no privacy.
        """
        ...

    def accumulate_gradients(self, gradients: list[Tensor]) -> None:
        """Add units given by their gradients, one (units, ...) a parameter, clipped as records' are."""
        ...

    def total(self) -> Tensor:
        """The sum of clipped gradients so far, without noise, which is private: (parameters,)."""
        ...

    def sum(self) -> Tensor:
        """The same in the precision that it is added in, in which sums of several processes are exact."""
        ...

    def add_sum(self, flat: Tensor) -> None:
        """Add what another process summed up by the same weights: (parameters,)."""
        ...

    def seal(self) -> bytes | None:
        """A secret tag by which the same sum is known again before the same noise is added to it; or None."""
        ...

    def forget(self) -> None:
        """Begin the sum again, without a step."""
        ...

    def aside(self) -> AbstractContextManager[None]:
        """Within, another sum, which is empty at first; afterwards the sum is what it was before."""
        ...

    def update(self) -> None:
        """Take the step, whatever was accumulated, be it nothing at all."""
        ...

    def keep_noise(self) -> None:
        """From now on, remember what an update adds, for `noise` to tell."""
        ...

    def noise(self) -> Tensor:
        """What the last update added to the sum of gradients, if `keep_noise` came before: (parameters,)."""
        ...


def check_choices(engine: str, clipping: str) -> None:
    """Raise ConfigError where there is no such engine or clipping."""
    if engine not in ENGINES:
        cure = (
            "use bookkeeping, which does all that it did"
            if engine == "ghost"
            else f"choose one of {', '.join(ENGINES)}"
        )
        raise ConfigError(f"mechanism.engine={engine} is unknown; {cure}")
    if clipping not in KINDS:
        raise ConfigError(f"mechanism.clipping={clipping} is unknown; choose one of {', '.join(KINDS)}")


class DPSGDEngine:
    """Norms of per-record gradients, and the sum clipped by them, from one and the same way to these.

    Its kind: `bookkeeping`, by the rules of layers; `hooks`, Opacus' gradients in full. What was `chosen` for
    this model comes from `agreement.choose`; if nothing was, it chooses before it touches the first records.
    """

    def __init__(
        self,
        kind: str,
        model: nn.Module,
        optimizer: Optimizer,
        plan: GradientPlan,
        *,
        loss: RecordLoss,
        generator: NoiseSource | torch.Generator,
        chosen: Chosen | None = None,
        sums: type[NoisySum] = NoisySum,
    ) -> None:
        check_choices(kind, plan.clipping)
        self.optimizer = sums(optimizer, plan, Clipper.by(plan, model), NoiseSource.of(generator))
        self.kind, self.model, self.plan, self.loss = kind, model, plan, loss
        self.gradients: Gradients | None = None
        if chosen is not None:
            self._take(chosen)

    def prepare(self, like: Inputs, copies: int = 1, labels: Tensor | None = None) -> None:
        """Choose a way to gradients for batches like this one, of which no value is looked at.

        `labels` are made up, as `choose` takes them.
        """
        clipping = self.plan.clipping
        self._take(
            choose(self.kind, self.model, self.loss, like, labels=labels, copies=copies, clipping=clipping)
        )

    def _take(self, chosen: Chosen) -> None:
        if chosen.note:
            log.info("%s", chosen.note)
        self.gradients = chosen.make(self.model, self.loss)

    def accumulate(self, inputs: Inputs, labels: Tensor, copies: int = 1) -> Tensor:
        if len(labels) == 0:
            return torch.zeros((), device=labels.device)
        if self.gradients is None:
            self.prepare(inputs, copies)
        assert self.gradients is not None
        rows = self.gradients.rows_at_once
        if rows is None or len(labels) <= rows * copies:
            return self._add(self.gradients, inputs, labels, copies)
        split = zip(parts(inputs, rows * copies), labels.split(rows * copies), strict=True)
        losses = [self._add(self.gradients, *part, copies) for part in split]
        return torch.stack(losses).sum()

    def _add(self, gradients: Gradients, inputs: Inputs, labels: Tensor, copies: int) -> Tensor:
        loss, shares = gradients(inputs, labels, copies)
        self.optimizer.clip_and_add_shares(shares, len(labels) // copies)
        return loss

    def accumulate_gradients(self, gradients: list[Tensor]) -> None:
        shares = [Instantiated.of([wide(each)]) for each in gradients]
        self.optimizer.clip_and_add_shares(shares, len(gradients[0]))

    def total(self) -> Tensor:
        return torch.cat(
            [
                (torch.zeros_like(p) if p.summed_grad is None else p.summed_grad.to(p)).flatten()
                for p in self.optimizer.params
            ]
        )

    def sum(self) -> Tensor:
        return self.optimizer.sum()

    def add_sum(self, flat: Tensor) -> None:
        self.optimizer.add_sum(flat)

    def seal(self) -> bytes:
        return self.optimizer.seal()

    def forget(self) -> None:
        for parameter in self.optimizer.params:
            parameter.summed_grad = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        sums, dropped = [parameter.summed_grad for parameter in self.optimizer.params], self.optimizer.dropped
        self.forget()
        try:
            yield
        finally:
            self.optimizer.dropped = dropped
            for parameter, held in zip(self.optimizer.params, sums, strict=True):
                parameter.summed_grad = held

    def update(self) -> None:
        self.optimizer.release()

    def keep_noise(self) -> None:
        self.optimizer.keeps_noise = True

    def noise(self) -> Tensor:
        return torch.cat([noise.flatten() for noise in self.optimizer.last_noise])


class RecordGradients:
    """What single records would add to the sum at the current weights: clipped gradients, one row a record.

    Works on a copy of the model, so that asking leaves no trace in the training. `clipper=None`
    asks for gradients as they are, the contribution to a training without privacy.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: RecordLoss,
        clipper: Clipper | None,
        *,
        kind: str = "bookkeeping",
        chosen: Chosen | None = None,
    ) -> None:
        self.model = copy.deepcopy(model)
        self.loss, self.clipper, self.kind = loss, clipper, kind
        self.gradients = None if chosen is None else chosen.make(self.model, loss)

    def follow(self, model: nn.Module) -> None:
        """Take over the weights of this model."""
        with torch.no_grad():
            for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
                mine.copy_(theirs)

    def __call__(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """Clipped gradients (records, parameters); a gradient that is not finite is zero."""
        if self.gradients is None:
            self.gradients = choose(self.kind, self.model, self.loss, inputs).make(self.model, self.loss)
        size = self.gradients.rows_at_once or len(labels)
        split = zip(parts(inputs, size), labels.split(size), strict=True)
        return torch.cat([self._rows(self.gradients, *part) for part in split])

    def _rows(self, gradients: Gradients, inputs: Inputs, labels: Tensor) -> Tensor:
        _, shares = gradients(inputs, labels, 1)
        parameters = [each for each in self.model.parameters() if each.requires_grad]
        nothing = torch.zeros((), device=labels.device)
        rows = [
            nothing.to(parameter).expand(len(labels), *parameter.shape) if share is None else share.rows()
            for share, parameter in zip(shares, parameters, strict=True)
        ]
        if self.clipper is None:
            rows = [torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0) for g in rows]
        else:
            norms = torch.stack(
                [
                    each.flatten(1).norm(dim=1) if share is None else share.norms
                    for share, each in zip(shares, rows, strict=True)
                ]
            )
            rows = [scaled(g, f) for g, f in zip(rows, self.clipper.factors(norms), strict=True)]
        return torch.cat([row.flatten(1) for row in rows], dim=1)
