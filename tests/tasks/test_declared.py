"""What data declare: the word for a group, records that are public, labels that some attacks cannot use."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dptrain.assembly.values import unit_word
from dptrain.attacks.canary_audit import CanaryAudit
from dptrain.attacks.class_inversion import ClassInversion
from dptrain.attacks.membership import LossThreshold, odds
from dptrain.config import Release
from dptrain.contracts import ConfigError, Records, Splits
from dptrain.evaluation.games.class_inversion.evaluator import train_evaluator
from dptrain.evaluation.preconditions import check_output, check_records
from dptrain.pipeline.weights import load
from dptrain.tasks import MultiLabel, Regression


@pytest.mark.parametrize(
    ("unit", "word", "said"),
    [
        ("record", "patient", "record"),
        ("group", "customer", "customer"),
        ("group", None, "group"),
        ("patient", "pupil", "pupil"),
        ("patient", None, "patient"),
    ],
)
def test_a_group_is_called_what_the_data_call_it(splits: Splits, unit: str, word: Any, said: str) -> None:
    config: Any = SimpleNamespace(privacy=SimpleNamespace(unit=unit))
    assert unit_word(config, replace(splits, group_word=word)) == said


def test_attacks_on_classes_say_by_name_that_they_cannot_use_other_records(splits: Splits) -> None:
    parts: Any = SimpleNamespace(
        attacks={
            "membership_loss": LossThreshold(),
            "audit_canaries": CanaryAudit(),
            "class_inversion": ClassInversion(),
        }
    )
    assert check_records(parts, splits) == {}
    several = replace(splits, task=MultiLabel(labels=3))
    left_out = check_records(parts, several)
    assert list(left_out) == ["class_inversion"]
    assert left_out["class_inversion"].endswith("has labels of multi_label")
    with pytest.raises(ConfigError, match=r"attack=class_inversion .*labels of multi_label; leave the"):
        check_records(parts, several, asked=["attack"])
    named = Records({"image": splits.train.inputs, "age": torch.zeros(60)}, splits.train.labels)
    with pytest.raises(ConfigError, match=r"inputs by name \(image, age\)"):
        check_records(parts, replace(splits, train=named), asked=["attack.membership_loss.fail_if"])


def test_the_evaluator_learns_from_public_records_where_there_are_any(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = splits.holdout.take(torch.arange(20))
    asked: list[Records] = []
    take = Records.take
    monkeypatch.setattr(Records, "take", lambda records, at: asked.append(records) or take(records, at))
    train_evaluator(replace(splits, public=public), torch.Generator().manual_seed(1), steps=2)
    assert all(records is public for records in asked)
    assert asked


@pytest.mark.parametrize("name", ["top_k", "temperature", "labels_only"])
def test_forms_of_output_that_are_made_of_classes(splits: Splits, name: str) -> None:
    several = replace(splits, task=MultiLabel(labels=3))
    check_output(Release(output=name), splits)
    check_output(Release(output="rounded"), several)
    with pytest.raises(ConfigError, match=f"release.output={name} is made of the probabilities of classes"):
        check_output(Release(output=name), several)
    with pytest.raises(ConfigError, match=f"release.compare={name} "):
        check_output(Release(compare=(name,)), several)


def test_a_model_of_labels_that_are_no_classes_is_audited(splits: Splits, tmp_path: Path) -> None:
    task = Regression(bounds=(0.0, 9.0))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1))
    model = torch.nn.Sequential(OrderedDict(normalise=torch.nn.Identity(), network=network))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    release, _ = load(tmp_path / "weights.pt", model, torch.device("cpu"), task)
    answers = release.predict(splits.test.inputs)
    assert torch.equal(answers, task.predict(model(splits.test.inputs)).detach())
    labels = task.made_up(len(answers), torch.Generator().manual_seed(1))
    assert torch.equal(odds(release, answers, labels), task.log_likelihood(answers, labels))
