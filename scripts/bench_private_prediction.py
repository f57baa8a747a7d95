#!/usr/bin/env python3
"""Until how many queries is private prediction ahead of DP-SGD? python scripts/bench_private_prediction.py

    python scripts/bench_private_prediction.py --write README.md

Teachers on scattering features of MNIST vote on its test records; by the number of answers that a budget is
for, noise is drawn and the accuracy of an answer measured. Three seeds, each with a partition of its own;
medians with the lowest and the highest. DP-SGD's line is `python -m dptrain recipe=mnist_scatter` at the same
epsilon, whose model may be asked for ever; runs that lie in --output already are read and not made again. The
break-even is where the medians cross. DPTRAIN_DATA names the folder of mnist.npz.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch
from measured import measure, options, show, spread
from torch import Tensor

from dptrain.api import _order
from dptrain.assembly.components import assemble
from dptrain.assembly.model import make_model
from dptrain.assembly.records import load_splits
from dptrain.assembly.values import make_context, make_streams
from dptrain.config import parse
from dptrain.contracts import Budget
from dptrain.evidence.break_even import break_even
from dptrain.mechanisms.private_prediction import PrivatePrediction
from dptrain.training.ensemble import Ensemble
from dptrain.training.seen import Seen
from dptrain.training.teachers import parts_of

BEGIN, END = (
    "<!-- private prediction: python scripts/bench_private_prediction.py -->",
    "<!-- /private prediction -->",
)
EPSILONS, DELTA = (1.0, 3.0, 8.0), 1e-5
ANSWERS = (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
RECIPE = "mnist_scatter"


def main(arguments: list[str] | None = None) -> int:
    """Print the table, and where the lines cross."""
    parser = options(__doc__ or "", output="runs/private_prediction")
    parser.add_argument("--teachers", type=int, default=250)
    asked = parser.parse_args(arguments)
    lines = []
    voted = [votes(seed, asked.teachers, asked.override) for seed in range(asked.seeds)]
    for epsilon in EPSILONS:
        words = (f"recipe={RECIPE}", f"privacy.epsilon={epsilon:g}", *asked.override)
        flat = [100 * run.accuracy for run in measure(words, asked.seeds, asked.output)]
        found = {
            answers: [
                accuracy(mechanism, counts, labels, epsilon, answers) for mechanism, counts, labels in voted
            ]
            for answers in ANSWERS
        }
        even = break_even({answers: median(each) for answers, each in found.items()}, median(flat))
        cells = (f"{spread(found[answers], '.1f')}" for answers in ANSWERS)
        lines.append((f"{epsilon:g}", *cells, f"{spread(flat, '.2f')}", even))
    header = ("epsilon", *(f"{answers:,}" for answers in ANSWERS), "DP-SGD", "break-even")
    show(header, lines, asked.write, BEGIN, END)
    return 0


def votes(seed: int, teachers: int, overrides: Sequence[str]) -> tuple[PrivatePrediction, Tensor, Tensor]:
    """The mechanism, counts of its teachers' votes on the test records, without noise, and their labels."""
    words = [f"seed={seed}", "mechanism=private_prediction", f"mechanism.teachers={teachers}", *overrides]
    config = parse(_order(RECIPE, words, None).config)
    mechanism, context = assemble(config).mechanism, make_context(config)
    assert isinstance(mechanism, PrivatePrediction)
    splits = load_splits(assemble(config).source, make_streams(config))
    model = make_model(config, None, splits, context.streams).to(context.device, context.dtype).eval()
    seen = Seen.of_model(model, context)
    ensemble = Ensemble.of(
        seen.of(splits.train),
        parts_of(splits.train, None, teachers, context.streams.secret("teachers")),
        teachers=teachers,
        classes=splits.num_classes,
        ridge=mechanism.ridge,
    )
    print(f"seed {seed}: {teachers} teachers have voted", file=sys.stderr, flush=True)
    return mechanism, ensemble.counts(seen.of(splits.test).inputs), splits.test.labels


def accuracy(
    mechanism: PrivatePrediction, counts: Tensor, labels: Tensor, epsilon: float, answers: int
) -> float:
    """Of an answer, in per cent, where the budget is for so many."""
    budget = Budget(epsilon=epsilon, delta=DELTA)
    plan = replace(mechanism, answers=answers).plan_of(budget, units=len(labels), classes=counts.shape[1])
    assert plan is not None
    noise = torch.randn(counts.shape, dtype=torch.float64) * plan.noise_std
    return 100 * float(((counts + noise).argmax(1) == labels).double().mean())


if __name__ == "__main__":
    raise SystemExit(main())
