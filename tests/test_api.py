"""The Python API does what the command line does, with objects of one's own, and in a notebook."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from support import QUICK
from torch import nn

import dptrain

pytestmark = pytest.mark.e2e

LITTLE = (*QUICK, "tracking=none", "control.enabled=false", "attack=[]")


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dptrain.ReportView:
    output = tmp_path_factory.mktemp("api")
    words = (*QUICK, "tracking=none", "attack=[membership_loss]", "performance.threads=1")
    return dptrain.run("quickstart", *words, privacy={"epsilon": 5.0}, output=output)


def test_a_recipe_is_trained_as_the_command_line_trains_it(trained: dptrain.ReportView) -> None:
    document = json.loads((trained.folder / "report.json").read_text())
    assert trained.guarantee.epsilon == document["guarantee"]["epsilon"] <= 5.0
    assert trained.utility.accuracy.value == document["utility"]["accuracy"]
    table = trained.leakage
    assert list(table.metric) == [line["metric"] for line in document["leakage"]]
    assert list(table.value) == pytest.approx([line["value"] for line in document["leakage"]])
    assert list(table.low) == pytest.approx([line["low"] for line in document["leakage"]])
    assert document["reproduce"].startswith("python -m dptrain recipe=quickstart ")
    assert "privacy.epsilon=5.0" in document["reproduce"]
    page = trained._repr_html_()
    assert page.startswith("<iframe srcdoc=")
    assert "&quot;" in page


def test_a_model_is_audited_and_runs_are_compared(trained: dptrain.ReportView, tmp_path: Path) -> None:
    again = dptrain.audit(trained.folder, "attack=[membership_loss]", "tracking=none", output=tmp_path)
    assert list(again.leakage.metric) == list(trained.leakage.metric)
    assert list(again.leakage.value) == pytest.approx(list(trained.leakage.value))
    found = dptrain.compare(trained.folder)
    assert list(found.points.epsilon) == [trained.guarantee.epsilon]
    assert "Comparison" in found._repr_html_()


def test_ones_own_network_and_records_take_the_recipes_place(splits, tmp_path: Path) -> None:
    network = net()
    before = [parameter.clone() for parameter in network.parameters()]
    found = dptrain.run(
        "quickstart", *LITTLE, "training.expected_batch_size=20", model=network, data=splits,
        privacy={"epsilon": None, "noise_multiplier": 2.0, "delta": None}, output=tmp_path,
    )  # fmt: skip
    assert found.document.data["name"] == "squares"
    assert found.guarantee.hashes is not None
    assert found.guarantee.hashes.model == "torch.nn.modules.container.Sequential"
    assert math.isfinite(found.guarantee.epsilon)
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))
    weights = torch.load(found.folder / "weights.pt", weights_only=True)
    assert set(weights) >= {"network.1.weight", "network.3.bias"}


def test_what_is_wrong_is_raised_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(dptrain.ConfigError, match=r"privacy\.epsilon=-1"):
        dptrain.run("quickstart", *LITTLE, privacy={"epsilon": -1}, output=tmp_path / "runs")
    with pytest.raises(dptrain.ConfigError, match=r"dptrain\.audit"):
        dptrain.run("quickstart", *LITTLE, "task=audit", "release.source=x", output=tmp_path / "runs")
    with pytest.raises(dptrain.ConfigError, match="is no run folder"):
        dptrain.audit(tmp_path / "nothing", output=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_the_package_says_what_is_public_and_imports_nothing_for_it() -> None:
    assert {"run", "audit", "compare", "Splits", "Mechanism"} <= set(dptrain.__all__)
    assert all(hasattr(dptrain, name) for name in dptrain.__all__)


def test_type_checkers_read_the_names_that_there_are() -> None:
    tree = ast.parse(Path(dptrain.__file__).read_text())
    named = {
        alias.asname: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert named == dptrain._PUBLIC
    assert (Path(dptrain.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        dptrain.nothing  # noqa: B018
    code = "import sys, dptrain; print('torch' in sys.modules, 'hydra' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


@pytest.mark.filterwarnings("ignore")  # of the kernel's own sockets
def test_it_runs_in_a_fresh_kernel_of_a_notebook(tmp_path: Path) -> None:
    words = ", ".join(repr(word) for word in LITTLE)
    cells = [
        "import dptrain\nfrom torch import nn",
        "class Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 10))",
        f"report = dptrain.run('quickstart', {words}, model=Net(), privacy={{'epsilon': 2}}, output='runs')",
        "report",
        "report.leakage",
        "print(report.guarantee.epsilon <= 2)",
    ]
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.outputs]
    assert any("srcdoc" in str(output.get("data", {}).get("text/html", "")) for output in shown)
    assert "True" in str(notebook.cells[-1].outputs)


def test_the_readmes_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    code = text.partition("## From Python")[2].partition("```python\n")[2].partition("```")[0]
    run, audit = dptrain.run, dptrain.audit
    monkeypatch.setattr(
        dptrain,
        "run",
        lambda recipe, *words: run(recipe, *LITTLE[:-1], "attack=[membership_loss]", *words),
        raising=False,
    )
    monkeypatch.setattr(
        dptrain, "audit", lambda name, *words: audit(name, "tracking=none", *words), raising=False
    )
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["report"].guarantee.epsilon <= 3.0
    assert list(found["again"].leakage.metric) == list(found["report"].leakage.metric)
