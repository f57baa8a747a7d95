"""DP-SGD: clipped gradients and Gaussian noise, by the engine of `dptrain.privacy`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from dptrain.contracts import (
    OF_A_TRAINING,
    Access,
    Budget,
    ConfigError,
    Context,
    Guarantee,
    Ranks,
    Release,
    Sensitivity,
    Splits,
)
from dptrain.contracts.ranges import Positive
from dptrain.privacy import accountant
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.banded import BandedPlan, GradientPlan, make_banded_plan
from dptrain.privacy.bfloat16 import SAID as SAID_OF_BFLOAT16
from dptrain.privacy.dpsgd import DPSGDEngine, check_choices
from dptrain.privacy.guarantee import BY_PUBLIC_SEED, OUTSIDE, DPGuarantee
from dptrain.privacy.independence.check import TESTED
from dptrain.privacy.layers import check_layers
from dptrain.privacy.noise.banded import BandedNoise
from dptrain.privacy.noise.cost import refuse_costly
from dptrain.privacy.noise.source import NoiseSource, on_cpu, randomness, words_on
from dptrain.privacy.plan import make_plan
from dptrain.privacy.sampling import Units
from dptrain.training.fit import Fitted, fit, units_of
from dptrain.training.settings import MANY, Settings
from dptrain.training.tested import frozen_part, refuse_dependence, refuse_dependent_release

NOISES = ("independent", "banded")
CORRELATED = (
    "its noise is correlated over the steps, and what looks on takes each step's noise and sample for "
    "independent"
)


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """Differentially private stochastic gradient descent (Abadi et al. 2016), through Opacus.

    `noise` is independent at each step, or `banded`: correlated over as many steps as there are `bands`
    (None: those of least error), which leaves less of it in sums over steps.
    """

    settings: Settings
    max_grad_norm: Positive = 1.0
    clipping: str = "flat"
    engine: str = "bookkeeping"
    replace_batch_norm: bool = False
    freeze_batch_norm: bool = False
    audit_sensitivity: bool = True
    noise: str = "independent"
    bands: int | None = None

    def __post_init__(self) -> None:
        check_choices(self.engine, self.clipping)
        self.settings.refuse_mixing("dpsgd")
        if self.noise not in NOISES:
            raise ConfigError(f"mechanism.noise={self.noise} is unknown; choose one of {', '.join(NOISES)}")
        if self.bands is not None and (self.noise != "banded" or self.bands < 1):
            raise ConfigError(
                f"mechanism.bands={self.bands} with mechanism.noise={self.noise}: bands are 1 or "
                "more, of mechanism.noise=banded; set it to null, or choose that"
            )

    @property
    def offers(self) -> frozenset[Access]:
        """All of a training; with correlated noise not its steps."""
        return OF_A_TRAINING - set(self.withheld)

    @property
    def withheld(self) -> Mapping[Access, str]:
        """Why something is not offered."""
        return {Access.TRANSCRIPT: CORRELATED} if self.noise == "banded" else {}

    def prepare(self, model: nn.Module, splits: Splits) -> nn.Module:
        """The model with layers that have per-record gradients, found to treat each record by itself."""
        prepared = check_layers(
            model, replace_batch_norm=self.replace_batch_norm, freeze_batch_norm=self.freeze_batch_norm
        )
        refuse_dependence(prepared, splits, self.settings)
        return prepared

    def plan(self, splits: Splits, budget: Budget) -> GradientPlan:
        """What `fit` will do, calibrated to the budget."""
        make = make_plan if self.noise == "independent" else partial(make_banded_plan, bands=self.bands)
        return make(
            budget,
            self.settings.rates,
            len(units_of(splits, budget)),
            max_grad_norm=self.max_grad_norm,
            clipping=self.clipping,
        )

    def draws(self, model: nn.Module, splits: Splits, plan: GradientPlan) -> int:  # noqa: ARG002
        """How many normal numbers `fit` adds: one for each trained parameter of each step."""
        return plan.steps * sum(p.numel() for p in model.parameters() if p.requires_grad)

    def fit(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, Guarantee]:
        plan = self.plan(splits, budget)
        if self.withheld and context.observers:
            raise ConfigError(f"mechanism.noise={self.noise} shows no steps to observers: {CORRELATED}")
        prepared = self.prepare(model, splits)
        frozen = frozen_part(prepared)
        drawn = self.draws(prepared, splits, plan)
        curve = accountant.Curve(plan, budget.delta, parameters=drawn // plan.steps)
        refuse_costly(plan, drawn, epsilon=curve.points[-1][1], delta=budget.delta)
        fitted = self._train(
            prepared,
            splits,
            context,
            plan=plan,
            units=units_of(splits, budget),
            settings=self.settings,
            epsilon_at=curve.at_most,
            audit=self.audit_sensitivity,
        )
        release = fitted.release
        refuse_dependent_release(release, splits, frozen=frozen, loss=self.settings.loss(splits))
        said = randomness(
            plan,
            drawn,
            on_cpu=on_cpu(context.device, context.streams.randomness),
            secret=not context.streams.deterministic,
        )
        if context.bfloat16:
            said = replace(said, assumptions=(*said.assumptions, SAID_OF_BFLOAT16))
        audit, ratio = (None, None) if fitted.audit is None else fitted.audit.published()
        deterministic = context.streams.deterministic
        return release, DPGuarantee(
            plan=plan,
            budget=budget,
            sensitivity=Sensitivity(
                most=plan.sensitivity if isinstance(plan, DPSGDPlan) else plan.most,
                records=1,
                independence=TESTED,
                audit=audit,
                ratio=ratio,
            ),
            randomness=said,
            outside=_outside(self.settings, context.ranks),
            void=BY_PUBLIC_SEED if deterministic else None,
            curve=curve.points,
            replayed_steps=0 if fitted.lost else fitted.replayed,
            lost_steps=fitted.lost,
        )

    def trial(
        self,
        model: nn.Module,
        splits: Splits,
        budget: Budget,
        context: Context,
        *,
        plan: GradientPlan,
        batch: int,
        audit: bool,
    ) -> None:
        """Train as `fit` does, in batches of about so many units, `audit` in a single step."""
        units = units_of(splits, budget)
        steps, rate = 1 if audit else MANY, batch / len(units)
        plan = replace(plan, units=len(units), expected_batch_size=batch, steps=steps)
        if isinstance(plan, BandedPlan):
            plan = replace(plan, turn_rate=min(1.0, rate * plan.groups))
        else:
            plan = replace(plan, sample_rate=rate)
        settings = replace(self.settings, evaluations=1, warmup_steps=0)
        self._train(
            model,
            splits,
            context,
            plan=plan,
            units=units,
            settings=settings,
            epsilon_at=lambda _: 0.0,
            audit=audit and self.audit_sensitivity,
        )

    def _train(
        self,
        model: nn.Module,
        splits: Splits,
        context: Context,
        *,
        plan: GradientPlan,
        units: Units,
        settings: Settings,
        epsilon_at: Callable[[int], float],
        audit: bool,
    ) -> Fitted:
        return fit(
            model,
            splits,
            context,
            settings=settings,
            plan=plan,
            units=units,
            engine=partial(DPSGDEngine, self.engine, plan=plan, loss=settings.loss(splits)),
            kind=self.engine,
            noise=_source(plan, context),
            clipping=self.clipping,
            epsilon_at=epsilon_at,
            audit_sensitivity=audit,
        )


def _source(plan: GradientPlan, context: Context) -> NoiseSource:
    """Where the noise of this plan comes from."""
    words = words_on(context.device, context.streams.randomness)
    key = context.streams.secret("noise")
    if isinstance(plan, BandedPlan):
        return BandedNoise(key, strategy=plan.strategy, words=words)
    return NoiseSource(key, words=words)


def _outside(settings: Settings, ranks: Ranks | None) -> tuple[str, ...]:
    """What else the run does with private data, one sentence each."""
    said = [*OUTSIDE, *settings.outside]
    if settings.diagnostics:
        said.append(
            "training.diagnostics=true: the loss on training records was logged at each step, without noise."
        )
    if ranks is not None:
        what = "records, sums of gradients without noise, and the keys that each step's noise is drawn from"
        said.append(
            f"{ranks.size} processes computed the training: "
            f"{what if ranks.sharded else 'records, and sums of gradients without noise'}, "
            f"went from one to another{ranks.way}. Each of them, and all that lies between, is trusted."
        )
    return tuple(said)
