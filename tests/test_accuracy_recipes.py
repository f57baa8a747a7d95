"""The recipes whose data may not be at hand, on stand-ins of the same shape: composed, trained, released."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from support import order

from dptrain.assembly.components import assemble
from dptrain.assembly.model import make_model
from dptrain.cli import main as cli
from dptrain.config import parse
from dptrain.contracts import Budget, Streams
from dptrain.models.frozen import split

pytestmark = pytest.mark.e2e

RECIPES = (
    "mnist_scatter", "mnist_preconditioned", "fashion_scatter", "fashion_preconditioned", "cifar10_scatter",
    "cifar10_wrn", "cifar10_pretrained",
    "medical_scatter", "medical_pretrained",
)  # fmt: skip
SHAPES = {"mnist": (28, 28), "cifar10": (32, 32, 3), "pneumoniamnist": (28, 28)}
FEWER = ("model.patches=20", "model.components=50")  # of those that take a minute to find
NARROW = ("model.depth=10", "model.width=1")
COARSE = ("model.size=32",)
SMALL = {
    "mnist_preconditioned": ("model.components=50",), "cifar10_scatter": FEWER, "fashion_scatter": FEWER,
    "fashion_preconditioned": FEWER, "cifar10_wrn": NARROW,
    "cifar10_pretrained": COARSE, "medical_pretrained": COARSE,
}  # fmt: skip
FEW = ("data.records=200", "data.holdout=40")
SMALLER = ("attack=[]", "control.enabled=false", "tracking=none", "training.evaluations=1", *FEW)


def stand_in(name: str, folder: Path) -> None:
    """Noise in the shape and under the names of a data set."""
    rng = np.random.default_rng(0)
    parts = {"train": 200, "test": 40} | ({"val": 40} if name == "pneumoniamnist" else {})
    arrays = {}
    for part, count in parts.items():
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, *SHAPES[name]), dtype=np.uint8)
        labels = np.arange(count) % (2 if name == "pneumoniamnist" else 10)
        arrays[f"{part}_labels"] = labels.reshape(-1, 1) if name == "pneumoniamnist" else labels
    np.savez(folder / f"{name}.npz", **arrays)


def idx_files(folder: Path) -> None:
    """Noise in the files of Fashion-MNIST."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 200), ("t10k", 40)):
        sizes = [count.to_bytes(4, "big"), *[(28).to_bytes(4, "big")] * 2]
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8).tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(bytes([0, 0, 8, 3]) + b"".join(sizes) + images)
        )
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(bytes([0, 0, 8, 1]) + sizes[0] + labels)
        )


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_opens_with_its_command_and_fits_on_a_screen(recipe: str) -> None:
    text = (Path(__file__).parents[1] / "recipes" / f"{recipe}.yaml").read_text()
    lines = text.splitlines()
    assert lines[0].startswith(f"# python -m dptrain recipe={recipe}")
    assert lines[1].startswith("# ")
    assert len(lines) <= 36


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_promises_what_it_says(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each composes at delta 1e-5 with Poisson sampling, and its model takes the data's images."""
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path))
    for name in SHAPES:
        stand_in(name, tmp_path)
    idx_files(tmp_path)
    small = [
        "training.expected_batch_size=20",
        *(() if recipe.startswith("medical") else FEW),
        *SMALL.get(recipe, ()),
    ]
    root = ["data.root=" + str(tmp_path)] if recipe.startswith("fashion_") else []
    config = parse(order(*small, *root, recipe=recipe).config)
    assert config.privacy.delta == 1e-5
    assert config.training.sampling == "poisson"
    parts = assemble(config)
    splits = parts.source.load(torch.Generator().manual_seed(0))
    model = make_model(config, parts.mechanism, splits, Streams(0, True))
    assert (split(model) is None) == (recipe == "cifar10_wrn")
    budget = Budget(epsilon=config.privacy.epsilon, delta=1e-5)
    assert parts.mechanism.plan(splits, budget).steps == config.training.steps


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("cifar10_scatter", ("training.expected_batch_size=40", "training.steps=3", *FEWER)),
        ("cifar10_pretrained", ("training.expected_batch_size=40", "training.steps=3", *COARSE)),
        (
            "cifar10_wrn",
            (
                "training.expected_batch_size=4", "training.steps=2", "training.augmentations=2",
                "performance.physical_batch_size=8", *NARROW,
            ),
        ),
    ],
)  # fmt: skip
def test_cifar10_trains_for_a_few_steps(
    recipe: str, words: tuple[str, ...], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path))
    stand_in("cifar10", tmp_path)
    cli.main(order(*words, *SMALLER, f"output={tmp_path}/runs", recipe=recipe), None)
    (weights,) = tmp_path.glob("runs/*/weights.pt")
    assert all(torch.isfinite(value).all() for value in torch.load(weights).values())
