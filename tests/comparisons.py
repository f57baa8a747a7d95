"""Invented finished runs, written as the pipeline writes them, for tests of what is made of many."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from dptrain.contracts import Counts, Interval, Leakage, Report, Statement, Utility
from dptrain.evidence.verdict import WITHIN
from dptrain.report.document import as_json
from dptrain.storage import write_json

BOUNDS = {0.5: 0.018, 1.0: 0.025, 2.0: 0.047, 4.0: 0.12, 8.0: 0.38}  # true positives at 1 % false positives
NOISES = {0.5: 9.0, 1.0: 5.0, 2.0: 3.0, 4.0: 1.9, 8.0: 1.2}


def statement(epsilon: float, *, units: int = 1000, **changes: Any) -> Statement:
    """A privacy statement; infinite: not private."""
    private = math.isfinite(epsilon)
    values: dict[str, Any] = {
        "private": private,
        "sentence": f"At most a factor of exp({epsilon:.2f})." if private else "Nothing is proved.",
        "unit": "record",
        "adjacency": "add_remove",
        "units": units,
        "epsilon": epsilon,
        "delta": 1e-4,
        "noise_multiplier": NOISES.get(epsilon, 4.0) if private else 0.0,
        "max_grad_norm": 1.0,
        "sample_rate": 0.25,
        "steps": 20,
        "expected_batch_size": 250,
        "clipping": "flat",
        "sampling_run": "poisson",
        "tpr_at_fpr": {"0.001": 0.01, "0.01": BOUNDS.get(epsilon, 0.05) if private else 1.0},
        **changes,
    }
    return Statement(**values)


def interval(value: float, half: float, *, most: float = 1.0) -> Interval:
    return Interval(value=value, low=max(0.0, value - half), high=min(most, value + half))


def utility(accuracy: float, half: float) -> Utility:
    area = interval(min(1.0, accuracy + 0.04), half / 2)
    return Utility(accuracy=interval(accuracy, half), auroc=area, loss=0.4, records=400)


def leakage(auc: float, tpr: float, certified: float, epsilon: float) -> tuple[Leakage, ...]:
    bound = BOUNDS.get(epsilon, 0.05)
    shared: dict[str, Any] = {
        "detection_limit": 0.97,
        "trials": 240,
        "verdict": WITHIN,
    }
    return (
        Leakage(
            attack="membership_loss",
            metric="auc",
            value=interval(auc, 0.05),
            floor=0.5,
            control=interval(0.83, 0.04),
            bound=min(1.0, 0.5 + 2 * bound**0.8),
            interface="confidences",
            **shared,
        ),
        Leakage(
            attack="membership_loss",
            metric="tpr_at_fpr_0.01",
            value=interval(tpr, 0.02),
            floor=0.01,
            control=interval(0.31, 0.07),
            bound=bound,
            interface="confidences",
            **shared,
        ),
        Leakage(
            attack="audit_canaries",
            metric="certified_epsilon",
            value=Interval(value=certified, low=certified, high=math.inf),
            floor=0.0,
            control=None,
            bound=epsilon,
            **shared,
        ),
        Leakage(
            attack="class_inversion",
            metric="evaluator_accuracy",
            value=interval(0.3 + 0.1 * auc, 0.1),
            floor=0.1,
            control=interval(0.9, 0.05),
            bound=None,
            **shared,
        ),
    )


def write_run(
    folder: Path,
    *,
    epsilon: float = 1.0,
    seed: int = 1,
    accuracy: float = 0.85,
    twin: float | None = 0.95,
    overrides: tuple[str, ...] = (),
    config: dict[str, Any] | None = None,
    order: dict[str, Any] | None = None,
    attacks: bool = True,
    **changes: Any,
) -> Path:
    """A run's folder with its run.json and report.json; `changes` are to the report."""
    private = math.isfinite(epsilon)
    words = (
        f"privacy.epsilon={epsilon:g}" if private else "mechanism=non_private",
        f"seed={seed}",
        *overrides,
    )
    guarantee = replace(statement(epsilon), **changes.pop("guarantee", {}))
    values: dict[str, Any] = {
        "recipe": "invented",
        "mechanism": "DPSGD" if private else "NonPrivate",
        "data": {"name": "phantom", "source": "generated", "train": 1000 + seed, "test": 400, "classes": 6},
        "counts": Counts(unit="record", trained_on=1000 + seed, holdout=0, test=400),
        "utility": utility(accuracy, 0.03),
        "control": None if twin is None else utility(twin, 0.02),
        "floor_accuracy": 0.2,
        "guarantee": guarantee,
        "epsilon_by_step": (),
        "holdout_by_step": (),
        "tradeoff": (),
        "leakage": leakage(
            0.5 + 0.03 * epsilon**0.5 + 0.01 * math.sin(seed),
            0.012 + 0.004 * math.cos(3 * seed + epsilon),
            0.4 * epsilon * (1 + 0.1 * math.sin(4 * seed)),
            epsilon,
        )
        if attacks and private
        else (),
        "gallery": None,
        "seconds": {"train": 1.0, "attack": 1.0, "total": 2.0},
        "folder": folder,
        "reproduce": " ".join(["python -m dptrain recipe=invented", *words]),
    }
    report = Report(**{**values, **changes})
    folder.mkdir(parents=True)
    asked = {
        "recipe": "invented",
        "overrides": ["recipe=invented", *words],
        "config": {
            "task": "train",
            "seed": seed,
            "output": str(folder.parent),
            "privacy": {"epsilon": epsilon if private else None, "delta": None},
            "mechanism": {"_target_": "DPSGD" if private else "NonPrivate"},
            "model": {"channels": [16]},
            "tracking": {"uri": None},
            **(config or {}),
        },
        "sweep": True,
        **(order or {}),
    }
    (folder / "run.json").write_text(json.dumps(asked))
    write_json(as_json(report), folder / "report.json")
    return folder


def write_sweep(
    folder: Path, *, seeds: int = 3, epsilons: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
) -> Path:
    """Runs at these epsilons, accuracy rising with each, under so many seeds."""
    for epsilon in epsilons:
        for seed in range(1, seeds + 1):
            wobble = 0.012 * math.sin(7 * seed + 3 * epsilon)
            accuracy = 0.72 + 0.07 * math.log2(2 * epsilon) - 0.004 * math.log2(2 * epsilon) ** 2 + wobble
            twin = 0.951 + 0.004 * math.cos(5 * seed)
            write_run(
                folder / f"{epsilon:g}-{seed}", epsilon=epsilon, seed=seed, accuracy=accuracy, twin=twin
            )
    return folder
