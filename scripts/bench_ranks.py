#!/usr/bin/env python3
"""How long a private step takes by two processes: python scripts/bench_ranks.py [WORDS ...]

Steps of a recipe on blank records, by one process with one thread, by one with two, and by two with one each,
in turn, several rounds; medians over all steps of the rounds, and their ratios to the first. WORDS are those
of the command line, by default `recipe=medical_cnn`. Run it on two idle cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from contextlib import nullcontext, suppress
from dataclasses import replace

import torch
from hydra import compose, initialize_config_dir
from measured import table

from dptrain.assembly.components import assemble
from dptrain.cli.files import folder
from dptrain.cli.hydra import plain, register
from dptrain.config import parse
from dptrain.contracts import Ranks as RanksOf
from dptrain.pipeline.experiment import Experiment
from dptrain.report.console import Console
from dptrain.training.estimate import blank
from dptrain.training.processes import Ranks

WAYS = {
    "1 process, 1 thread": (1, 1),
    "1 process, 2 threads": (1, 2),
    "2 processes, 1 thread each": (2, 1),
}


class Enough(Exception):
    """As many steps as are timed have been taken."""


def prepare(words: list[str]) -> Experiment:
    """The experiment that such words of the command line ask for, without attacks."""
    register()
    with initialize_config_dir(str(folder("conf")), version_base="1.3"):
        asked = [*words, "attack=[]", "tracking=none"]
        config = parse(plain(compose("config", overrides=asked), asked))
    return Experiment.assemble(config, assemble(config), Console(), played={})


def steps(experiment: Experiment, ranks: RanksOf | None, *, count: int) -> list[float]:
    """Seconds of so many steps after the first."""
    ends: list[float] = []

    def progress(*, done: int, **_: object) -> None:
        if done:
            ends.append(time.perf_counter())
        if len(ends) > count:
            raise Enough

    mechanism, plan = experiment.parts.mechanism, experiment.plan
    splits = blank(experiment.splits, plan.units)
    context = replace(experiment.context, progress=progress, ranks=ranks)
    with suppress(Enough):
        mechanism.trial(  # type: ignore[attr-defined]
            experiment.model, splits, experiment.budget, context,
            plan=plan, batch=plan.expected_batch_size, audit=False,
        )  # fmt: skip
    return [after - before for before, after in itertools.pairwise(ends)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", default=["recipe=medical_cnn"])
    parser.add_argument("--steps", type=int, default=8, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    asked = parser.parse_args()
    experiment = prepare(asked.words)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    torch.set_num_threads(1)
    with Ranks(2, seconds=300, threads=1) as ranks:
        for _ in range(asked.rounds):
            for way, (processes, threads) in WAYS.items():
                torch.set_num_threads(threads)
                with nullcontext(ranks if processes > 1 else None) as together:
                    found[way] += steps(experiment, together, count=asked.steps)
    medians = {way: statistics.median(seconds) for way, seconds in found.items()}
    first = next(iter(medians.values()))
    rows = [(way, f"{1000 * each:.0f}", f"{each / first:.2f}") for way, each in medians.items()]
    print(table(("computed by", "ms a step", "ratio"), rows))
    if asked.json:
        print(json.dumps(medians))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
