#!/usr/bin/env python3
"""Memory and time of a model that is divided among processes: python scripts/bench_sharding.py

A perceptron of 50 million parameters takes private steps on made-up records: in one process, and divided
among two (performance.sharding=fsdp2). Peak memory of each process, as the system counts it: of the whole
call, in which the first process tries the model out before and after, and while steps are taken; seconds a
step. Each way runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from measured import table
from torch import nn

from dptrain.contracts import Budget, Context, Records, Splits, Streams
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.tracking.null import NullRun
from dptrain.training.processes import Ranks
from dptrain.training.settings import Rates, Settings

WIDTHS = (784, 4096, 4096, 4096, 3200, 10)  # 49.9 million parameters
MIB = 2**10  # kB, in which the system counts


def network() -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def made_up(records: int) -> Splits:
    def part(count: int) -> Records:
        return Records(torch.rand(count, 1, 28, 28), torch.arange(count) % 10)

    return Splits(
        name="made up", source="drawn for a benchmark", train=part(records), holdout=part(10), test=part(10),
        classes=tuple("0123456789"), bounds=(0.0, 1.0), mean=(0.5,), std=(0.5,),
    )  # fmt: skip


def peak(pid: int | str = "self", kind: str = "VmHWM") -> float:
    """Memory of a process in MiB: the most that it had (VmHWM), or has (VmRSS)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) / MIB for line in lines if line.startswith(kind))


def measure(processes: int, steps: int) -> dict[str, object]:
    """Peak memory of each process of one training, and the median seconds of its steps."""
    torch.set_num_threads(1)
    ends: list[float] = []
    training = [0.0]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.01):
            training[0] = max(training[0], peak(kind="VmRSS"))

    def progress(*, done: int, total: int, **_: object) -> None:
        if done == 0:
            threading.Thread(target=sample, daemon=True).start()
        else:
            ends.append(time.perf_counter())
        if done == total:
            over.set()

    settings = Settings(
        rates=Rates(expected_batch_size=64, steps=steps), optimizer=partial(torch.optim.Adam, lr=1e-4),
        physical_batch_size=64, schedule="constant", warmup_steps=0, average_decay=0.0, evaluations=1,
        checkpoint_seconds=1e9, diagnostics=False,
    )  # fmt: skip
    context = Context(
        streams=Streams(seed=0), tracker=NullRun(), device=torch.device("cpu"), progress=progress
    )
    budget = Budget(epsilon=None, delta=1e-5, noise_multiplier=1.0)
    mechanism = DPSGD(settings=settings, audit_sensitivity=False)
    peaks = []
    if processes == 1:
        mechanism.fit(network(), made_up(2000), budget, context)
    else:
        with Ranks(processes, seconds=300, threads=1, sharded=True) as ranks:
            mechanism.fit(network(), made_up(2000), budget, replace(context, ranks=ranks))
            peaks = [peak(process.pid) for process in ranks._started]
    seconds = [after - before for before, after in pairwise(ends)]
    return {
        "peaks": [peak(), *peaks],
        "training": [training[0], *peaks],
        "seconds": statistics.median(seconds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--of", type=int, help="measure this many processes, and print JSON")
    asked = parser.parse_args()
    if asked.of is not None:
        print(json.dumps(measure(asked.of, asked.steps)))
        return 0
    found = []
    for count in (1, asked.processes):
        words = [sys.executable, __file__, "--of", str(count), "--steps", str(asked.steps)]
        printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        found.append(json.loads(printed.splitlines()[-1]))
    alone = found[0]
    rows = []
    for each, count in zip(found, (1, asked.processes), strict=True):
        for rank, (most, training) in enumerate(zip(each["peaks"], each["training"], strict=True)):
            rows.append(
                (
                    f"{count} process{'es' if count > 1 else ''}, rank {rank}",
                    f"{most:,.0f}",
                    f"{most / alone['peaks'][0]:.2f}",
                    f"{training:,.0f}",
                    f"{training / alone['training'][0]:.2f}",
                    f"{each['seconds']:.2f}" if rank == 0 else "",
                )
            )
    print(table(("", "peak MiB", "of one", "in steps", "of one", "seconds a step"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
