"""Runs of the command line, measured and kept: what scripts make tables of."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

# Utility alone: planted records, probes and canaries would cost some of it, attacks and a twin much time.
ALONE = ("attack=[]", "control.enabled=false", "tracking=none")
PEAK = "peak_memory.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run came to. `peak_gib` is that of the whole process; None where nobody looked."""

    accuracy: float
    auroc: float
    holdout: float  # accuracy on held-out records, at the last step
    epsilon: float
    delta: float
    noise_multiplier: float | None  # None: a mechanism that has none
    minutes: float  # of the training
    peak_gib: float | None


def measure(words: tuple[str, ...], seeds: int, folder: Path) -> list[Run]:
    """One run a seed of `python -m dptrain` with these words; runs in the folder are taken as they are."""
    made = []
    for seed in range(seeds):
        asked = (*words, f"seed={seed}", *ALONE)
        there = find(asked, folder)
        if there is None:
            start(asked, folder)
            there = find(asked, folder)
        if there is None:
            raise SystemExit(f"{folder} holds no report of `python -m dptrain {' '.join(asked)}`")
        made.append(read(there))
    return made


def find(words: tuple[str, ...], folder: Path) -> Path | None:
    """The finished run in this folder that was asked for by the very same words, in any order."""
    for path in sorted(folder.glob("*/run.json")):
        overrides = {word for word in json.loads(path.read_text())["overrides"] if not _elsewhere(word)}
        if overrides == {word for word in words if not _elsewhere(word)} and _report(path.parent).exists():
            return path.parent
    return None


def _elsewhere(word: str) -> bool:
    """Whether a word says where things lie, or how fast something is computed, and not what."""
    return word.startswith(("output=", "data.root=", "performance."))


def _report(folder: Path) -> Path:
    return folder / "report.json"


def start(words: tuple[str, ...], folder: Path) -> None:
    """Carry the command out in a process of its own, and keep the most memory that it held beside its run."""
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "dptrain", *words, f"output={folder}"]
    print(" ".join(["python", *command[1:]]), file=sys.stderr, flush=True)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    for made in set(folder.iterdir()) - before:
        if _report(made).exists():
            (made / PEAK).write_text(json.dumps({"gib": used.ru_maxrss / 2**20}))  # Linux counts in KiB


def read(folder: Path) -> Run:
    """What this run came to, from its report."""
    report: dict[str, Any] = json.loads(_report(folder).read_text())
    peak = folder / PEAK
    return Run(
        accuracy=report["utility"]["accuracy"],
        auroc=report["utility"]["auroc"],
        holdout=report["holdout_by_step"][-1][1],
        epsilon=report["guarantee"]["epsilon"],
        delta=report["guarantee"]["delta"],
        noise_multiplier=report["guarantee"]["noise_multiplier"],
        minutes=report["seconds"]["train"] / 60,
        peak_gib=json.loads(peak.read_text())["gib"] if peak.exists() else None,
    )


def spread(values: list[float], form: str) -> str:
    """The median, and in brackets the lowest and the highest.

    >>> spread([0.5, 0.25, 1.0], ".2f")
    '0.50 [0.25, 1.00]'
    """
    return f"{median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def options(doc: str, *, output: str) -> argparse.ArgumentParser:
    """The options of a script that makes a table of runs; `doc` is its docstring."""
    parser = argparse.ArgumentParser(
        description=doc.partition("\n")[0],
        epilog=doc.partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs a line (default 3)")
    parser.add_argument("--output", type=Path, default=Path(output), help="where runs are kept")
    parser.add_argument("--override", nargs="*", default=[], metavar="KEY=VALUE", help="for every run")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between its markers there")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    return parser


def show(
    header: tuple[str, ...], rows: list[tuple[str, ...]], path: Path | None, begin: str, end: str
) -> None:
    """Print a table, and put it between two markers of a file, where one is given."""
    text = table(header, rows)
    print(text)
    if path is not None:
        write(text, path, begin, end)


def write(text: str, path: Path, begin: str, end: str) -> None:
    """Put a table between two markers of a file."""
    before, begins, rest = path.read_text().partition(begin)
    _, ends, after = rest.partition(end)
    if not (begins and ends):
        raise SystemExit(f"{path} has no lines {begin} and {end} to write between")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")
