#!/usr/bin/env python3
"""Does a training get better by correlated noise? python scripts/bench_banded.py

    python scripts/bench_banded.py --write README.md
    python scripts/bench_banded.py --epsilons 8 --seeds 1 --override training.steps=100

Trains the CNN of recipe=mnist_cnn with independent noise, with banded noise and cyclic sampling, and with
banded noise and no sampling, the same seeds for all: accuracy on test records, and by how much it is above
that of independent noise with the same seed. Runs that lie in --output already are read and not made again.
Needs mnist.npz in DPTRAIN_DATA.
"""

from __future__ import annotations

from statistics import median

from measured import Run, measure, options, show, spread

from dptrain.evidence.repeats import paired

BEGIN, END = "<!-- banded trainings: python scripts/bench_banded.py -->", "<!-- /banded trainings -->"
HEADER = ("epsilon", "noise", "accuracy", "above DP-SGD's, paired [95 %]", "minutes")
FIRST = "DP-SGD"
KINDS = {
    FIRST: ("mechanism=dpsgd",),
    "cyclic": ("mechanism=banded",),
    "unsampled": ("mechanism=banded", "training.sampling=shuffle"),
}


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = options(__doc__ or "", output="runs/banded")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[3.0, 8.0])
    asked = parser.parse_args(arguments)
    lines = []
    for epsilon in asked.epsilons:
        words = ("recipe=mnist_cnn", f"privacy.epsilon={epsilon:g}", *asked.override)
        found = {kind: measure((*words, *more), asked.seeds, asked.output) for kind, more in KINDS.items()}
        lines += [line(epsilon, kind, runs, found[FIRST]) for kind, runs in found.items()]
    show(HEADER, lines, asked.write, BEGIN, END)
    return 0


def line(epsilon: float, kind: str, runs: list[Run], others: list[Run]) -> tuple[str, ...]:
    """The cells of one line."""
    above = "" if kind == FIRST else difference(others, runs)
    return (
        f"{epsilon:g}",
        kind,
        f"{spread([100 * run.accuracy for run in runs], '.2f')} %",
        above,
        f"{median(run.minutes for run in runs):.1f}",
    )


def difference(before: list[Run], after: list[Run]) -> str:
    """In percentage points, with its interval over seeds."""
    first, second = ({seed: 100 * run.accuracy for seed, run in enumerate(runs)} for runs in (before, after))
    found = paired(first, second, 0.95).difference
    if found.interval is None:
        return f"{found.median:+.2f}"
    return f"{found.interval.value:+.2f} [{found.interval.low:+.2f}, {found.interval.high:+.2f}]"


if __name__ == "__main__":
    raise SystemExit(main())
