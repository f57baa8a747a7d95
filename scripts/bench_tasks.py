#!/usr/bin/env python3
"""What privacy costs where labels are several, or numbers: python scripts/bench_tasks.py

Two data sets at epsilon 3 (delta 1e-5), private and control model through `python -m dptrain`: pairs of
MNIST's digits side by side, each of ten digits a label that is there or not (the second digit follows on the
first one half of the time, so that labels go together), and the age of the people of the census table Adult,
by the rest. With attacks on single records. DPTRAIN_DATA names the folder of mnist.npz and adult.csv.gz.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from measured import find, options, spread, start, table, write

BEGIN, END = "<!-- tasks: begin -->", "<!-- tasks: end -->"
PAIRS = {"train": 20_000, "test": 5_000}  # of distinct digits
ATTACKS = "reconstruction_weights,membership_loss,membership_rmia,audit_canaries,audit_losses"
BOTH = (
    "privacy.epsilon=3",
    "privacy.delta=1e-5",
    f"attack=[{ATTACKS}]",
    "tracking=none",
    "training.average_decay=0.9",
)
CASES = {
    "multi_label": (
        "data=npz",
        "data.task=multi_label",
        f"data.classes=[{','.join(f'digit{digit}' for digit in range(10))}]",
        "model=scatter_linear",
        "optimizer=sgd",
        "optimizer.lr=2",
        "mechanism.max_grad_norm=0.5",
        "training.expected_batch_size=4096",
        "training.steps=120",
    ),
    "regression": (
        "data=adult_age",
        "model=mlp",
        "optimizer=sgd",
        "optimizer.lr=1",
        "training.expected_batch_size=4096",
        "training.steps=150",
    ),
}


def pairs(source: Path, path: Path) -> None:
    """Write pairs of digits, (N, 28, 56), and which of ten digits each shows, (N, 10)."""
    rng = np.random.default_rng(0)
    arrays = {}
    with np.load(source) as mnist:
        for part, count in PAIRS.items():
            images, digits = mnist[f"{part}_images"], mnist[f"{part}_labels"]
            order = rng.permutation(len(digits))
            first, others = order[:count], order[count:]
            follows = rng.random(count) < 0.5
            waiting = {digit: list(others[digits[others] == digit]) for digit in range(10)}
            second = []
            for digit, next_one in zip(digits[first], follows, strict=True):
                wanted = (int(digit) + 1) % 10 if next_one else int(rng.integers(10))
                here = waiting[wanted] or max(waiting.values(), key=len)
                second.append(here.pop())
            shown = np.eye(10, dtype=np.uint8)[digits[first]] | np.eye(10, dtype=np.uint8)[digits[second]]
            arrays[f"{part}_images"] = np.concatenate([images[first], images[second]], axis=2)
            arrays[f"{part}_labels"] = shown
    np.savez(path, **arrays)


def measure(words: tuple[str, ...], seed: int, folder: Path) -> dict[str, Any]:
    """The report of a run; one that is in the folder is taken as it is."""
    asked = (*words, f"seed={seed}")
    there = find(asked, folder)
    if there is None:
        start(asked, folder)
        there = find(asked, folder)
    if there is None:
        raise SystemExit(f"{folder} holds no report of `python -m dptrain {' '.join(asked)}`")
    report: dict[str, Any] = json.loads((there / "report.json").read_text())
    if report["control"] is None:
        raise SystemExit(f"{there} has no control model to compare with; run it with control.enabled=true")
    return report


def utility(found: dict[str, list[dict[str, Any]]]) -> str:
    """A line a data set: the metric of its task, private and of the control model, over the seeds."""
    rows = []
    for name, reports in found.items():
        mine, control = (
            [report[which]["accuracy"] for report in reports] for which in ("utility", "control")
        )
        cost = [other - own for own, other in zip(mine, control, strict=True)]
        rows.append(
            (
                name,
                reports[0]["utility"]["metric"],
                *(spread(values, ".4f") for values in (mine, control)),
                spread([100 * value for value in cost], ".2f"),
            )
        )
    heads = ("task", "metric", "ε = 3", "control model", "cost in points")
    return table(heads, rows)


def leakage(found: dict[str, list[dict[str, Any]]]) -> str:
    """Each leakage line of the first seed."""

    def shown(line: dict[str, Any]) -> str:
        high = "∞" if line["high"] is None else f"{line['high']:.3f}"
        return f"{line['value']:.3f} [{line['low']:.3f}, {high}]"

    rows = [
        (
            name,
            f"{line['attack']} {line['metric']}",
            shown(line),
            f"{line['floor']:.3f}",
            "none" if line["control"] is None else f"{line['control']:.3f}",
            "none" if line["bound"] is None else f"{line['bound']:.3f}",
            line["verdict"],
        )
        for name, reports in found.items()
        for line in reports[0]["leakage"]
    ]
    return table(("task", "attack", "measured", "baseline", "control", "bound", "verdict"), rows)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 1 if privacy costs more than 3 points of AUROC or of R2."""
    parser = options(__doc__ or "", output="runs/tasks")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), help="of these tasks")
    asked = parser.parse_args(arguments)
    folder = Path(os.environ.get("DPTRAIN_DATA", "."))
    source = folder / "mnist.npz"
    if "multi_label" in asked.cases and not source.exists():
        print(f"{source} is missing; set DPTRAIN_DATA to the folder that holds mnist.npz", file=sys.stderr)
        return 2
    asked.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for name in asked.cases:
        words = (*CASES[name], *BOTH, *asked.override)
        if name == "multi_label":
            data = asked.output / "mnist_pairs.npz"
            if not data.exists():
                pairs(source, data)
            words = (*words, f"data.path={data}")
        found[name] = [measure(words, seed, asked.output) for seed in range(asked.seeds)]
    text = f"{utility(found)}\n\n{leakage(found)}"
    print(text)
    if asked.write:
        write(text, asked.write, BEGIN, END)
    if asked.json:
        print(json.dumps({name: [report["utility"] for report in each] for name, each in found.items()}))
    costs = [
        report["control"]["accuracy"] - report["utility"]["accuracy"]
        for each in found.values()
        for report in each
    ]
    return 0 if max(costs) <= 0.03 else 1


if __name__ == "__main__":
    sys.exit(main())
