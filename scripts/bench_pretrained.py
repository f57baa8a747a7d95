#!/usr/bin/env python3
"""What is it worth to start from pre-trained features? python scripts/bench_pretrained.py

    python scripts/bench_pretrained.py --rows cifar10_pretrained@1
    python scripts/bench_pretrained.py --override model.weights=/path/to/weights.safetensors

Trains by `python -m dptrain recipe=...`, a process each, without attacks and without a control, once a
seed; medians with the lowest and the highest. Runs that lie in --output already are read and not made again,
and features of a backbone are made by the first run alone. DPTRAIN_DATA names a folder of cifar10.npz and
pneumoniamnist.npz; rows whose data are missing are left out, and named.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from measured import Run, measure, options, show, spread

BEGIN, END = "<!-- pretrained: python scripts/bench_pretrained.py -->", "<!-- /pretrained -->"
CIFAR, XRAYS = "CIFAR-10", "PneumoniaMNIST"
FILES = {CIFAR: "cifar10.npz", XRAYS: "pneumoniamnist.npz"}
EPSILONS = (0.3, 1.0, 3.0)
PARTS = ("norm", "last_block", "all")  # of a backbone; all but the head's features are made at each step
# By name: the data, and what the command line is asked for besides the epsilon.
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cifar10_pretrained@1": (CIFAR, ("recipe=cifar10_pretrained", "privacy.epsilon=1")),
    **{
        f"{name}@{epsilon:g}": (XRAYS, (*words, f"privacy.epsilon={epsilon:g}"))
        for name, words in {
            "medical_pretrained": ("recipe=medical_pretrained",),
            "medical_pretrained, pooled alone": ("recipe=medical_pretrained", "model.features=pooled"),
            "medical_scatter": ("recipe=medical_scatter",),
            "medical_cnn": ("recipe=medical_cnn", "data=pneumoniamnist", "privacy.delta=1e-5"),
            **{
                f"medical_pretrained, {part}": (
                    "recipe=medical_pretrained",
                    "model.features=pooled",
                    "model.normalise_features=false",
                    f"model.trainable={part}",
                    "performance.physical_batch_size=32",
                )
                for part in PARTS
            },
        }.items()
        for epsilon in EPSILONS
    },
}
HEADER = ("data, recipe", "epsilon", "accuracy", "AUROC", "minutes of training: first run, others")


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 2 where the data of every row that was asked for are missing."""
    parser = options(__doc__ or "", output="runs/pretrained")
    parser.add_argument("--rows", nargs="*", metavar="NAME[@EPSILON]", help="these rows only")
    asked = parser.parse_args(arguments)
    folder = Path(os.environ.get("DPTRAIN_DATA", "."))
    lines = []
    for name, (data, words) in ROWS.items():
        if asked.rows and not {name, name.partition("@")[0]} & set(asked.rows):
            continue
        if not (folder / FILES[data]).exists():
            print(f"left out: {name}, for there is no {FILES[data]} in DPTRAIN_DATA", file=sys.stderr)
            continue
        lines.append(line(data, name, measure((*words, *asked.override), asked.seeds, asked.output)))
    if not lines:
        return 2
    show(HEADER, lines, asked.write, BEGIN, END)
    return 0


def line(data: str, name: str, runs: list[Run]) -> tuple[str, ...]:
    """The cells of one line."""
    recipe, _, epsilon = name.partition("@")
    minutes = sorted((run.minutes for run in runs), reverse=True)
    return (
        f"{data}, {recipe}",
        epsilon,
        f"{spread([100 * run.accuracy for run in runs], '.2f')} %",
        spread([run.auroc for run in runs], ".3f"),
        ", ".join(f"{one:.1f}" for one in minutes),
    )


if __name__ == "__main__":
    raise SystemExit(main())
