#!/usr/bin/env python3
"""What is each option of training worth? One table by one command: python scripts/ablation.py

    python scripts/ablation.py --only "no averaging" "16 copies" --seeds 1
    python scripts/ablation.py --write README.md

Trains a small CNN on MNIST at epsilon 3, delta 1e-5, by `python -m dptrain`, a process each, once a
seed: as it is, and with one thing changed at a time. The accuracy is that on the 5,000 held-out records, so
that the test records stay unseen. Runs that lie in --output already are read and not made again.
DPTRAIN_DATA names the folder of mnist.npz.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import median

from measured import Run, measure, options, show, spread

BEGIN, END = "<!-- ablation: python scripts/ablation.py -->", "<!-- /ablation -->"
BASE = (
    "recipe=mnist_cnn",
    "privacy.epsilon=3",
    "training.expected_batch_size=2048",
    "performance.physical_batch_size=1024",
    "training.steps=200",
    "training.average_decay=0.95",
    "training.evaluations=1",
)
CHANGES: dict[str, tuple[str, ...]] = {
    "as it is: tanh, batches of 2,048, averaged weights": (),
    "no averaging": ("training.average_decay=0",),
    "averaging over more steps": ("training.average_decay=0.99",),
    "batches of 512": ("training.expected_batch_size=512", "training.steps=800", "optimizer.lr=0.125"),
    "batches of 8,192": ("training.expected_batch_size=8192", "optimizer.lr=1"),
    "linear decay of the learning rate": ("training.schedule=linear", "optimizer.lr=1"),
    "cosine decay of the learning rate": ("training.schedule=cosine", "optimizer.lr=1"),
    "20 steps of warm-up": ("training.warmup_steps=20",),
    "4 copies, moved by up to 2 pixels": ("training.augmentations=4", "training.shift=2"),
    "relu": ("model.activation=relu",),
    "tempered sigmoid [1.58,3,0.71]": ("model.activation=[1.58,3,0.71]",),
    "standardised kernels": ("model.weight_standardisation=true",),
    "no GroupNorm": ("model.groups=0",),
    "scattering and the same head": (
        "model=scatter_cnn",
        "mechanism.max_grad_norm=0.1",
        "optimizer.lr=8",
    ),
    "scattering and a linear head": (
        "model=scatter_linear",
        "mechanism.max_grad_norm=0.1",
        "optimizer.lr=8",
    ),
}
HEADER = ("change", "held-out accuracy [lowest, highest]", "difference", "minutes")


def main(arguments: list[str] | None = None) -> int:
    """Make the table; 2 without data."""
    asked = parse(arguments)
    source = Path(os.environ.get("DPTRAIN_DATA", ".")) / "mnist.npz"
    if not source.exists():
        print(f"{source} is missing; set DPTRAIN_DATA to the folder that holds mnist.npz", file=sys.stderr)
        return 2
    plain, *others = CHANGES
    chosen = [plain, *(name for name in others if not asked.only or name in asked.only)]
    runs = {
        name: measure((*merged(CHANGES[name]), *asked.override), asked.seeds, asked.output) for name in chosen
    }
    show(HEADER, [line(name, runs[name], runs[plain]) for name in chosen], asked.write, BEGIN, END)
    if asked.json:
        print(json.dumps({name: median(run.holdout for run in found) for name, found in runs.items()}))
    return 0


def merged(changes: tuple[str, ...]) -> tuple[str, ...]:
    """The words of the plain recipe, those that a change says otherwise replaced.

    >>> merged(("training.steps=800",))[4]
    'training.average_decay=0.95'
    """
    keys = {word.partition("=")[0] for word in changes}
    return (*(word for word in BASE if word.partition("=")[0] not in keys), *changes)


def line(name: str, runs: list[Run], plain: list[Run]) -> tuple[str, ...]:
    """The cells of one line; the difference is that of the medians, in points."""
    shares = [100 * run.holdout for run in runs]
    difference = median(shares) - median(100 * run.holdout for run in plain)
    return (
        name,
        spread(shares, ".2f"),
        "" if runs is plain else f"{difference:+.2f}",
        f"{median(run.minutes for run in runs):.1f}",
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = options(__doc__ or "", output="runs/ablation")
    parser.add_argument("--only", nargs="*", metavar="CHANGE", help=f"some of: {'; '.join(CHANGES)}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
