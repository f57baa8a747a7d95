#!/usr/bin/env python3
"""Private aggregation beside DP-SGD on small and on tabular data: python scripts/bench_pate.py

    python scripts/bench_pate.py --write README.md

Trains by `python -m dptrain recipe=...`, a process each, without attacks and without a control, once a
seed; medians with the lowest and the highest. Runs that lie in --output already are read and not made again.
DPTRAIN_DATA names a folder of pneumoniamnist.npz and adult.csv.gz.
"""

from __future__ import annotations

from statistics import median

from measured import Run, measure, options, show, spread

BEGIN, END = "<!-- teachers: python scripts/bench_pate.py -->", "<!-- /teachers -->"
HEADER = ("data", "training", "epsilon", "accuracy", "AUROC", "seconds")
EPSILONS = (1.0, 2.0)
BY_TEACHERS = ("mechanism=pate", "model=logistic", "mechanism.public_from_holdout=0.9")
ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("PneumoniaMNIST", ("recipe=medical_pate",)),
    ("PneumoniaMNIST", ("recipe=medical_scatter",)),
    ("Adult", ("recipe=credit_mlp", *BY_TEACHERS)),
    ("Adult", ("recipe=credit_mlp",)),
)


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    asked = options(__doc__ or "", output="runs/teachers").parse_args(arguments)
    lines = []
    for epsilon in EPSILONS:
        for data, training in ROWS:
            words = (*training, f"privacy.epsilon={epsilon:g}", *asked.override)
            lines.append(line(data, training, epsilon, measure(words, asked.seeds, asked.output)))
    show(HEADER, lines, asked.write, BEGIN, END)
    return 0


def line(data: str, training: tuple[str, ...], epsilon: float, runs: list[Run]) -> tuple[str, ...]:
    """The cells of one line."""
    accuracy = f"{spread([100 * run.accuracy for run in runs], '.1f')} %"
    auroc, seconds = spread([run.auroc for run in runs], ".3f"), 60 * median(run.minutes for run in runs)
    return data, f"`{' '.join(training)}`", f"{epsilon:g}", accuracy, auroc, f"{seconds:.0f}"


if __name__ == "__main__":
    raise SystemExit(main())
