"""Attribute inference where the label is a number: what the model says of it tells the hidden column."""

from __future__ import annotations

import torch

from dptrain.attacks.attribute_inference import AttributeInference, losses
from dptrain.contracts import Records, Release, Sensitive, Targets
from dptrain.tasks import Regression


def test_a_model_of_numbers_gives_a_column_away() -> None:
    rng = torch.Generator().manual_seed(1)
    task = Regression(bounds=(0.0, 10.0))
    column = Sensitive(name="sex", columns=(0, 1), values=torch.eye(2), names=("f", "m"))
    held = torch.randint(2, (400,), generator=rng)
    other = torch.rand(400, generator=rng)
    inputs = torch.cat([torch.eye(2)[held], other[:, None]], 1)
    # Nothing but a model that knows each record could tell: the sign of the deviation is drawn anew for each.
    sign = torch.randint(2, (400,), generator=rng) * 2.0 - 1.0
    labels = 5 + 3 * sign * (2.0 * held - 1)
    known = {round(float(key), 6): float(each) for key, each in zip(other, sign, strict=True)}

    def predictions(asked: torch.Tensor) -> torch.Tensor:
        signs = torch.tensor([known[round(float(key), 6)] for key in asked[:, 2]])
        return (5 + 3 * signs * (asked[:, 1] - asked[:, 0]))[:, None]

    release = Release(predictions=predictions, task=task)
    records = Records(inputs, labels)
    subjects = records.take(torch.arange(200, 400))
    targets = Targets(
        classes=("age",), shape=(3,), bounds=(0.0, 1.0), mean=(0.5, 0.5, 0.5),
        background=records.take(torch.arange(200)), sensitive=(column,),
        subjects={"sex": Records(column.hide(subjects.inputs), subjects.labels)},
    )  # fmt: skip
    found = AttributeInference().run(release, targets, rng)
    assert float((found.guesses["sex"] == held[200:]).double().mean()) > 0.95
    assert float((found.imputed["sex"] == held[200:]).double().mean()) < 0.7


def test_a_value_that_makes_errors_large_is_less_likely() -> None:
    """Though of large errors alone each is as likely as of small ones."""
    errors = torch.randn(500, generator=torch.Generator().manual_seed(0))
    release = Release(
        predictions=lambda inputs: 50 + 10 * inputs, task=(task := Regression(bounds=(0.0, 100.0)))
    )
    column = Sensitive(name="s", columns=(0,), values=torch.tensor([[0.0], [1.0]]), names=("0", "1"))
    found = losses(release.queries(), column, Records(torch.zeros(500, 1), 50 + errors), task)
    assert found.shape == (500, 2)
    assert float((found.argmin(1) == 0).float().mean()) > 0.99
