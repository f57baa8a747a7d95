#!/usr/bin/env python3
"""What does privacy cost whom? Adult, and X-rays with a planted rare subgroup: python scripts/bench_costs.py

Trainings at epsilon 1 and 8 through `python -m dptrain`, each beside its control model. Of the X-rays 3 %
come from scanner B, whose images are negatives, so that they have to be learned from few records; `lot`
divides them as unequally, at random: nothing was planted there. DPTRAIN_DATA names the folder of adult.csv.gz
and pneumoniamnist.npz.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from measured import find, options, start, table

EPSILONS = (1, 8)
RARE = 0.03  # share of scanner B
TEST, VAL = 2000, 500  # records; the published test part is too small for rare subgroups
ADULT = ("recipe=credit_mlp",)
XRAYS = (
    "recipe=medical_cnn",
    "data=npz",
    "data.classes=[normal,pneumonia]",
    "model.channels=[16,32]",
    "training.expected_batch_size=768",
    "training.steps=300",
    "privacy.delta=1e-5",
)
COMMON = ("attack=[]", "tracking=none")


def plant(source: Path, path: Path, rng: np.random.Generator) -> None:
    """Write PneumoniaMNIST, its parts drawn anew, with a rare scanner and a lot that means nothing."""
    with np.load(source) as found:
        images = np.concatenate([found[f"{part}_images"] for part in ("train", "val", "test")])
        labels = np.concatenate([found[f"{part}_labels"] for part in ("train", "val", "test")]).reshape(-1)
    order = rng.permutation(len(labels))
    scanner, lot = (np.where(rng.random(len(labels)) < RARE, "B", "A") for _ in range(2))
    images = np.where((scanner == "B")[:, None, None], 255 - images, images)
    parts = {"test": order[:TEST], "val": order[TEST : TEST + VAL], "train": order[TEST + VAL :]}
    arrays = {f"{part}_images": images[places] for part, places in parts.items()}
    arrays |= {f"{part}_labels": labels[places] for part, places in parts.items()}
    arrays |= {"test_subgroup_scanner": scanner[parts["test"]], "test_subgroup_lot": lot[parts["test"]]}
    np.savez(path, **arrays)


def measure(words: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """The report of the run with these words; one that is in the folder is taken as it is."""
    there = find(words, folder)
    if there is None:
        start(words, folder)
        there = find(words, folder)
    assert there is not None, f"{folder} holds no report of {words}"
    found: dict[str, Any] = json.loads((there / "report.json").read_text())
    return found


def shown(value: dict[str, float] | None) -> str:
    """A number and its interval."""
    return "" if value is None else f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def costs(reports: dict[int, dict[str, Any]]) -> str:
    """A Markdown table: whom, how many, both models, and release minus control beyond all others."""
    rows = []
    for each in zip(*(report["costs"] for report in reports.values()), strict=True):
        first = each[0]
        rows.append(
            (
                first["by"] if first["by"] == "all" else f"{first['by']} {first['name']}",
                f"{first['records']:,}",
                shown(first["control"]),
                *(shown(cost["release"]) for cost in each),
                *(shown(cost["difference"]) for cost in each),
                *(shown(cost["excess"]) for cost in each),
            )
        )
    names = ("release", "release - control", "the same less that of the others")
    heads = (f"{name} @{epsilon}" for name in names for epsilon in reports)
    return table(("", "records", "control", *heads), rows)


def main(arguments: list[str] | None = None) -> int:
    """Run what is not there yet, print the tables; 1 if the planted effect is not found, or another is."""
    asked = options(__doc__ or "", output="bench_costs").parse_args(arguments)
    source = Path(os.environ.get("DPTRAIN_DATA", ".")) / "pneumoniamnist.npz"
    if not source.exists():
        print(f"{source} is missing; set DPTRAIN_DATA to the folder that holds it", file=sys.stderr)
        return 2
    asked.output.mkdir(parents=True, exist_ok=True)
    planted = asked.output.resolve() / "planted.npz"
    if not planted.exists():
        plant(source, planted, np.random.default_rng(0))
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name, words in {"X-rays": (*XRAYS, f"data.path={planted}"), "Adult": ADULT}.items():
        for epsilon in EPSILONS:
            line = (*words, f"privacy.epsilon={epsilon}", *COMMON, *asked.override)
            found.setdefault(name, {})[epsilon] = measure(line, asked.output)
        print(f"\n{name}\n\n{costs(found[name])}")
        for epsilon, report in found[name].items():
            error = report["utility"]["calibration"]["error"]
            balanced = report["utility"]["more"]["balanced_accuracy"]
            print(f"\n@{epsilon}: balanced accuracy {shown(balanced)}, calibration error {shown(error)}")
    if asked.json:
        print(
            json.dumps({name: {eps: each["costs"] for eps, each in by.items()} for name, by in found.items()})
        )
    worse = {
        epsilon: {(c["by"], c["name"]) for c in report["costs"] if c["excess"] and c["excess"]["high"] < 0}
        for epsilon, report in found["X-rays"].items()
    }
    found_all = all(("scanner", "B") in each for each in worse.values())
    return 0 if found_all and not any(by == "lot" for each in worse.values() for by, _ in each) else 1


if __name__ == "__main__":
    sys.exit(main())
