"""The training without privacy, through the same loop: the control of every attack."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torch import nn

from dptrain.contracts import OF_A_TRAINING, Access, Budget, Context, Guarantee, Plan, Release, Splits
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.guarantee import NOTHING, NoGuarantee
from dptrain.privacy.layers import check_layers
from dptrain.privacy.sampling import Units
from dptrain.training.fit import fit, units_of
from dptrain.training.plain import PlainEngine
from dptrain.training.settings import MANY, Settings


@dataclass(frozen=True, kw_only=True)
class NonPrivate:
    """The same training without clipping and without noise: the baseline, and the control of every attack."""

    offers: ClassVar[frozenset[Access]] = OF_A_TRAINING

    settings: Settings
    replace_batch_norm: bool = False
    freeze_batch_norm: bool = False

    def prepare(self, model: nn.Module, splits: Splits) -> nn.Module:  # noqa: ARG002
        """The model as DP-SGD would train it, so that the two can be compared."""
        return check_layers(
            model, replace_batch_norm=self.replace_batch_norm, freeze_batch_norm=self.freeze_batch_norm
        )

    def plan(self, splits: Splits, budget: Budget) -> None:  # noqa: ARG002
        """Nothing is spent, for nothing is promised."""
        return

    def fit(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, Guarantee]:
        units = units_of(splits, budget)
        sample_rate, steps, batch = self.settings.rates.resolve(len(units))
        release = self._train(
            self.prepare(model, splits),
            splits,
            context,
            settings=self.settings,
            units=units,
            sample_rate=sample_rate,
            steps=steps,
            batch=batch,
        )
        return release, NoGuarantee(budget=budget, outside=(*NOTHING, *self.settings.outside))

    def trial(
        self,
        model: nn.Module,
        splits: Splits,
        budget: Budget,
        context: Context,
        *,
        plan: Plan | None,  # noqa: ARG002
        batch: int,
        audit: bool,  # noqa: ARG002
    ) -> None:
        """Train as `fit` does, in batches of about so many units."""
        units = units_of(splits, budget)
        self._train(
            model,
            splits,
            context,
            settings=replace(self.settings, evaluations=1),
            units=units,
            sample_rate=batch / len(units),
            steps=MANY,
            batch=batch,
        )

    def _train(
        self,
        model: nn.Module,
        splits: Splits,
        context: Context,
        *,
        settings: Settings,
        units: Units,
        sample_rate: float,
        steps: int,
        batch: int,
    ) -> Release:
        return fit(
            model,
            splits,
            context,
            settings=settings,
            plan=DPSGDPlan(
                units=len(units),
                sample_rate=sample_rate,
                steps=steps,
                expected_batch_size=batch,
                max_grad_norm=math.inf,
                noise_multiplier=0.0,
                sampling=self.settings.rates.sampling,
            ),
            units=units,
            engine=partial(
                PlainEngine,
                expected_batch_size=batch,
                loss=settings.loss(splits),
                regularisers=tuple(settings.regularisers.values()),
                bfloat16=context.bfloat16,
            ),
            kind=None,
            noise=None,
            clipping=None,
            epsilon_at=lambda _: math.inf,
        ).release
