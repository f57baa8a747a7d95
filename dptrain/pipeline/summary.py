"""What a run says about itself: its briefing before it starts, its statement and its report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dptrain.assembly.model import normalises_itself
from dptrain.assembly.values import given_away
from dptrain.config import Config
from dptrain.contracts import Briefing, Constants, Cost, Guarantee, Plan, Report, Splits, Statement
from dptrain.evaluation.costs import costs
from dptrain.evaluation.scorer import Measured
from dptrain.evaluation.stage import Subject
from dptrain.evidence.clusters import of_several
from dptrain.evidence.verdict import of_void
from dptrain.models.frozen import split
from dptrain.models.one_output import inner
from dptrain.models.pretrained.weights import Origin
from dptrain.pipeline import counts
from dptrain.pipeline.estimate import estimate
from dptrain.pipeline.experiment import Experiment
from dptrain.privacy.accountant import DPSGDPlan, OfClippedSums
from dptrain.privacy.dense_losses import epsilon_of
from dptrain.privacy.guarantee import now
from dptrain.privacy.signal import signal_to_noise
from dptrain.redaction import redacted
from dptrain.report import sentences
from dptrain.runs import binding
from dptrain.runs import folder as runs
from dptrain.tasks import task_of
from dptrain.training.features import remade

CONSTANTS = ("sample_rate", "expected_batch_size", "steps", "noise_multiplier", "max_grad_norm", "delta")


def brief(experiment: Experiment, *, recipe: str, folder: Path, made_up: bool = False) -> Briefing:
    """What is about to be spent, on what, and how long it will take; of records that may be made up."""
    config, splits, model, plan = experiment.config, experiment.splits, experiment.model, experiment.plan
    training, delta, device = config.training, experiment.budget.delta, experiment.context.device
    why = _remade(
        model, splits, training.augmentations, config.performance.feature_cache_gib, experiment.context.dtype
    )
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Briefing(
        title=config.name or recipe,
        data=f"{splits.name}, {splits.source}",
        counts=counts.counts(splits, experiment.assignments, experiment.budget),
        model=type(inner(model.get_submodule("network"))).__name__,
        parameters=parameters,
        signal=signal_to_noise(plan, parameters) if isinstance(plan, DPSGDPlan) else None,
        mechanism=type(experiment.parts.mechanism).__name__,
        device=str(device),
        processes=1 if experiment.ranks is None else experiment.ranks.size,
        plan=plan,
        unit=experiment.budget.unit,
        epsilon=math.inf if plan is None else epsilon_of(plan.loss(), delta),
        delta=delta,
        attacks=tuple(experiment.parts.attacks),
        scaled=counts.scaled(experiment.assignments, config.evidence),
        not_run=experiment.left_out,
        features=why,
        estimate=estimate(experiment, remade=bool(why), made_up=made_up)
        if config.performance.estimate
        else None,
        folder=folder,
        copies=sentences.copies(experiment.copies),
    )


def _remade(model: nn.Module, splits: Splits, copies: int, gib: float, dtype: torch.dtype) -> str:
    """Why features of a frozen part are made anew at each step; empty where they are not, or none are."""
    parts = split(model)
    if parts is None:
        return ""
    with torch.no_grad():
        return remade(parts[0], splits, copies=copies, gib=gib, dtype=dtype)


def stated(
    experiment: Experiment, guarantee: Guarantee, target: Subject, code: Mapping[str, str], folder: Path
) -> Statement:
    """What is proved of a release, bound to its weights, the model's code and the configuration."""
    config, splits = experiment.config, experiment.splits
    return replace(
        guarantee.statement(),
        interface=given_away(config.release, target.release.offers),
        assignment=experiment.assignments.described(),
        date=runs.remember_date(folder, now()),
        constants=constants(
            config,
            splits,
            experiment.plan,
            units_public=experiment.budget.units_public,
            normalised=not normalises_itself(experiment.model.get_submodule("network")),
        ),
        public_data=public_data(config, splits, experiment.model),
        hashes=binding.hashes(target.release.weights, model_name(experiment.model), code, config),
    )


def _groups(splits: Splits) -> dict[str, str]:
    """What a group of records is called, and whether it is known of which test records are."""
    if splits.test_group_ids is None:
        told = "" if splits.group_ids is None else "unknown"
    else:
        told = "" if of_several(splits.test_group_ids) is None else "known"
    return {"group_word": splits.group_word or "group", "test_groups": told} if told else {}


