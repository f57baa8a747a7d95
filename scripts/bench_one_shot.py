#!/usr/bin/env python3
"""How good are heads from one noisy release, beside DP-SGD's? python scripts/bench_one_shot.py

    python scripts/bench_one_shot.py --rows MNIST@0.3 --write README.md
    python scripts/bench_one_shot.py --records 546 --write README.md

Trains by `python -m dptrain recipe=...`, a process each, without attacks and without a control, once a
seed; medians with the lowest and the highest, and the median seconds of a training, whose features the first
run has made. With --records PneumoniaMNIST is cut to so many training records, drawn at random with classes
in their shares, once for all seeds; its held-out part stays whole. Runs that lie in --output already are read
and not made again. DPTRAIN_DATA names a folder of mnist.npz, pneumoniamnist.npz and adult.csv.gz; --fashion
one of Fashion-MNIST's idx files. Rows whose data are missing are left out, and named.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from statistics import median

import numpy as np
from measured import Run, measure, options, show, spread

BEGIN, END = "<!-- one shot: python scripts/bench_one_shot.py -->", "<!-- /one shot -->"
BEGIN_FEW, END_FEW = (
    "<!-- few records: python scripts/bench_one_shot.py --records 546 -->",
    "<!-- /few records -->",
)
DEBIAN = "/usr/share/datasets/fashion-mnist"
EPSILONS = (0.1, 0.3, 1.0, 3.0)
# By data: the file in DPTRAIN_DATA (None: the folder of --fashion), the metric, the recipes.
DATA: dict[str, tuple[str | None, str, tuple[str, ...]]] = {
    "MNIST": (
        "mnist.npz",
        "accuracy",
        (
            "mnist_statistics",
            "mnist_output_perturbation",
            "mnist_objective_perturbation",
            "mnist_scatter",
        ),
    ),
    "Fashion-MNIST": (None, "accuracy", ("fashion_statistics", "fashion_scatter")),
    "PneumoniaMNIST": (
        "pneumoniamnist.npz",
        "AUROC",
        (
            "medical_statistics",
            "medical_output_perturbation",
            "medical_objective_perturbation",
            "medical_scatter",
        ),
    ),
    "Adult": ("adult.csv.gz", "AUROC", ("credit_objective_perturbation", "credit_mlp")),
}
HEADER = ("data, recipe", "epsilon", "metric", "measured [lowest, highest]", "seconds")


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 2 where the data of every row that was asked for are missing."""
    parser = options(__doc__ or "", output="runs/one_shot")
    parser.add_argument("--rows", nargs="*", metavar="NAME[@EPSILON]", help="these data or recipes only")
    parser.add_argument("--fashion", type=Path, default=Path(DEBIAN), help=f"idx files (default {DEBIAN})")
    parser.add_argument("--records", type=int, help="PneumoniaMNIST alone, with so many training records")
    asked = parser.parse_args(arguments)
    lines = []
    for data, (file, metric, recipes) in DATA.items():
        for recipe, epsilon in ((recipe, epsilon) for epsilon in EPSILONS for recipe in recipes):
            names = {f"{name}{at}" for name in (data, recipe) for at in ("", f"@{epsilon:g}")}
            if (asked.rows and not names & set(asked.rows)) or (asked.records and data != "PneumoniaMNIST"):
                continue
            root, folder = where(file, asked.fashion), asked.output
            if root is None:
                print(f"left out: {recipe}@{epsilon:g}, for its data are missing", file=sys.stderr)
                continue
            words = (f"recipe={recipe}", f"privacy.epsilon={epsilon:g}", *root, *asked.override)
            if asked.records:
                folder = asked.output / f"{asked.records}_records"
                words = (*words, f"data.root={cut(asked.records, folder)}")
                if recipe.endswith("_scatter"):  # whose batch would be more than there are
                    words = (*words, f"training.expected_batch_size={asked.records}")
            lines.append(line(data, recipe, epsilon, metric, measure(words, asked.seeds, folder)))
    if not lines:
        return 2
    show(HEADER, lines, asked.write, *((BEGIN_FEW, END_FEW) if asked.records else (BEGIN, END)))
    return 0


def cut(records: int, folder: Path) -> Path:
    """A folder of PneumoniaMNIST with so many of its training records, of each class its share."""
    arrays = dict(np.load(Path(os.environ.get("DPTRAIN_DATA", ".")) / "pneumoniamnist.npz"))
    labels, rng = arrays["train_labels"].ravel(), np.random.default_rng(0)
    ill = rng.permutation(np.flatnonzero(labels == 1))[: round(records * float(labels.mean()))]
    healthy = rng.permutation(np.flatnonzero(labels == 0))[: records - len(ill)]
    kept = rng.permutation(np.concatenate([ill, healthy]))
    for kind in ("images", "labels"):
        arrays[f"train_{kind}"] = arrays[f"train_{kind}"][kept]
    made = folder / "data"
    made.mkdir(parents=True, exist_ok=True)
    np.savez(made / "pneumoniamnist.npz", **arrays)
    return made


def where(file: str | None, fashion: Path) -> tuple[str, ...] | None:
    """The words that say where data are; None where they are missing."""
    if file is None:
        return (f"data.root={fashion}",) if (fashion / "train-images-idx3-ubyte.gz").exists() else None
    return () if (Path(os.environ.get("DPTRAIN_DATA", ".")) / file).exists() else None


def line(data: str, recipe: str, epsilon: float, metric: str, runs: list[Run]) -> tuple[str, ...]:
    """The cells of one line."""
    values = [run.auroc if metric == "AUROC" else 100 * run.accuracy for run in runs]
    shown = spread(values, ".3f") if metric == "AUROC" else f"{spread(values, '.2f')} %"
    seconds = f"{60 * median(run.minutes for run in runs):.0f}"
    return f"{data}, `{recipe}`", f"{epsilon:g}", metric, shown, seconds


if __name__ == "__main__":
    raise SystemExit(main())
