#!/usr/bin/env python3
"""Which mechanism, at which epsilon? python scripts/bench_mechanisms.py

    python scripts/bench_mechanisms.py --write README.md --figure .github/assets/mechanisms.svg
    python scripts/bench_mechanisms.py --folder runs/sweep_...    # a sweep that is there already

Carries out `python -m dptrain +sweep=mechanism recipe=medical_scatter` with one attack, and makes a table of
what each mechanism is good for at each epsilon, over the seeds: AUROC on test records, seconds of a training,
what is given away, what is proved of membership tests, and what the strongest of them came to. Needs
pneumoniamnist.npz in DPTRAIN_DATA.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from measured import options, show, spread

BEGIN, END = "<!-- mechanisms: python scripts/bench_mechanisms.py -->", "<!-- /mechanisms -->"
HEADER = (
    "epsilon", "mechanism", "AUROC", "seconds", "gives away", "TPR at 1 % FPR, at most", "membership AUC",
    "its control", "bound",
)  # fmt: skip
SWEEP = ("+sweep=mechanism", "recipe=medical_scatter", "attack=[membership_loss]", "tracking=none")
FIGURE = "figures/what_privacy_costs_in_accuracy.svg"

Report = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 2 where the sweep has no finished run."""
    parser = options(__doc__ or "", output="runs/mechanisms")
    parser.add_argument("--folder", type=Path, help="read this sweep and make none")
    parser.add_argument("--figure", type=Path, metavar="FILE.svg", help="keep the sweep's figure here")
    asked = parser.parse_args(arguments)
    seeds = ",".join(str(1 + seed) for seed in range(asked.seeds))
    folder = asked.folder or sweep((*SWEEP, f"seed={seeds}", *asked.override), asked.output)
    found = by_point(folder)
    if not found:
        print(f"{folder} holds no finished run", file=sys.stderr)
        return 2
    show(HEADER, [line(*point, reports) for point, reports in found.items()], asked.write, BEGIN, END)
    if asked.figure is not None:
        shutil.copyfile(folder / FIGURE, asked.figure)
    return 0


def sweep(words: tuple[str, ...], folder: Path) -> Path:
    """Carry the sweep out; its folder."""
    subprocess.run([sys.executable, "-m", "dptrain", *words, f"output={folder}"], check=True)
    return max(folder.glob("sweep_*"), key=lambda made: made.stat().st_mtime)


def by_point(folder: Path) -> dict[tuple[float, str], list[Report]]:
    """The reports of a sweep by epsilon and mechanism, the best of each epsilon first."""
    found: dict[tuple[float, str], list[Report]] = defaultdict(list)
    for path in sorted(folder.glob("*/report.json")):
        asked = json.loads(path.with_name("run.json").read_text())["overrides"]
        words = {key: value for key, _, value in (word.partition("=") for word in asked)}
        found[float(words["privacy.epsilon"]), words["mechanism"]].append(json.loads(path.read_text()))
    return dict(sorted(found.items(), key=lambda each: (each[0][0], -median(map(auroc, each[1])))))


def auroc(report: Report) -> float:
    """Of the test records."""
    return float(report["utility"]["auroc"])


def line(epsilon: float, mechanism: str, reports: list[Report]) -> tuple[str, ...]:
    """The cells of one line; leakage is that of the run in which it was most."""
    most = max(map(strongest, reports), key=lambda found: found["value"])
    control = "none" if most["control"] is None else f"{most['control']:.3f}"
    return (
        f"{epsilon:g}",
        f"`{mechanism}`",
        spread([auroc(report) for report in reports], ".3f"),
        f"{median(report['seconds']['train'] for report in reports):.0f}",
        str(reports[0]["guarantee"]["interface"]).replace("_", " "),
        f"{100 * max(report['guarantee']['tpr_at_fpr']['0.01'] for report in reports):.2f} %",
        f"{most['value']:.3f} [{most['low']:.3f}, {most['high']:.3f}]",
        control,
        "none" if most["bound"] is None else f"{most['bound']:.3f}",
    )


def strongest(report: Report) -> Report:
    """The membership test with the largest AUC."""
    found = [each for each in report["leakage"] if each["metric"] == "auc"]
    return max(found, key=lambda each: float(each["value"]))


if __name__ == "__main__":
    raise SystemExit(main())
