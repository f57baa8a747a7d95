"""What a run says about itself: the plan before it starts, and its numbers for the report and the tracker."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dptrain.config import Config
from dptrain.contracts import Briefing, Budget, Constants, Guarantee, Plan, Report, Splits, Statement
from dptrain.evaluation.stage import Measured
from dptrain.evidence.verdict import of_void
from dptrain.models.frozen import split
from dptrain.privacy.accountant import privacy_loss
from dptrain.redaction import redacted
from dptrain.report import sentences
from dptrain.tasks import task_of
from dptrain.tracking import NOTE
from dptrain.training.estimate import estimate_seconds
from dptrain.training.features import remade

CONSTANTS = ("sample_rate", "expected_batch_size", "steps", "noise_multiplier", "max_grad_norm", "delta")
PLACES = ("output", "report", "resume", "sweep", "tracking")  # keys of where a run is put, not what it is


def brief(
    splits: Splits,
    model: nn.Module,
    plan: Plan | None,
    budget: Budget,
    *,
    recipe: str,
    mechanism: str,
    attacks: tuple[str, ...],
    device: torch.device,
    folder: Path,
    config: Config,
    copies: Mapping[str, int],
) -> Briefing:
    """What is about to be spent, on what, and how long it will take."""
    training, dtype = config.training, getattr(torch, config.dtype)
    why = _remade(model, splits, training.augmentations, training.feature_cache_gib, dtype)
    return Briefing(
        recipe=recipe,
        data=f"{splits.name}, {splits.source}",
        train=len(splits.train),
        holdout=len(splits.holdout),
        test=len(splits.test),
        model=type(model.get_submodule("network")).__name__,
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        mechanism=mechanism,
        device=str(device),
        plan=plan,
        unit=budget.unit,
        epsilon=math.inf if plan is None else float(privacy_loss(plan).get_epsilon_for_delta(budget.delta)),
        delta=budget.delta,
        attacks=attacks,
        features=why,
        seconds=None
        if plan is None
        else estimate_seconds(
            model,
            plan,
            splits.train.blank(1),
            device,
            task=splits.task,
            engine=str(config.mechanism.get("engine", "bookkeeping")),
            copies=max(1, training.augmentations),
            remade=bool(why),
        ),
        folder=folder,
        copies=sentences.copies(copies),
    )


def _remade(model: nn.Module, splits: Splits, copies: int, gib: float, dtype: torch.dtype) -> str:
    """Why features of a frozen part are made anew at each step; empty where they are not, or none are."""
    parts = split(model)
    if parts is None:
        return ""
    with torch.no_grad():
        return remade(parts[0], splits, copies=copies, gib=gib, dtype=dtype)


def compose(
    splits: Splits, copies: Mapping[str, int], guarantee: Guarantee, statement: Statement, **rest: Any
) -> Report:
    """The report of a training, of which nothing was measured yet."""
    report = Report(
        data={**describe(splits), "copies": dict(copies)},
        floor_accuracy=task_of(splits).floor(splits.test.labels),
        guarantee=statement,
        epsilon_by_step=guarantee.curve,
        tradeoff=tradeoff(guarantee),
        control=None,
        leakage=(),
        gallery=None,
        seconds={},
        **rest,
    )
    cleaned: Report = redacted(report)
    return cleaned


def attacked(report: Report, measured: Measured, **rest: Any) -> Report:
    """The report with what attacks have measured."""
    cleaned: Report = redacted(
        replace(
            report,
            leakage=tuple(map(of_void, measured.leakage) if report.guarantee.void else measured.leakage),
            gallery=measured.gallery,
            queries=measured.queries,
            exposed=measured.exposed,
            not_run=tuple(measured.not_run),
            **rest,
        )
    )
    return cleaned


def describe(splits: Splits) -> dict[str, Any]:
    """Which data, where it came from, and how much of it."""
    return {
        "name": splits.name,
        "source": splits.source,
        "train": len(splits.train),
        "holdout": len(splits.holdout),
        "test": len(splits.test),
        "classes": splits.num_classes,
        "images": len(splits.shape) == 3,
    }


def model_name(model: nn.Module) -> str:
    """The class of a model behind its normalisation: my_nets.Net."""
    kind = type(model.get_submodule("network"))
    return f"{kind.__module__}.{kind.__qualname__}"


def constants(config: Config, splits: Splits, *, units_public: bool) -> Constants:
    """The numbers that a training uses as if they were public, and where they come from."""
    training, privacy = config.training, config.privacy
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
        declared=tuple(name for name in CONSTANTS if name not in computed),
        from_units=tuple(computed) if units_public else (),
        class_prior=splits.class_prior,
        mean=splits.mean,
        std=splits.std,
        bounds=None if splits.bounds_by_name else splits.bounds,
    )


def public_data(config: Config, splits: Splits) -> tuple[str, ...]:
    """Data that are taken to be public and that the model or its settings come of."""
    named = []
    if config.privacy.tuned_on is not None:
        named.append(f"{config.privacy.tuned_on}, on which the settings were chosen, as is declared")
    if splits.public is not None:
        named.append(f"{len(splits.public):,} records that the data set `{splits.name}` declares public")
    return tuple(named)


def tradeoff(guarantee: Guarantee) -> tuple[tuple[float, float], ...]:
    """(false-positive rate, most true positives) of any membership test, densest where both are small."""
    rates = np.concatenate([np.geomspace(1e-4, 0.1, 31), np.linspace(0.12, 1.0, 45)])
    return tuple((float(rate), guarantee.membership_tpr(float(rate))) for rate in rates)


def params(config: Config, recipe: str) -> dict[str, Any]:
    """What a run was asked for, as the tracker takes it: without where it runs and is put."""
    return {"recipe": recipe} | {key: value for key, value in asdict(config).items() if key not in PLACES}


def metrics(report: Report) -> Iterator[tuple[str, float, int]]:
    """Every number of a report that runs are compared by: name, value, step.

    What stands before the slash makes a section of MLflow's charts: what attacks achieved first, then
    bounds, controls and floors, each under the same name.
    """
    metric = report.utility.metric
    yield metric, report.utility.accuracy.value, 0
    yield "auroc", report.utility.auroc, 0
    if report.control is not None:
        yield f"control/{metric}", report.control.accuracy.value, 0
        yield "control/auroc", report.control.auroc, 0
    yield f"floor/{metric}", report.floor_accuracy, 0
    for name, found in report.utility.more.items():
        yield name, found.value, 0
    stated = report.guarantee
    yield "guarantee/epsilon", stated.epsilon, 0
    yield "guarantee/delta", stated.delta, 0
    yield "guarantee/noise_multiplier", stated.noise_multiplier or 0.0, 0
    if stated.selection is not None:
        yield "guarantee/epsilon_if_selected", stated.selection.epsilon, 0
    for step, epsilon in report.epsilon_by_step:
        yield "epsilon", epsilon, step
    for line in report.leakage:
        name = f"{line.attack}.{line.metric}"
        if line.interface not in ("", "confidences"):
            name += f".{line.interface}"
        yield f"attack/{name}", line.value.value, 0
        yield f"low/{name}", line.value.low, 0
        if math.isfinite(line.value.high):
            yield f"high/{name}", line.value.high, 0
        yield f"floor/{name}", line.floor, 0
        if line.control is not None:
            yield f"control/{name}", line.control.value, 0
        if line.bound is not None:
            yield f"bound/{name}", line.bound, 0
    for key, seconds in report.seconds.items():
        yield f"seconds/{key}", seconds, 0


def tags(report: Report) -> Mapping[str, str]:
    """What runs are found by."""
    statement = report.guarantee
    return {
        NOTE: sentences.short(report),
        "recipe": report.recipe,
        "data": report.data["name"],
        "data.source": report.data["source"],
        "mechanism": report.mechanism,
        "unit": statement.unit,
        "guarantee": "void" if statement.void else "holds" if statement.private else "none",
        "code_revision": statement.code_revision or "installed package",
        "confidential": sentences.confidential(report) or "nothing",
        **({"not_run": "; ".join(sentences.not_run(report))} if report.not_run else {}),
    }
