"""A task with several labels, and one with a number, from plan to report, beside a control model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import QUICK
from torch import nn

import dptrain
from dptrain.contracts import Records, Splits, Task
from dptrain.tasks import MultiLabel, Regression

pytestmark = pytest.mark.run

SEVERAL, NUMBER = MultiLabel(labels=2), Regression(bounds=(-1.0, 3.0))
WORDS = (*QUICK, "tracking=none", "training.expected_batch_size=40", "evidence.probes=60")
ANY = (
    "audit_canaries",
    "membership_loss",
    "audit_losses",
    "reconstruction_weights",
    "reconstruction_transcript",
)
NOISE = {"epsilon": None, "noise_multiplier": 2.0, "delta": None}


def network(task: Task) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, task.outputs[0]))


def labelled(splits: Splits, task: Task) -> Splits:
    """The records with labels of this task."""

    def part(records: Records, seed: int) -> Records:
        rng = torch.Generator().manual_seed(seed)
        inputs = torch.rand(4 * len(records), *splits.shape, generator=rng)
        return Records(inputs, task.made_up(len(inputs), rng))

    parts = {name: part(getattr(splits, name), at) for at, name in enumerate(("train", "holdout", "test"))}
    classes = ("effusion", "nodule") if task is SEVERAL else ("age",)
    return replace(splits, task=task, classes=classes, **parts)


@pytest.mark.parametrize("task", [SEVERAL, NUMBER], ids=["several labels", "a number"])
def test_it_is_trained_controlled_attacked_and_reported(splits: Splits, tmp_path: Path, task: Task) -> None:
    found = dptrain.run(
        "quickstart", *WORDS, f"attack=[{','.join(ANY)}]", model=network(task), data=labelled(splits, task),
        privacy=NOISE, output=tmp_path,
    )  # fmt: skip
    document = json.loads((found.folder / "report.json").read_text())
    assert document["utility"]["metric"] == task.metric
    assert {line["attack"] for line in document["leakage"]} == set(ANY)
    assert all(line["control"] is not None for line in document["leakage"])
    assert document["not_run"] == []
    assert len((found.folder / "exposure.csv").read_text().splitlines()) > 1
    assert task.metric.replace("_", " ") in (found.folder / "report.md").read_text()


@pytest.mark.parametrize("task", [SEVERAL, NUMBER], ids=["several labels", "a number"])
def test_an_attack_on_classes_says_why_it_does_not_apply(splits: Splits, tmp_path: Path, task: Task) -> None:
    why = f"attack=class_inversion works on .* one class a record.* has labels of {task.name}; leave the"
    with pytest.raises(dptrain.ConfigError, match=why):
        dptrain.run(
            "quickstart", *WORDS, "attack=[membership_loss,class_inversion]", model=network(task),
            data=labelled(splits, task), privacy=NOISE, output=tmp_path / "runs",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
