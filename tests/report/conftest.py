"""A full report of an invented run, such as the pipeline would hand over."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dptrain.contracts import (
    Assignment,
    Briefing,
    Constants,
    Counts,
    Estimate,
    Gallery,
    Hashes,
    Interval,
    Leakage,
    Randomness,
    Report,
    Sensitivity,
    Statement,
    Utility,
)
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.guarantee import CENTRAL

CLASSES = ("normal", "nodule", "effusion", "cardiomegaly", "infiltrate", "pneumothorax")
torch.set_num_threads(1)


def make_statement(**changes: Any) -> Statement:
    values: dict[str, Any] = {
        "private": True,
        "sentence": "Whatever an adversary knows or computes, adding or removing one record changes the "
        "probability of any outcome of this training by at most a factor of exp(3.00), except with a "
        "probability of 1e-05. At a 1 % false-positive rate, no membership test identifies more than 5.78 % "
        "of the training records.",
        "released": "the final weights; the guarantee covers every noisy step as well",
        "unit": "record",
        "adjacency": "add_remove",
        "units": 4000,
        "units_public": True,
        "epsilon": 3.0,
        "delta": 1e-5,
        "noise_multiplier": 1.1484375,
        "max_grad_norm": 1.0,
        "sample_rate": 0.064,
        "steps": 600,
        "expected_batch_size": 256,
        "clipping": "flat",
        "sampling_run": "poisson",
        "sampling_assumed": "poisson",
        "accountant": "dp-accounting PLD 0.6.0",
        "cross_checks": {"opacus_rdp": 3.31, "opacus_prv": 3.0},
        "tpr_at_fpr": {"0.001": 0.0097, "0.01": 0.0578},
        "sensitivity": Sensitivity(most=1.0),
        "outside_guarantee": (
            "accuracy and loss on 1000 held-out records at 12 steps, logged for the operator only",
            "the choice of hyper-parameters, which the recipe fixed before any private record was seen",
        ),
        "randomness": Randomness(
            secret=True, cryptographic=False, source="torch Philox, seeded by the system"
        ),
        "assignment": Assignment(probes=400, probes_trained_on=203),
        "counts": Counts(
            unit="record", trained_on=4000, units=4000, holdout=1000, test=1000, set_aside={"probes": 197}
        ),
        "trust": CENTRAL,
        "constants": Constants(from_units=("sample_rate",), bounds=(0.0, 1.0)),
        "date": "2026-01-31T12:00:00+00:00",
        "hashes": Hashes(
            weights="a" * 64, code="b" * 64, config="c" * 64, model="dptrain.models.cnn.SmallCNN"
        ),
        "versions": {"dptrain": "0.1.0", "torch": "2.14.1", "opacus": "1.5.4", "dp-accounting": "0.6.0"},
        "code_revision": "0123456789ab",
        **changes,
    }
    return Statement(**values)


AREA = Interval(value=0.981, low=0.973, high=0.987)
COUNTS = Counts(
    unit="record",
    files=6201,
    trained_on=4000,
    units=4000,
    holdout=1000,
    test=1000,
    set_aside={"probes": 201},
)
NOT_PRIVATE = Statement(
    private=False,
    sentence="Nothing is proved: this model was trained without differential privacy.",
    released="the final weights",
    unit="record",
    adjacency="add_remove",
    epsilon=math.inf,
    delta=1e-5,
    noise_multiplier=0.0,
    tpr_at_fpr={"0.001": 1.0, "0.01": 1.0},
    outside_guarantee=("everything: this training is not private",),
    versions={"torch": "2.14.1"},
)


def make_gallery(channels: int = 1, size: int = 28) -> Gallery:
    rng = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def blobs(noise: float, width: float) -> torch.Tensor:
        images = []
        for row in range(len(CLASSES)):
            angle = 2 * math.pi * row / len(CLASSES)
            spot = torch.exp(-((x - 0.5 * math.cos(angle)) ** 2 + (y - 0.5 * math.sin(angle)) ** 2) / width)
            tint = torch.rand(channels, 1, 1, generator=rng) * 0.4 + 0.6 if channels == 3 else 1.0
            grain = noise * torch.randn(channels, size, size, generator=rng)
            images.append((spot * tint + grain).expand(channels, size, size).clamp(0, 1))
        return torch.stack(images)

    return Gallery(
        classes=CLASSES,
        bounds=(0.0, 1.0),
        mean=blobs(0.0, 0.4),
        released=blobs(0.25, 0.3),
        control=blobs(0.08, 0.2),
        nearest_member=blobs(0.03, 0.15),
    )


def make_leakage() -> tuple[Leakage, ...]:
    return (
        Leakage(
            attack="class inversion",
            metric="recognised as the class",
            value=Interval(value=0.625, low=0.406, high=0.812),
            floor=1 / 6,
            control=Interval(value=0.979, low=0.917, high=1.0),
            bound=None,
            detection_limit=0.941,
            verdict="leakage detected; no theorem bounds it",
            trials=48,
            notes="bootstrap over classes; the judge is right on 96% of test records",
            details={"judge_accuracy": 0.96, "judge_on_control": 0.98},
        ),
        Leakage(
            attack="class inversion",
            metric="nearer to members",
            value=Interval(value=0.50, low=0.36, high=0.64),
            floor=0.5,
            control=Interval(value=0.58, low=0.44, high=0.72),
            bound=None,
            detection_limit=0.941,
            verdict="attack too weak to tell",
            trials=48,
            details={"p_value": 0.41, "p_value_control": 0.09},
        ),
        Leakage(
            attack="reconstruction from weights",
            metric="record named among 8",
            value=Interval(value=0.133, low=0.083, high=0.197),
            floor=0.125,
            control=Interval(value=0.867, low=0.802, high=0.917),
            bound=0.411,
            detection_limit=0.980,
            verdict="resisted: not above the baseline, the control is",
            trials=150,
            notes="exact binomial interval over 150 slots",
        ),
        Leakage(
            attack="reconstruction from gradients",
            metric="record named among 8",
            value=Interval(value=0.293, low=0.222, high=0.373),
            floor=0.125,
            control=Interval(value=1.0, low=0.976, high=1.0),
            bound=0.411,
            detection_limit=0.980,
            verdict="leakage detected, within the guarantee",
            trials=150,
            notes="exact binomial interval over 150 slots; every noisy gradient was seen",
        ),
    )


def make_report(folder: Path, **changes: Any) -> Report:
    steps = range(0, 601, 50)
    fprs = [0.0, *(10 ** (-4 + 4 * i / 60) for i in range(61))]
    normal = torch.distributions.Normal(0.0, 1.0)

    def most_true_positives(fpr: float) -> float:
        if fpr in (0.0, 1.0):
            return fpr
        return float(normal.cdf(normal.icdf(torch.tensor(fpr)) + 0.752))

    values: dict[str, Any] = {
        "recipe": "medical_cnn",
        "mechanism": "DPSGD",
        "data": {
            "name": "phantom",
            "source": "generated from seed, chest phantoms 28x28",
            "train": 4000,
            "holdout": 1000,
            "test": 1000,
            "classes": len(CLASSES),
            "images": True,
        },
        "counts": COUNTS,
        "utility": Utility(
            accuracy=Interval(value=0.873, low=0.851, high=0.892), auroc=AREA, loss=0.412, records=1000
        ),
        "control": Utility(
            accuracy=Interval(value=0.951, low=0.936, high=0.963),
            auroc=Interval(value=0.996, low=0.991, high=0.999),
            loss=0.151,
            records=1000,
        ),
        "floor_accuracy": 0.184,
        "guarantee": make_statement(),
        "epsilon_by_step": tuple((step, 2.7 * math.sqrt(step / 600) + 0.3) for step in range(6, 601, 6)),
        "holdout_by_step": tuple((step, 0.88 - 0.7 * math.exp(-step / 120), 0.5) for step in steps),
        "tradeoff": tuple((fpr, most_true_positives(fpr)) for fpr in fprs),
        "leakage": make_leakage(),
        "gallery": make_gallery(),
        "seconds": {"train": 92.4, "attack": 48.1, "total": 151.0},
        "folder": folder,
        "reproduce": "python -m dptrain recipe=medical_cnn privacy.epsilon=3",
    }
    return Report(**{**values, **changes})


def make_briefing(folder: Path, **changes: Any) -> Briefing:
    values: dict[str, Any] = {
        "title": "medical_cnn",
        "data": "phantom, generated from seed, chest phantoms 28x28",
        "counts": COUNTS,
        "model": "SmallCNN",
        "parameters": 16_392,
        "mechanism": "DPSGD",
        "device": "cpu",
        "plan": DPSGDPlan(
            units=4000,
            sample_rate=0.064,
            steps=600,
            expected_batch_size=256,
            max_grad_norm=1.0,
            noise_multiplier=1.1484375,
        ),
        "unit": "record",
        "epsilon": 3.0,
        "delta": 1e-5,
        "attacks": ("class inversion", "reconstruction from weights", "reconstruction from gradients"),
        "estimate": Estimate(
            training=60.0,
            control=20.0,
            shadows=0.0,
            attacks={"class inversion": 11.0},
            report=4.0,
            memory_gib=0.5,
        ),
        "folder": folder,
    }
    return Briefing(**{**values, **changes})


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Private, with everything that a report can hold."""
    return make_report(tmp_path)


@pytest.fixture
def bare(tmp_path: Path) -> Report:
    """Not private, no control, no attacks, nothing by step."""
    return make_report(
        tmp_path,
        mechanism="NonPrivate",
        control=None,
        guarantee=NOT_PRIVATE,
        epsilon_by_step=(),
        holdout_by_step=(),
        tradeoff=(),
        leakage=(),
        gallery=None,
        seconds={"train": 3.0, "attack": 0.0, "total": 4.0},
    )


@pytest.fixture
def void(report: Report) -> Report:
    """Its randomness was predictable."""
    reason = "the noise was drawn from a public seed (deterministic mode)"
    return dataclasses.replace(
        report,
        guarantee=make_statement(
            void_reason=reason, sentence=f"VOID: {reason}. No guarantee holds for this run."
        ),
    )


@pytest.fixture
def briefing(tmp_path: Path) -> Briefing:
    return make_briefing(tmp_path)


@pytest.fixture
def rgb_gallery() -> Gallery:
    return make_gallery(channels=3, size=16)
