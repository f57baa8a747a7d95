"""How many numbers of noise a training adds is known before it begins: as many as its statement says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support import QUICK, order

from dptrain.cli import main as cli
from dptrain.privacy.noise.cost import MOST_DRAWS, draws_of
from dptrain.report.document import read_json
from dptrain.runs import folder as runs

pytestmark = pytest.mark.run

HEAD = ("mechanism.feature_norm=10", "model=scatter_linear", "model.components=40")
TEACHERS = ("model=logistic", "mechanism.teachers=30", "privacy.epsilon=8")
ASKED = {
    "dpsgd": (),
    "dpsgd, banded": ("mechanism=banded", "mechanism.bands=2", "training.expected_batch_size=100"),
    "preconditioned": ("mechanism=preconditioned", *HEAD),
    "sufficient_statistics": ("mechanism=sufficient_statistics", *HEAD),
    "output_perturbation": ("mechanism=output_perturbation", *HEAD),
    "objective_perturbation": ("mechanism=objective_perturbation", *HEAD),
    "private_prediction": ("mechanism=private_prediction", "mechanism.answers=100", *TEACHERS),
    "pate": (
        "mechanism=pate",
        "mechanism.questions=40",
        "mechanism.student_steps=5",
        "data.holdout_fraction=0.35",
        "mechanism.public_from_holdout=0.7",
        *TEACHERS,
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_as_many_are_counted_before_a_training_as_it_adds(name: str, tmp_path: Path) -> None:
    words = (*ASKED[name], *QUICK, "attack=[]", "control.enabled=false", "tracking=none")
    asked = order(*words, "sweep.max_epsilon=20", f"output={tmp_path}")
    cli.main(replace(asked, sweep=True), tmp_path / "sweep_a")
    (report,) = tmp_path.glob(f"**/{runs.REPORT}")
    drawn = read_json(report)["guarantee"]["randomness"]["draws"]
    assert drawn > 0
    assert runs.read_state(report.parent).begun["draws"] == drawn
    assert read_json(report)["guarantee"]["sweep"]["draws"] == drawn


def test_a_mechanism_that_does_not_say_may_draw_the_most(mlp, splits, make_plan_of) -> None:
    assert draws_of(object(), mlp, splits, make_plan_of()) == MOST_DRAWS
    assert draws_of(object(), mlp, splits, None) == 0
