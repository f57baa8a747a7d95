"""A run that goes on finds everything as it was, or names what is changed and trains nothing."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support import QUICK, order

from dptrain.cli import main as cli
from dptrain.config import parse
from dptrain.contracts import Records, Splits
from dptrain.runs import binding
from dptrain.runs import folder as runs
from dptrain.training import checkpoint

pytestmark = pytest.mark.run

PARTS = {
    "own_net.py": "from torch import nn\n\nclass Net(nn.Sequential):\n"
    "    def __init__(self, shape, num_classes):\n"
    "        super().__init__(nn.Flatten(), nn.Linear(36, 32), nn.Tanh(), nn.Linear(32, num_classes))\n",
    "own_step.py": "import torch\n\nclass Step(torch.optim.SGD):\n"
    "    def __init__(self, params, lr=0.5):\n        super().__init__(params, lr=lr)\n",
    "own_data.py": "from dptrain.data.npz import Npz\n\nclass Data(Npz):\n    '''Ours.'''\n",
    "conf/model/mine.yaml": "_target_: own_net.Net\n",
    "conf/optimizer/own.yaml": "_target_: own_step.Step\n_partial_: true\n",
}
WORDS = (
    *QUICK, "training.steps=6", "training.expected_batch_size=40", "performance.checkpoint_seconds=0",
    "tracking=none", "attack=[]", "control.enabled=false", "data=npz", "data._target_=own_data.Data",
    "data.classes=[a,b]", "model=mine", "optimizer=own", "privacy.unit=patient",
)  # fmt: skip


def make_data(path: Path, shift: int = 0, other: str = "") -> None:
    """Records of all parts, of which one array may have an entry that is another."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 2
    images = (rng.random((240, 6, 6)) * 100 + labels[:, None, None] * 100).astype(np.uint8)
    arrays = {"train_images": images, "train_labels": labels, "train_groups": np.arange(240) // 2 + shift}
    for number, part in enumerate(("val", "test", "public")):
        arrays[f"{part}_images"] = np.roll(images, number + 1, axis=2)[60 * number : 60 * number + 60].copy()
        arrays[f"{part}_labels"] = labels[:60].copy()
        if part != "public":
            arrays[f"{part}_groups"] = 10_000 * (number + 1) + np.arange(60) // 2
    arrays["test_subgroup_scanner"] = np.array(["old", "new"] * 30)
    if other == "test_subgroup_scanner":
        arrays[other] = arrays[other][::-1].copy()
    elif other:
        arrays[other][7] = arrays[other][8] if other.endswith("labels") else 1 + arrays[other][7]
    np.savez(path, **arrays)


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run of the user's own parts that was interrupted in its fourth step."""
    for name, text in PARTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    make_data(tmp_path / "data.npz")
    monkeypatch.syspath_prepend(str(tmp_path))
    # What is kept of a module is taken for its source where both are of one second and of one length.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    pay = checkpoint.pay

    def interrupted(folder: Path, *, steps: int, epsilon: float) -> None:
        if steps == 4:
            raise KeyboardInterrupt
        pay(folder, steps=steps, epsilon=epsilon)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "pay", interrupted)
        asked = (*WORDS, f"data.path={tmp_path}/data.npz", f"output={tmp_path}/runs")
        with pytest.raises(SystemExit) as caught:
            cli.main(order(*asked, config_dir=tmp_path / "conf"), None)
        assert caught.value.code == 130
    forget()
    (written,) = (tmp_path / "runs").glob(f"*/{checkpoint.CHECKPOINT}")
    yield written.parent
    forget()


def forget() -> None:
    """Let the user's modules be imported anew, as another process does."""
    for name in ("own_net", "own_step", "own_data"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def replaced(name: str, before: str, after: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    return change


def edited(folder: Path) -> None:
    (path,) = (folder / "runs").glob(f"*/{runs.ORDER}")
    told = json.loads(path.read_text())
    told["config"]["optimizer"]["lr"] = 0.25
    path.write_text(json.dumps(told))


def other_library(folder: Path) -> None:
    (path,) = (folder / "runs").glob(f"*/{runs.ORDER}")
    told = json.loads(path.read_text())
    told["begun_with"]["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(told))


OTHERS = {
    "val_images": "records (held-out)",
    "val_labels": "records (held-out)",
    "val_groups": "records (held-out)",
    "test_images": "records (test)",
    "test_labels": "records (test)",
    "test_subgroup_scanner": "records (test)",
    "public_images": "records (public)",
    "public_labels": "records (public)",
}


def test_unchanged_it_goes_on(stopped: Path) -> None:
    cli.main(order(f"resume={stopped}"), None)
    assert (stopped / runs.REPORT).exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (replaced("own_net.py", "Tanh", "ReLU"), "model code (own_net)"),
        (replaced("own_net.py", "32", "33"), "model (network.1.bias, network.1.weight"),
        (replaced("own_step.py", "lr=0.5", "lr=0.4"), "optimizer code (own_step)"),
        (replaced("own_data.py", "Ours", "Theirs"), "data code (own_data)"),
        (lambda folder: make_data(folder / "data.npz", shift=1000), "group ids"),
        *(
            (partial(lambda other, folder: make_data(folder / "data.npz", other=other), other), named)
            for other, named in OTHERS.items()
        ),
        (edited, "configuration (optimizer)"),
        (other_library, "versions (torch)"),
    ],
    ids=["activation", "width", "optimizer code", "data code", "groups", *OTHERS, "arguments", "library"],
)
def test_what_is_changed_is_named(
    stopped: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    named: str,
) -> None:
    change(tmp_path)
    before = (stopped / checkpoint.CHECKPOINT).read_bytes()
    with pytest.raises(SystemExit) as caught:
        cli.main(order(f"resume={stopped}"), None)
    assert caught.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "changed since it was begun" in said
    assert named in said
    assert (stopped / checkpoint.CHECKPOINT).read_bytes() == before, "nothing is trained, nothing lost"
    assert checkpoint.paid(stopped) == 3


def test_a_folder_that_does_not_tell_its_records_is_refused(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads((stopped / runs.ORDER).read_text())
    del told["begun_with"]["records"]
    (stopped / runs.ORDER).write_text(json.dumps(told))
    with pytest.raises(SystemExit) as caught:
        cli.main(order(f"resume={stopped}"), None)
    assert caught.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "an earlier version of dptrain began it" in said
    assert "held-out, test and public records" in said
    assert checkpoint.paid(stopped) == 3


def test_what_is_remembered_of_records_takes_the_secret_of_the_folder_to_tell() -> None:
    """Without it, a digest would confirm a record to whoever knows the others."""
    rng = torch.Generator().manual_seed(0)
    part = Records(torch.rand(6, 1, 4, 4, generator=rng), torch.arange(6) % 2)
    splits = Splits(
        name="ours", source="drawn", train=part, holdout=part, test=part, classes=("a", "b"),
        bounds=(0.0, 1.0), mean=(0.5,), std=(0.5,),
    )  # fmt: skip
    config = parse(order(*QUICK).config)
    one, again, other = (
        binding.begun_with(torch.nn.Linear(1, 1), config, splits, salt * 32)["records"] for salt in "001"
    )
    assert one == again
    assert set(one) == {"held-out", "test", "public"}
    assert all(one[name] != other[name] for name in one)
