"""The model that is handed on: no more than is released of its predictions, under names, with a verdict."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import leakage, statement
from torch import nn

from dptrain.contracts import ConfigError, Records, Release, Splits, Task
from dptrain.evidence.verdict import ABOVE, BROKEN
from dptrain.models.output import NAMES, make_output
from dptrain.pipeline.serve import normal_inputs
from dptrain.pipeline.served import Answers, column_names, image_form, verdict
from dptrain.tasks import Classification, MultiLabel, NextToken, Regression


@pytest.mark.parametrize("name", NAMES)
def test_a_service_answers_what_the_prediction_interface_of_the_release_does(
    name: str, splits: Splits, mlp: nn.Module
) -> None:
    output = make_output(name, top_k=2, digits=1, temperature=4.0)
    release = Release(
        weights=mlp.state_dict(), architecture=partial(copy.deepcopy, mlp), output=output, task=splits.task
    )
    answers = Answers(release.build(), Classification(classes=3), output)
    inputs = splits.test.inputs
    torch.testing.assert_close(answers(inputs), release.predict(inputs))
    graph = torch.export.export(answers, (inputs[:2],), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.testing.assert_close(graph.module()(inputs), release.predict(inputs))
    torch.testing.assert_close(graph.module()(inputs[:1]), release.predict(inputs[:1]))


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (Classification(classes=3), ("a", "b", "c")),
        (MultiLabel(labels=3), ("a", "b", "c")),
        (Regression(bounds=(0.0, 9.0)), ("value",)),
        (NextToken(vocabulary=3, length=4), ()),
    ],
)
def test_predictions_are_named_where_they_are_rows(task: Task, names: tuple[str, ...]) -> None:
    assert column_names(task, ("a", "b", "c")) == names


def test_inputs_are_images_by_their_shape(splits: Splits) -> None:
    raw = image_form(splits)
    assert raw is not None
    assert raw.settings == {"shape": [1, 8, 8], "bounds": [0.0, 1.0], "declared": None, "clip": True}
    table = Records(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
    assert image_form(replace(splits, train=table)) is None


@pytest.mark.parametrize(
    ("epsilon", "void", "seen", "met", "found"),
    [
        (3.0, None, None, False, "passed"),
        (3.0, None, None, True, "failed"),
        (3.0, None, BROKEN, False, None),
        (3.0, None, ABOVE, False, "failed"),
        (3.0, "noise from the seed", None, False, "unproved"),
        (math.inf, None, None, False, "unproved"),
        (math.inf, None, None, True, "failed"),
    ],
)
def test_only_what_is_proved_and_not_broken_has_passed(
    epsilon: float, void: str | None, seen: str | None, met: bool, found: str | None
) -> None:
    lines = leakage(0.6, 0.02, 0.4, 1.0)
    if seen:
        lines = (replace(lines[0], verdict=seen), *lines[1:])
    report: Any = SimpleNamespace(leakage=lines, guarantee=statement(epsilon, void_reason=void))
    condition: Any = SimpleNamespace(met=lambda _: iter(["accuracy=0.5 < 0.8"] if met else []))
    assert verdict(report, [condition]) == found


def test_normal_inputs_are_read_from_a_file(splits: Splits, tmp_path: Path) -> None:
    inputs = splits.test.inputs
    np.savez(tmp_path / "some.npz", inputs=inputs.numpy().astype(">f8"))
    found = normal_inputs(str(tmp_path / "some.npz"), splits)
    torch.testing.assert_close(found, inputs.reshape(len(inputs), -1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.01, 1.01, 1e300])
def test_normal_inputs_are_finite_and_in_bounds(splits: Splits, tmp_path: Path, value: float) -> None:
    inputs = splits.test.inputs.double().numpy()
    inputs[1, 0, 2, 3] = value
    np.savez(tmp_path / "odd.npz", inputs=inputs)
    with pytest.raises(ConfigError, match=r"serve.calibration=.*odd.npz holds .* not within 0 to 1"):
        normal_inputs(str(tmp_path / "odd.npz"), splits)


@pytest.mark.parametrize("kind", ["npy", "half", "empty", "text", "other names", "none", "folder"])
def test_a_file_without_normal_inputs_is_refused(splits: Splits, tmp_path: Path, kind: str) -> None:
    inputs = splits.test.inputs.numpy()
    written = io.BytesIO()
    if kind == "npy":
        np.save(written, inputs)
    elif kind in ("half", "other names", "none"):
        held = {"rows" if kind == "other names" else "inputs": inputs[:0] if kind == "none" else inputs}
        np.savez(written, **held)
    content = b"text" if kind == "text" else written.getvalue()
    path = tmp_path / "file.npz"
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(content[: len(content) // 2] if kind == "half" else content)
    with pytest.raises(ConfigError, match=r"serve.calibration=.*file.npz (cannot be read|holds no inputs)"):
        normal_inputs(str(path), splits)
