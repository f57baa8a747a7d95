#!/usr/bin/env python3
"""How accurate are private models? Every recipe with a published figure: python scripts/bench_accuracy.py

    python scripts/bench_accuracy.py --rows mnist_scatter medical_scatter@1
    python scripts/bench_accuracy.py --write README.md
    python scripts/bench_accuracy.py --recipes cifar10_wrn --seeds 1

Trains by `python -m dptrain recipe=...`, a process each, without attacks and without a control, once a
seed; the median counts. Runs that lie in --output already are read and not made again. Data: DPTRAIN_DATA
names a folder of mnist.npz, pneumoniamnist.npz and cifar10.npz; --fashion one of Fashion-MNIST's idx files,
such as those of Debian's package dataset-fashion-mnist. Rows whose data are missing are left out, and named;
so is cifar10_wrn, which takes a GPU, where it is not asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from measured import Run, measure, options, show, spread

BEGIN, END = "<!-- accuracy: python scripts/bench_accuracy.py -->", "<!-- /accuracy -->"
DEBIAN = "/usr/share/datasets/fashion-mnist"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a recipe at an epsilon, and what was published before."""

    data: str
    recipe: str
    epsilon: float
    metric: str  # accuracy | auroc
    published: str
    file: str | None  # in DPTRAIN_DATA; None: the folder of --fashion
    words: tuple[str, ...] = ()  # what else the run is asked for
    takes: str | None = None  # what it takes to make this row, which is made where it is asked for by name

    @property
    def name(self) -> str:
        return f"{self.recipe}@{self.epsilon:g}"


ROWS = (
    Row(
        data="MNIST",
        recipe="mnist_scatter",
        epsilon=3,
        metric="accuracy",
        published="98.7 % @3 (scattering, Tramèr and Boneh 2021)",
        file="mnist.npz",
    ),
    Row(
        data="MNIST",
        recipe="mnist_preconditioned",
        epsilon=3,
        metric="accuracy",
        published="98.7 % @3 (scattering, Tramèr and Boneh 2021)",
        file="mnist.npz",
    ),
    Row(
        data="MNIST",
        recipe="mnist_pate",
        epsilon=2,
        metric="accuracy",
        published="98.5 % @1.97, data-dependent (Papernot et al. 2018)",
        file="mnist.npz",
    ),
    *(
        Row(
            data="Fashion-MNIST",
            recipe=recipe,
            epsilon=2.7,
            metric="accuracy",
            published="89.7 % @3 (scattering, Tramèr and Boneh 2021)",
            file=None,
        )
        for recipe in ("fashion_scatter", "fashion_preconditioned")
    ),
    Row(
        data="CIFAR-10",
        recipe="cifar10_scatter",
        epsilon=3,
        metric="accuracy",
        published="69.3 % @3 (scattering, Tramèr and Boneh 2021)",
        file="cifar10.npz",
    ),
    *(
        Row(
            data="PneumoniaMNIST",
            recipe=recipe,
            epsilon=epsilon,
            metric="auroc",
            published="AUROC .944 without privacy (ResNet-18, MedMNIST v2)",
            file="pneumoniamnist.npz",
        )
        for recipe in ("medical_scatter", "medical_objective_perturbation")
        for epsilon in (3, 1)
    ),
    Row(
        data="CIFAR-10",
        recipe="cifar10_wrn",
        epsilon=2,
        metric="accuracy",
        published="64.9 % @2 (WRN-16-4, De et al. 2022)",
        file="cifar10.npz",
        words=("training.steps=1125", "device=cuda"),
        takes="a GPU",
    ),
)
HEADER = ("data, recipe", "epsilon", "measured [lowest, highest]", "published", "minutes", "memory")


def main(arguments: list[str] | None = None) -> int:
    """Make the table; 2 where the data of every row that was asked for are missing."""
    asked = parse(arguments)
    lines, results = [], {}
    for row in ROWS:
        if asked.rows and not {row.recipe, row.name} & set(asked.rows):
            continue
        if row.takes and not asked.rows:
            print(f"left out: {row.name}, which takes {row.takes}; --rows {row.recipe}", file=sys.stderr)
            continue
        root = data_of(row, asked)
        if root is None:
            where = f"{row.file} in DPTRAIN_DATA" if row.file else f"idx files in {asked.fashion}"
            print(f"left out: {row.name}, for there are no {where}", file=sys.stderr)
            continue
        words = (f"recipe={row.recipe}", f"privacy.epsilon={row.epsilon:g}", *row.words)
        words += (*root, *asked.override)
        runs = measure(words, asked.seeds, asked.output)
        lines.append(line(row, runs))
        results[row.name] = {row.metric: median(value(row, run) for run in runs), "runs": len(runs)}
    if not lines:
        return 2
    show(HEADER, lines, asked.write, BEGIN, END)
    if asked.json:
        print(json.dumps(results))
    return 0


def data_of(row: Row, asked: argparse.Namespace) -> tuple[str, ...] | None:
    """The words that say where the row's data are; None where they are missing."""
    if row.file is None:
        there = (asked.fashion / "train-images-idx3-ubyte.gz").exists()
        return (f"data.root={asked.fashion}",) if there else None
    folder = Path(os.environ.get("DPTRAIN_DATA", "."))
    return () if (folder / row.file).exists() else None


def value(row: Row, run: Run) -> float:
    """The row's own figure of a run."""
    return run.auroc if row.metric == "auroc" else run.accuracy


def line(row: Row, runs: list[Run]) -> tuple[str, ...]:
    """The cells of one line."""
    values = [value(row, run) for run in runs]
    if row.metric == "auroc":
        shown = f"AUROC {spread(values, '.3f')}"
    else:
        shown = f"{spread([100 * one for one in values], '.2f')} %"
    peaks = [run.peak_gib for run in runs if run.peak_gib is not None]
    return (
        f"{row.data}, `{row.recipe}`",
        f"{max(run.epsilon for run in runs):.2f}",
        shown,
        row.published,
        f"{median(run.minutes for run in runs):.1f}",
        f"{max(peaks):.1f} GiB" if peaks else "not measured",
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = options(__doc__ or "", output="runs/accuracy")
    parser.add_argument("--rows", "--recipes", nargs="*", metavar="RECIPE[@EPSILON]", help="these rows only")
    parser.add_argument("--fashion", type=Path, default=Path(DEBIAN), help=f"idx files (default {DEBIAN})")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
