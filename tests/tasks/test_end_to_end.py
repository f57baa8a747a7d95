"""Tasks with several labels, with classes in an order and with a number: from data to report and audit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import QUICK, order
from torch import nn

import dptrain
from dptrain.cli import main as cli
from dptrain.contracts import Records, Splits, Task
from dptrain.models.mlp import Mlp
from dptrain.report import words
from dptrain.tasks import MultiLabel, Ordinal, Regression
from dptrain.training import checkpoint

pytestmark = pytest.mark.run

SEVERAL, NUMBER = MultiLabel(labels=2), Regression(bounds=(-1.0, 3.0))
WORDS = (*QUICK, "tracking=none", "training.expected_batch_size=40", "evidence.probes=60")
ABOUT_CLASSES = re.compile("lassifier|Accuracy| classes|test accuracy")
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
    assert words.named(task.metric) in (found.folder / "report.md").read_text()
    card = (found.folder / "model_card.md").read_text()
    for text in (card.partition("## How to reproduce")[0], found._repr_html_()):
        assert not ABOUT_CLASSES.findall(text)


@pytest.mark.parametrize("task", [SEVERAL, NUMBER], ids=["several labels", "a number"])
def test_an_attack_on_classes_says_why_it_does_not_apply(splits: Splits, tmp_path: Path, task: Task) -> None:
    why = f"attack=class_inversion works on .* one class a record.* has labels of {task.name}; leave the"
    with pytest.raises(dptrain.ConfigError, match=why):
        dptrain.run(
            "quickstart", *WORDS, "attack=[membership_loss,class_inversion]", model=network(task),
            data=labelled(splits, task), privacy=NOISE, output=tmp_path / "runs",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_classes_in_an_order_have_costs_as_other_classes_have(splits: Splits, tmp_path: Path) -> None:
    """From the Python API, with subgroups; beside what classification measures, how far off grades are."""
    grades = ("none", "mild", "severe")
    tested = splits.test.take(torch.arange(20).repeat(3))  # each grade has enough records to be shown
    ordered = replace(
        splits,
        task=Ordinal(classes=3, names=grades),
        classes=grades,
        test=tested,
        subgroups={"sex": ("f", "m") * 30},
    )
    found = dptrain.run(
        "quickstart", *WORDS, "attack=[]", 'fail_if=["quadratic_weighted_kappa < -1"]', "evidence.probes=20",
        "training.expected_batch_size=20", model=network(ordered.task or NUMBER), data=ordered,
        privacy=NOISE, output=tmp_path,
    )  # fmt: skip
    document = json.loads((found.folder / "report.json").read_text())
    assert {"mean_absolute_grade_error", "quadratic_weighted_kappa"} <= document["utility"]["more"].keys()
    assert [(each["by"], each["name"]) for each in document["costs"]] == [
        ("all", ""), *(("class", grade) for grade in grades), ("sex", "f"), ("sex", "m"),
    ]  # fmt: skip
    assert "classes in an order" in (found.folder / "model_card.md").read_text()


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (MultiLabel(labels=2), ("data.task=multi_label", "data.classes=[effusion,nodule]")),
        (Ordinal(classes=3), ("data.task=ordinal", "data.classes=[none,mild,severe]")),
        (Regression(bounds=(0.0, 9.0)), ("data.task=regression", "data.target_bounds=[0,9]")),
    ],
    ids=["several labels", "grades", "a number"],
)
def test_a_model_of_ones_own_is_audited_with_members_of_each_task(
    task: Any, words: tuple[str, ...], tmp_path: Path
) -> None:
    rng = torch.Generator().manual_seed(1)
    for name in ("in", "out"):
        inputs, labels = torch.rand(60, 5, generator=rng), task.made_up(60, rng)
        np.savez(tmp_path / f"{name}.npz", inputs=inputs.numpy(), labels=labels.numpy())
    torch.save(Mlp(shape=(5,), num_classes=task.outputs[0]).state_dict(), tmp_path / "mine.pt")
    found = dptrain.audit(
        tmp_path / "mine.pt", "model=mlp", "data=member_files", f"data.members={tmp_path}/in.npz",
        f"data.non_members={tmp_path}/out.npz", *words, "attack=[membership_loss]", "tracking=none",
        f"fail_if=['{task.metric} > 1','leakage.membership.auc.low > 0.9']", output=tmp_path,
    )  # fmt: skip
    document = json.loads((found.folder / "report.json").read_text())
    assert document["utility"]["metric"] == task.metric
    assert document["data"]["task"] == task.name
    assert [line["attack"] for line in document["leakage"]] == ["membership_loss"]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (MultiLabel(labels=2), ("data.task=multi_label", "data.classes=[effusion,nodule]")),
        (Regression(bounds=(0.0, 9.0)), ("data.task=regression", "data.target_bounds=[0,9]")),
    ],
    ids=["several labels", "a number"],
)
def test_a_run_on_a_file_goes_on_after_an_interruption(
    task: Any, said: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(1)
    images, labels = torch.randint(256, (200, 8, 8), generator=rng).byte(), task.made_up(200, rng)
    np.savez(tmp_path / "data.npz", train_images=images.numpy(), train_labels=labels.numpy())
    pay = checkpoint.pay

    def interrupted(folder: Path, *, steps: int, epsilon: float) -> None:
        if steps == 2:
            raise KeyboardInterrupt
        pay(folder, steps=steps, epsilon=epsilon)

    asked = (
        *WORDS, "data=npz", f"data.path={tmp_path}/data.npz", *said, "attack=[]", "control.enabled=false",
        "performance.checkpoint_seconds=0", f"output={tmp_path}/runs",
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "pay", interrupted)
        with pytest.raises(SystemExit):
            cli.main(order(*asked), None)
    (folder,) = {path.parent for path in (tmp_path / "runs").glob("*/run.json")}
    assert not (folder / "report.json").exists()
    cli.main(order(f"resume={folder}"), None)
    document = json.loads((folder / "report.json").read_text())
    assert document["utility"]["metric"] == task.metric
    assert document["guarantee"]["steps"] == 3