def compose(
    experiment: Experiment,
    guarantee: Guarantee,
    statement: Statement,
    target: Subject,
    order: runs.Order,
    folder: Path,
    **others: Any,
) -> Report:
    """The report of a release, of which nothing was measured yet; `others` replace what a training says."""
    splits = experiment.splits
    data = {
        "name": splits.name,
        "source": splits.source,
        "train": len(splits.train),
        "holdout": len(splits.holdout),
        "test": len(splits.test),
        "classes": splits.num_classes,
        **({} if splits.task is None else {"task": splits.task.name}),
        "images": len(splits.shape) == 3,
        "copies": dict(experiment.copies),
        **_groups(splits),
    }
    fields: dict[str, Any] = {
        "recipe": order.recipe,
        "name": experiment.config.name,
        "mechanism": type(experiment.parts.mechanism).__name__,
        "holdout_by_step": target.release.published,
        **others,
    }
    if "utility" not in fields:
        fields["utility"] = experiment.utility(target)
    found = counts.counts(splits, experiment.assignments, experiment.budget)
    expected = {} if statement.assignment is None else statement.assignment.set_aside
    public = found.published(units_public=statement.units_public, set_aside=expected)
    report = Report(
        data=data,
        counts=found,
        scaled=counts.scaled(experiment.assignments, experiment.config.evidence),
        floor_accuracy=task_of(splits).floor(splits.test.labels),
        guarantee=replace(statement, counts=public),
        epsilon_by_step=guarantee.curve,
        tradeoff=tradeoff(guarantee),
        control=None,
        leakage=(),
        gallery=None,
        seconds={},
        folder=folder,
        reproduce=order.command,
        **fields,
    )
    return redacted(report)


def attacked(
    report: Report,
    measured: Measured,
    experiment: Experiment,
    control: Subject | None,
    seconds: Mapping[str, float],
) -> Report:
    """The report with what attacks have measured."""
    utility = None if control is None else experiment.utility(control)
    paid: tuple[Cost, ...] = ()
    if utility is not None:
        paid = costs(report.utility, utility, experiment.splits, experiment.config.evidence.confidence)
    return redacted(
        replace(
            report,
            costs=paid,
            leakage=tuple(map(of_void, measured.leakage) if report.guarantee.void else measured.leakage),
            gallery=measured.gallery,
            queries=measured.queries,
            exposed=measured.exposed,
            not_run=tuple(measured.not_run),
            control=utility,
            seconds={**seconds, **experiment.cache.seconds},
        )
    )


def model_name(model: nn.Module) -> str:
    """The class of a model behind its normalisation: my_nets.Net."""
    kind = type(inner(model.get_submodule("network")))
    return f"{kind.__module__}.{kind.__qualname__}"


def constants(
    config: Config, splits: Splits, plan: Plan | None, *, units_public: bool, normalised: bool = True
) -> Constants:
    """The numbers that a training uses as if they were public, and where they come from.

    Of a plan that is not DP-SGD's they are in its own description, but for delta. Inputs are `normalised` by
    the mean and standard deviation of the data, or else by the network's own.
    """
    training, privacy = config.training, config.privacy
    known = CONSTANTS if plan is None or isinstance(plan, DPSGDPlan) else ("delta",)
    used = CONSTANTS if plan is None or isinstance(plan, OfClippedSums) else known
    computed = []
    if training.sample_rate is None:  # then it is the batch size over the number of units
        computed += ["sample_rate"]
        computed += ["steps"] if training.steps is None else []
        computed += ["noise_multiplier"] if privacy.noise_multiplier is None else []
    if training.expected_batch_size is None:
        computed.append("expected_batch_size")
    if privacy.delta is None:
        computed.append("delta")
    return Constants(
        declared=(
            *(name for name in known if name not in computed),
            *(f"regulariser.{name}" for name in config.regulariser),
        ),
        from_units=tuple(name for name in computed if name in used) if units_public else (),
        class_prior=splits.class_prior,
        mean=splits.mean if normalised else None,
        std=splits.std if normalised else None,
        bounds=None if splits.bounds_by_name else splits.bounds,
    )


def public_data(config: Config, splits: Splits, model: nn.Module) -> tuple[str, ...]:
    """Data that are taken to be public and that the model or its settings come of."""
    origin = getattr(inner(model.get_submodule("network")), "origin", None)
    named = [str(origin)] if isinstance(origin, Origin) else []
    if config.privacy.tuned_on is not None:
        named.append(f"{config.privacy.tuned_on}, on which the settings were chosen, as is declared")
    if splits.public is not None:
        declared = f"{len(splits.public):,} records that the data set `{splits.name}` declares public"
        named.append(splits.public_origin or declared)
    return tuple(named)


def tradeoff(guarantee: Guarantee) -> tuple[tuple[float, float], ...]:
    """(false-positive rate, most true positives) of any membership test, densest where both are small."""
    rates = np.concatenate([np.geomspace(1e-4, 0.1, 31), np.linspace(0.12, 1.0, 45)])
    return tuple((float(rate), guarantee.membership_tpr(float(rate))) for rate in rates)
