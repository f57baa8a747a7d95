#!/usr/bin/env python3
"""What does it cost to start? CPU seconds and peak memory: python scripts/bench_start.py

Of `--help`, of `--cfg job`, of PyTorch's import alone, and of the quickstart until it says what it is about
to do: by then it has read its records, made and checked its model, found its noise and timed a step. CPU
seconds are those of the whole process, medians of several; other processes at work make them larger.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from statistics import median
from tempfile import TemporaryDirectory

QUICKSTART = """
import os
from dptrain.__main__ import run
from dptrain.report.console import Console
Console.briefing = lambda *_: os._exit(0)
run()
"""
STARTS = {
    "--help": ("-m", "dptrain", "--help"),
    "--cfg job": ("-m", "dptrain", "--cfg", "job"),
    "import torch": ("-c", "import torch"),
    "quickstart": ("-c", QUICKSTART),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure each start; the last line is JSON where that was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="processes a start (default 5)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(arguments)
    found = {}
    print(f"{'':14} CPU s   MiB")
    for name, words in STARTS.items():
        measured = [start(words) for _ in range(options.repeats)]
        seconds, mib = (median(each) for each in zip(*measured, strict=True))
        found[name] = {"cpu_seconds": seconds, "mib": mib}
        print(f"{name:14} {seconds:5.2f} {mib:5.0f}", flush=True)
    if options.json:
        print(json.dumps(found))
    return 0


def start(words: tuple[str, ...]) -> tuple[float, float]:
    """CPU seconds and largest memory (MiB) of a process of Python's with these words."""
    with TemporaryDirectory() as folder:
        process = subprocess.Popen([sys.executable, *words], cwd=folder, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10  # Linux counts in KiB


if __name__ == "__main__":
    sys.exit(main())
