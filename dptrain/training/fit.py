"""One training of a mechanism, from its plan to the release: assembled, resumed, carried out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from dptrain.contracts import Budget, ConfigError, Context, Inputs, RecordLoss, Records, Release, Splits
from dptrain.contracts.trees import by_name, moved, parts
from dptrain.privacy.agreement import ROWS_AT_MOST, Chosen, choose
from dptrain.privacy.banded import GradientPlan
from dptrain.privacy.clipping import Clipper
from dptrain.privacy.dpsgd import Engine, RecordGradients
from dptrain.privacy.independence.rows import make_rows
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.sampling import Units, make_sampler
from dptrain.privacy.stilled import stilled
from dptrain.tasks import task_of
from dptrain.training.canaries import lengths
from dptrain.training.features import Trained
from dptrain.training.feed import Blocks, Feed
from dptrain.training.loop import train
from dptrain.training.masks import Masks
from dptrain.training.means import Means, divided_among, in_each
from dptrain.training.observe import Watch
from dptrain.training.schedule import make_schedule
from dptrain.training.sensitivity_audit import SensitivityAudit
from dptrain.training.session import Session, check_buffers, resume
from dptrain.training.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What came of a training."""

    release: Release
    audit: SensitivityAudit | None
    replayed: int  # steps that were paid for, lost, and taken again with the same draws
    lost: int  # steps that were paid for and not taken again


def fit(
    model: nn.Module,
    splits: Splits,
    context: Context,
    *,
    settings: Settings,
    plan: GradientPlan,
    units: Units,
    engine: Callable[..., Engine],
    kind: str | None,
    noise: NoiseSource | None,
    clipping: str | None,
    epsilon_at: Callable[[int], float],
    audit_sensitivity: bool = False,
) -> Fitted:
    """Train by this plan, from the folder's checkpoint if any."""
    blank = copy.deepcopy(model)
    # A model that is divided among processes stays here as a whole, and may be too large for one device.
    divided = context.ranks is not None and context.ranks.sharded
    place = replace(context, device=torch.device("cpu")) if divided else context
    model = model.to(place.device, place.dtype)
    trained = Trained.of(model, splits, settings, place)
    chosen = None
    if (kind is not None and not divided) or context.observers:
        # Before anything is paid for: a way to per-record gradients that agrees with plain autograd.
        chosen = _choose(kind or "bookkeeping", trained, splits, place, settings, plan.clipping)
    size = max(1, settings.physical_batch_size // settings.copies)
    audit = None
    if audit_sensitivity:
        audit = SensitivityAudit(
            plan,
            _made_up(trained, splits, place),
            size=size,
            key=context.streams.secret("audit"),
            folder=context.folder,
        )
    watch = None
    if context.observers:
        watch = _watch(plan, trained, place, chosen, settings.loss(splits), clips=clipping is not None)
    if kind is not None and not divided:
        engine = partial(engine, chosen=chosen)
    computing = divided_among if divided else in_each
    with computing(trained, splits, context, settings, engine, noise=noise, clipping=plan.clipping) as means:
        session = _session(
            plan, trained, units, context, settings, means, size=size, noise=noise, audit=audit
        )
        replayed = resume(session)
        with session.feed:
            train(
                session,
                means.engine(),
                trained.splits,
                steps=plan.steps,
                settings=settings,
                epsilon_at=epsilon_at,
                watch=watch,
                audit=audit,
            )
        released = trained.weights(session.chosen)
    check_buffers(dict(blank.named_buffers()), model)
    release = Release(
        architecture=partial(copy.deepcopy, blank),
        weights=released,
        published=tuple(session.history),
        device=context.device,
        task=splits.task,
    )
    return Fitted(release=release, audit=audit, replayed=replayed, lost=session.lost)


def _choose(
    kind: str, trained: Trained, splits: Splits, context: Context, settings: Settings, clipping: str
) -> Chosen:
    """The way to per-record gradients for such records, tried on rows that are none."""
    task = task_of(splits)
    return choose(
        kind,
        trained.part,
        settings.loss(splits),
        moved(trained.splits.train.blank(1), context.device, context.dtype),
        forms=splits.forms if trained.part is trained.whole else None,
        bounds=splits.bounds,
        labels=task.made_up(ROWS_AT_MOST, torch.Generator().manual_seed(0)),
        copies=settings.copies,
        clipping=clipping,
        bfloat16=context.bfloat16,
    )


def _watch(
    plan: GradientPlan,
    trained: Trained,
    context: Context,
    chosen: Chosen | None,
    loss: RecordLoss,
    *,
    clips: bool,
) -> Watch:
    """What shows each step to the observers of a training."""
    clipper = Clipper.by(plan, trained.part) if clips else None
    return Watch(
        context.observers,
        context.planted,
        RecordGradients(trained.part, loss, clipper, chosen=chosen),
        remaining=partial(lengths, model=trained.part, clipper=clipper),
        plan=plan,
        features=trained.features,
    )


def _session(
    plan: GradientPlan,
    trained: Trained,
    units: Units,
    context: Context,
    settings: Settings,
    means: Means,
    *,
    size: int,
    noise: NoiseSource | None,
    audit: SensitivityAudit | None,
) -> Session:
    """The state of a training that has not begun."""
    ranks = 1 if context.ranks is None else context.ranks.size
    sampled = units if context.canaries is None else units.and_more(len(context.canaries))
    return Session(
        plan=plan,
        model=means.model,
        optimizer=means.optimizer,
        schedule=make_schedule(
            means.optimizer, settings.schedule, steps=plan.steps, warmup_steps=settings.warmup_steps
        ),
        average=means.average,
        team=means.team,
        shards=means.shards,
        feed=Feed(
            make_sampler(plan, sampled, context.streams.secret("sampling")),
            trained.splits.train,
            steps=plan.steps,
            blocks=Blocks(size=size, lanes=ranks),
            probed=context.probed,
            watched=context.planted if settings.augmentation is not None and context.observers else (),
            ranks=ranks,
            ahead=settings.prefetch,
            device=context.device,
        ),
        noise=noise,
        masks=Masks(context.streams.secret("masks"), context.device),
        context=context,
        audit=audit,
        made_by=trained.made_by,
    )


def _made_up(trained: Trained, splits: Splits, context: Context) -> Records | None:
    """Rows that are no record, extreme ones too, as the trained part takes them; None where it takes none."""
    part = copy.deepcopy(trained.part)

    def taken(rows: Inputs) -> Inputs:
        return trained.features(moved(rows, context.device, context.dtype))

    def usable(row: Inputs) -> bool:
        try:
            with torch.no_grad(), stilled():
                part(taken(row))
        except Exception:  # whatever a model raises, it does not take such rows
            return False
        return True

    for whole in (False, True):
        rows = make_rows(splits.forms, task_of(splits).made_up, more=0, whole=whole, usable=usable)
        if rows is not None:
            made = [by_name(Tensor.cpu, taken(row)) for row in parts(rows.inputs, 1)]
            return Records(by_name(lambda *ones: torch.cat(ones), *made), rows.labels)
    return None


def units_of(splits: Splits, budget: Budget) -> Units:
    if budget.unit == "record":
        return Units(len(splits.train))
    if splits.group_ids is None:
        raise ConfigError(
            f"privacy.unit={budget.unit} needs group ids, and data `{splits.name}` has none; "
            "choose data with group ids, or privacy.unit=record"
        )
    return Units(len(splits.train), splits.group_ids)
