"""One output of several: its per-record gradients, and a run with it from training to audit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import QUICK, order
from torch import Tensor, nn

from dptrain.cli import main as cli
from dptrain.models.one_output import OneOutput
from dptrain.privacy.clipping import MARGIN, MARGIN_A_RECORD
from dptrain.privacy.dpsgd import ENGINES, DPSGDEngine
from dptrain.report.document import read_json

pytestmark = pytest.mark.run

record_loss = partial(nn.functional.cross_entropy, reduction="none")


class Several(nn.Module):
    """Logits by name, beside an output of a layer that the loss does not use."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh())
        self.head, self.other = nn.Linear(8, num_classes), nn.Linear(8, 2)

    def forward(self, inputs: Tensor) -> dict[str, Any]:
        found = self.body(inputs)
        return {"other": self.other(found), "logits": self.head(found)}


@pytest.mark.parametrize("kind", ENGINES)
def test_clipped_sums_are_those_of_a_loop_over_records(kind: str, splits, make_plan_of) -> None:
    torch.manual_seed(0)
    model = OneOutput(Several(), "logits")
    inputs, labels = splits.train.inputs[:12], splits.train.labels[:12]
    used = [*model.network.body.parameters(), *model.network.head.parameters()]
    rows = []
    for one, label in zip(inputs, labels, strict=True):
        grads = torch.autograd.grad(record_loss(model(one[None]), label[None]).sum(), used)
        rows.append(torch.cat([each.flatten() for each in grads]))
    lengths = torch.stack(rows).norm(dim=1)
    limit = float(lengths.median())
    kept = limit * (1 - MARGIN - 10 * MARGIN_A_RECORD)  # of a plan that expects ten records
    expected = torch.stack(rows) * (kept / lengths).clamp(max=1.0)[:, None]
    engine = DPSGDEngine(
        kind,
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        make_plan_of(max_grad_norm=limit),
        loss=record_loss,
        generator=torch.Generator(),
    )
    engine.accumulate(inputs, labels)
    found = torch.cat([each.summed_grad.to(each.dtype).flatten() for each in used])
    torch.testing.assert_close(found, expected.sum(0), rtol=1e-4, atol=1e-4)
    others = (each.summed_grad for each in model.network.other.parameters())
    assert all(each is None or not each.any() for each in others)


def test_a_run_with_it_is_trained_cached_served_and_audited(tmp_path: Path) -> None:
    shared = (f"output={tmp_path}/runs", "attack=[membership_loss]")
    own = ("model=own", "model._target_=test_one_output.Several", "model._output_=logits")
    tracked = (f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",)
    cli.main(order(*shared, *own, *tracked, *QUICK, "evidence.probes=60"), None)
    (trained,) = (tmp_path / "runs").glob("*/report.json")
    document = read_json(trained)
    assert document["leakage"][0]["control"] is not None
    assert document["guarantee"]["hashes"]["model"] == "test_one_output.Several"
    cli.main(order(*shared, "tracking=none", "task=audit", f"release={trained.parent}"), None)
    (again,) = set((tmp_path / "runs").glob("*/report.json")) - {trained}
    assert read_json(again)["leakage"][0]["value"] == document["leakage"][0]["value"]
