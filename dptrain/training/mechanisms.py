"""DP-SGD, and the same training without privacy: two mechanisms through one loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dptrain.contracts import (
    ACCESS,
    Budget,
    ConfigError,
    Context,
    DptrainError,
    Guarantee,
    Knowledge,
    Plan,
    Records,
    Release,
    Sensitivity,
    Splits,
)
from dptrain.privacy import accountant
from dptrain.privacy.agreement import choose
from dptrain.privacy.clipping import Clipper
from dptrain.privacy.dpsgd import Engine, RecordGradients, check_choices, make_engine
from dptrain.privacy.guarantee import DPGuarantee, NoGuarantee
from dptrain.privacy.independence import TESTED, make_rows
from dptrain.privacy.layers import check_layers
from dptrain.privacy.noise.cost import refuse_costly
from dptrain.privacy.noise.source import NoiseSource, on_cpu
from dptrain.privacy.noise.told import randomness
from dptrain.privacy.plan import make_plan
from dptrain.privacy.sampling import Units, make_sampler
from dptrain.privacy.stilled import stilled
from dptrain.training import checkpoint
from dptrain.training.average import make_average
from dptrain.training.canaries import lengths
from dptrain.training.features import Trained
from dptrain.training.feed import Feed
from dptrain.training.loop import Session, train
from dptrain.training.loss import make_loss
from dptrain.training.masks import Masks
from dptrain.training.observe import Watch
from dptrain.training.plain import PlainEngine
from dptrain.training.schedule import make_schedule
from dptrain.training.sensitivity_audit import SensitivityAudit
from dptrain.training.settings import Settings
from dptrain.training.tested import refuse_dependence, refuse_dependent_release

CHOOSING = "Choosing among runs by their results spends privacy that this run's epsilon does not count."


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """Differentially private stochastic gradient descent (Abadi et al. 2016), through Opacus."""

    offers: ClassVar[frozenset[Knowledge]] = ACCESS

    settings: Settings
    max_grad_norm: float = 1.0
    clipping: str = "flat"
    engine: str = "bookkeeping"
    replace_batch_norm: bool = False
    freeze_batch_norm: bool = False
    audit_sensitivity: bool = True

    def __post_init__(self) -> None:
        check_choices(self.engine, self.clipping)

    def prepare(self, model: nn.Module, splits: Splits) -> nn.Module:
        """The model with layers that have per-record gradients, found to treat each record by itself."""
        prepared = check_layers(
            model, replace_batch_norm=self.replace_batch_norm, freeze_batch_norm=self.freeze_batch_norm
        )
        refuse_dependence(prepared, splits, self.settings)
        return prepared

    def plan(self, splits: Splits, budget: Budget) -> Plan:
        """What `fit` will do, calibrated to the budget."""
        return make_plan(
            budget,
            self.settings.rates,
            len(_units(splits, budget)),
            max_grad_norm=self.max_grad_norm,
            clipping=self.clipping,
        )

    def fit(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, Guarantee]:
        plan = self.plan(splits, budget)
        prepared = self.prepare(model, splits)
        parameters = sum(p.numel() for p in prepared.parameters() if p.requires_grad)
        curve = accountant.Curve(plan, budget.delta, parameters=parameters)
        refuse_costly(plan, parameters * plan.steps, epsilon=curve.points[-1][1], delta=budget.delta)
        noise = NoiseSource.on(
            context.device, context.streams.secret("noise"), randomness=context.streams.randomness
        )
        release, session, replayed = _train(
            prepared,
            splits,
            context,
            settings=self.settings,
            plan=plan,
            units=_units(splits, budget),
            engine=partial(
                make_engine, self.engine, plan=plan, loss=make_loss(splits.class_prior), generator=noise
            ),
            kind=self.engine,
            noise=noise,
            clipping=self.clipping,
            epsilon_at=curve.at_most,
            audit_sensitivity=self.audit_sensitivity,
        )
        refuse_dependent_release(release, splits)
        audit, ratio = (None, None) if session.audit is None else session.audit.told()
        deterministic = context.streams.deterministic
        return release, DPGuarantee(
            plan=plan,
            budget=budget,
            sensitivity=Sensitivity(
                most=plan.sensitivity, records=1, independence=TESTED, audit=audit, ratio=ratio
            ),
            randomness=randomness(
                plan,
                parameters * plan.steps,
                on_cpu=on_cpu(context.device, context.streams.randomness),
                secret=not deterministic,
            ),
            outside=_outside(self.settings),
            void="sampling and noise were drawn from the public seed (deterministic=true)"
            if deterministic
            else None,
            curve=curve.points,
            replayed_steps=replayed,
        )


@dataclass(frozen=True, kw_only=True)
class NonPrivate:
    """The same training without clipping and without noise: the baseline, and the control of every attack."""

    offers: ClassVar[frozenset[Knowledge]] = ACCESS

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
        units = _units(splits, budget)
        sample_rate, steps, batch = self.settings.rates.resolve(len(units))
        release, _, _ = _train(
            self.prepare(model, splits),
            splits,
            context,
            settings=self.settings,
            plan=Plan(
                units=len(units),
                sample_rate=sample_rate,
                steps=steps,
                expected_batch_size=batch,
                max_grad_norm=math.inf,
                noise_multiplier=0.0,
                sampling=self.settings.rates.sampling,
            ),
            units=units,
            engine=partial(PlainEngine, expected_batch_size=batch, loss=make_loss(splits.class_prior)),
            kind=None,
            noise=None,
            clipping=None,
            epsilon_at=lambda _: math.inf,
        )
        return release, NoGuarantee(budget=budget)


def _train(
    model: nn.Module,
    splits: Splits,
    context: Context,
    *,
    settings: Settings,
    plan: Plan,
    units: Units,
    engine: Callable[..., Engine],
    kind: str | None,
    noise: NoiseSource | None,
    clipping: str | None,
    epsilon_at: Callable[[int], float],
    audit_sensitivity: bool = False,
) -> tuple[Release, Session, int]:
    """Train by this plan, from the folder's checkpoint if it has one; also the number of steps repeated."""
    blank = copy.deepcopy(model)
    model = model.to(context.device, context.dtype)
    trained = Trained.of(model, splits, settings, context)
    loss = make_loss(splits.class_prior)
    chosen = None
    if kind is not None or context.observers:
        # Before anything is paid for: a way to per-record gradients that agrees with plain autograd.
        chosen = choose(
            kind or "bookkeeping",
            trained.part,
            loss,
            torch.zeros(1, *trained.splits.train.shape, device=context.device, dtype=context.dtype),
            bounds=splits.bounds,
            copies=settings.copies,
            clipping=plan.clipping,
        )
    if kind is not None:
        engine = partial(engine, chosen=chosen)
    watch = None
    if context.observers:
        clipper = None if clipping is None else Clipper.by(plan, trained.part)
        watch = Watch(
            context.observers,
            context.planted,
            RecordGradients(trained.part, loss, clipper, chosen=chosen),
            remaining=partial(lengths, model=trained.part, clipper=clipper),
            plan=plan,
            features=trained.features,
        )
    average = make_average(trained.part, settings.average_decay) if settings.average_decay > 0 else None
    optimizer = settings.optimizer(trained.part.parameters())
    size = max(1, settings.physical_batch_size // settings.copies)
    audit = None
    if audit_sensitivity:
        audit = SensitivityAudit(
            plan,
            _made_up(trained, splits, context),
            size=size,
            key=context.streams.secret("audit"),
            folder=context.folder,
        )
    session = Session(
        plan=plan,
        model=trained.part,
        optimizer=optimizer,
        schedule=make_schedule(
            optimizer, settings.schedule, steps=plan.steps, warmup_steps=settings.warmup_steps
        ),
        average=average,
        feed=Feed(
            make_sampler(
                plan,
                units if context.canaries is None else units.and_more(len(context.canaries)),
                context.streams.secret("sampling"),
            ),
            trained.splits.train,
            steps=plan.steps,
            probed=context.probed,
            size=size,
            ahead=settings.prefetch,
        ),
        noise=noise,
        masks=Masks(context.streams.secret("masks"), context.device),
        context=context,
        audit=audit,
        made_by=trained.made_by,
    )
    replayed = _resume(session)
    with session.feed:
        train(
            session,
            engine(trained.part, optimizer),
            trained.splits,
            steps=plan.steps,
            settings=settings,
            epsilon_at=epsilon_at,
            watch=watch,
        )
    _check_buffers(blank, model)
    release = Release(
        architecture=partial(copy.deepcopy, blank),
        weights=trained.weights(session.released),
        published=tuple(session.history),
        device=context.device,
    )
    return release, session, replayed


def _made_up(trained: Trained, splits: Splits, context: Context) -> Records | None:
    """Rows that are no record, extreme ones too, as the trained part takes them; None where it takes none."""
    part = copy.deepcopy(trained.part)

    def taken(rows: Tensor) -> Tensor:
        return trained.features(rows.to(context.device, context.dtype))

    def usable(row: Tensor) -> bool:
        try:
            with torch.no_grad(), stilled():
                part(taken(row))
        except Exception:
            return False
        return True

    for whole in (False, True):
        rows = make_rows(splits.shape, splits.bounds, splits.num_classes, more=0, whole=whole, usable=usable)
        if rows is not None:
            return Records(torch.cat([taken(row).cpu() for row in rows.inputs.split(1)]), rows.labels)
    return None


def _resume(session: Session) -> int:
    """Take the checkpoint's state, if there is one; how many steps were paid for beyond it."""
    folder = session.context.folder
    if folder is None:
        return 0
    state, paid = checkpoint.load(folder), checkpoint.paid(folder)
    if state is None:
        if paid:
            raise DptrainError(
                f"resume={folder}: {paid} steps are paid for but {checkpoint.CHECKPOINT} is gone, so they "
                "cannot be repeated with the same noise; start a new run"
            )
        return 0
    now = asdict(session.plan)
    if changed := [
        f"{key}={state['plan'][key]} is now {now[key]}" for key in now if state["plan"][key] != now[key]
    ]:
        raise DptrainError(
            f"resume={folder}: it was begun under another plan ({'; '.join(changed)}); resume it with the "
            "data and the library versions that it was begun with, or start a new run"
        )
    if state.get("made_by") != session.made_by:
        raise DptrainError(
            f"resume={folder}: the frozen part of the model is not the one that it was begun with, and its "
            "head knows no other features; resume it on the machine, the device and the library versions "
            "that it was begun with, or start a new run"
        )
    _refuse_others(folder, state, session.state_dict())
    session.load_state_dict(state)
    return max(0, paid - session.step)


def _refuse_others(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise DptrainError where a checkpoint is of a model of other shapes, or of another optimizer."""
    shapes, found = (
        {name: tuple(value.shape) for name, value in each["model"].items()} for each in (before, now)
    )
    other = [
        f"`{name}` {shapes.get(name, 'absent')} is now {found.get(name, 'absent')}"
        for name in {**shapes, **found}
        if shapes.get(name) != found.get(name)
    ]
    for key in ("optimizer_class", "optimizer_arguments"):
        if before.get(key, now[key]) != now[key]:
            other.append(f"{key.replace('_', ' ')} {before[key]} is now {now[key]}")
    if other:
        more = f"; and {len(other) - 3} more" if len(other) > 3 else ""
        raise DptrainError(
            f"resume={folder}: it was begun with another model or optimizer ({'; '.join(other[:3])}{more}); "
            "resume it with those that it was begun with, or start a new run"
        )


def _check_buffers(before: nn.Module, after: nn.Module) -> None:
    """Refuse a model that has gathered statistics of the records in its buffers, beside the noise."""
    for (name, old), new in zip(before.named_buffers(), after.buffers(), strict=True):
        if not torch.equal(old, new.to(old)):
            raise ConfigError(
                f"model: buffer `{name}` changed while training, so records reached it without noise; "
                "use layers that keep no running statistics"
            )


def _units(splits: Splits, budget: Budget) -> Units:
    if budget.unit == "record":
        return Units(len(splits.train))
    if splits.group_ids is None:
        raise ConfigError(
            f"privacy.unit={budget.unit} needs group ids, and data `{splits.name}` has none; "
            "choose data with group ids, or privacy.unit=record"
        )
    return Units(len(splits.train), splits.group_ids)


def _outside(settings: Settings) -> tuple[str, ...]:
    """What else the run does with private data, one sentence each."""
    sentences = [
        "Holdout and test records are not protected: accuracy, AUROC and loss on them are published.",
        CHOOSING,
        "The report's figures and leakage lines are made from training records; they are for the data's "
        "owner and not part of the release.",
    ]
    if settings.diagnostics:
        sentences.append(
            "training.diagnostics=true: the loss on training records was logged at each step, without noise."
        )
    return tuple(sentences)
