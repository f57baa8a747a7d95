#!/usr/bin/env python3
"""Do the membership attacks see anything? Overfit models on MNIST: python scripts/bench_membership.py

Three non-private trainings on 2,600 records through `python -m dptrain`, in which none, a tenth and 30 %
of the probes have a wrong label, each attacked by the loss threshold, by LiRA and by RMIA with 16
shadow models. DPTRAIN_DATA names the folder of mnist.npz.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

TRAIN, HOLDOUT, TEST = 2600, 1000, 2000
ATTACKS = ("membership_loss", "membership_lira", "membership_rmia")
WRONG = (0.0, 0.1, 0.3)
SETTINGS = (
    "model=mlp",
    "model.widths=[128]",
    "optimizer=adam",
    "mechanism=non_private",
    "tracking=none",
    "training.expected_batch_size=128",
    "training.average_decay=0",
    "training.evaluations=1",
    f"attack=[{','.join(ATTACKS)}]",
)


def subset(source: Path, path: Path, rng: np.random.Generator) -> None:
    """Write some of MNIST, shuffled, as an npz file to train on."""
    with np.load(source) as mnist:
        chosen = rng.permutation(len(mnist["train_labels"]))[: TRAIN + HOLDOUT]
        tested = rng.permutation(len(mnist["test_labels"]))[:TEST]
        parts = {"train": chosen[:TRAIN], "val": chosen[TRAIN:]}
        arrays = {
            f"{part}_{kind}": mnist[f"train_{kind}"][places]
            for part, places in parts.items()
            for kind in ("images", "labels")
        }
        arrays |= {f"test_{kind}": mnist[f"test_{kind}"][tested] for kind in ("images", "labels")}
    np.savez(path, **arrays)


def attack(data: Path, wrong: float, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One training and its attacks, by the command line that any user has; the leakage lines."""
    command = [sys.executable, "-m", "dptrain", *SETTINGS]
    command += [
        "data=npz",
        f"data.path={data}",
        "data.classes=[c0,c1,c2,c3,c4,c5,c6,c7,c8,c9]",
        f"evidence.probes={TRAIN // 3}",
        f"evidence.mislabelled={wrong}",
        f"training.steps={options.steps}",
        f"attack.membership_lira.shadows={options.shadows}",
        f"attack.membership_rmia.shadows={options.shadows}",
        f"seed={options.seed}",
        f"output={folder}",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (report,) = folder.glob("*/report.json")
    lines: list[dict[str, Any]] = json.loads(report.read_text())["leakage"]
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 1 if an attack with shadow models sees no more than the loss threshold."""
    options = parse(arguments)
    source = Path(os.environ.get("DPTRAIN_DATA", ".")) / "mnist.npz"
    if not source.exists():
        print(f"{source} is missing; set DPTRAIN_DATA to the folder that holds mnist.npz", file=sys.stderr)
        return 2
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "mnist_subset.npz"
        subset(source, data, np.random.default_rng(options.seed))
        for wrong in WRONG:
            lines = attack(data, wrong, Path(scratch) / f"runs_{wrong}", options)
            results[f"{wrong:g}"] = table(lines)
            print(f"\n{wrong:.0%} of the labels wrong        AUC [95 %]            TPR at 1 % FPR [95 %]")
            for name in ATTACKS:
                print(f"{name:<24}{shown(lines, name, 'auc')}  {shown(lines, name, 'tpr_at_fpr_0.01')}")
    if options.json:
        print(json.dumps(results))
    return 0 if all(ordered(found) for found in results.values()) else 1


def table(lines: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The measured values, by attack and metric."""
    found: dict[str, dict[str, float]] = {}
    for line in lines:
        found.setdefault(line["attack"], {})[line["metric"]] = line["value"]
    return found


def ordered(found: dict[str, dict[str, float]]) -> bool:
    """Whether both attacks with shadow models see more than the loss threshold."""
    return min(found[name]["auc"] for name in ATTACKS[1:]) > found[ATTACKS[0]]["auc"]


def shown(lines: list[dict[str, Any]], attack: str, metric: str) -> str:
    """A value with its interval, or blanks."""
    for line in lines:
        if (line["attack"], line["metric"]) == (attack, metric):
            return f"{line['value']:.3f} [{line['low']:.3f}, {line['high']:.3f}]"
    return " " * 20


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=800, help="of each training (default 800)")
    parser.add_argument("--shadows", type=int, default=16, help="shadow models (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="of data, coins and weights (default 0)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
