#!/usr/bin/env python3
"""Correlated noise held against what is planned, and against JAX-Privacy.

    python scripts/check_banded.py --write README.md         # errors of sums, of the code's own noise
    python scripts/check_banded.py --oracle VENV/bin/python  # epsilon and strategies by jax-privacy 2.0

Errors are of sums of the first t noisy sums of gradients, root mean squared over t and over coordinates, in
max_grad_norm. The noise is made by the very code that adds it in a training; encoded by the strategy again it
must be independent and as large as declared (chi-square).
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measured import show
from scipy.signal import lfilter
from scipy.stats import chi2

from dptrain.contracts import Budget
from dptrain.privacy.banded import BandedPlan, make_banded_plan
from dptrain.privacy.noise.banded import BandedNoise
from dptrain.privacy.noise.gaussian import grid_step
from dptrain.privacy.plan import Rates

DELTA, UNITS = 1e-5, 60_000
RATES = Rates(expected_batch_size=500, epochs=10)
SUMS = (
    ("DP-SGD", 1, "poisson"),
    ("cyclic", 4, "poisson"),
    ("cyclic", 16, "poisson"),
    ("cyclic", 64, "poisson"),
    ("unsampled", 120, "shuffle"),
)
BEGIN, END = "<!-- banded: python scripts/check_banded.py -->", "<!-- /banded -->"
HEADER = (
    "epsilon", "noise", "noise multiplier", "error planned", "measured", "p of its size", "p of covariances",
)  # fmt: skip
ALARM = 1e-4  # a p-value below this is no accident
CLOSE = 0.01  # relative, of epsilon by another accountant

ORACLE = """
import json, sys
import dp_accounting
from dp_accounting.pld import PLDAccountant
from jax_privacy.experimental import accounting
from jax_privacy.matrix_factorization import toeplitz
found = []
for each in json.load(sys.stdin):
    steps, groups = each["steps"], each["groups"]
    event = accounting.amplified_bandmf_event(
        each["noise"], steps, num_bands=groups, sampling_prob=each["rate"])
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    epsilon = PLDAccountant(relation).compose(event).get_epsilon(each["delta"])
    best = toeplitz.optimize_banded_toeplitz(steps, each["bands"])
    both = best, toeplitz.jnp.asarray(each["strategy"])
    error, ours = (float(toeplitz.loss(c, steps)) ** 0.5 for c in both)
    found.append({"epsilon": float(epsilon), "best": error, "ours": ours})
print(json.dumps(found))
"""


def plans(epsilon: float) -> Iterator[tuple[str, BandedPlan]]:
    """Plans of the same epsilon; that of DP-SGD is the one with a single band."""
    budget = Budget(epsilon=epsilon, delta=DELTA)
    for name, bands, sampling in SUMS:
        rates = replace(RATES, sampling=sampling)
        plan = make_banded_plan(budget, rates, UNITS, max_grad_norm=1.0, clipping="flat", bands=bands)
        yield f"{name}, {bands} band{'s' if bands > 1 else ''}", plan


def measured(plan: BandedPlan, coordinates: int) -> tuple[float, float, float]:
    """The error of sums of the noise that is added, and two p-values: of its size, and of covariances."""
    source = BandedNoise(secrets.token_bytes(32), strategy=plan.strategy)
    zero = [torch.zeros(coordinates, dtype=torch.float64)]
    noise = torch.stack([source.add(zero, plan.noise_std)[0] for _ in range(plan.steps)]).numpy()
    error = float(np.sqrt((np.cumsum(noise, axis=0) ** 2).mean()))
    encoded = lfilter(plan.strategy, [1.0], noise, axis=0) / plan.noise_std
    step = (
        grid_step(plan.fresh_std) * plan.strategy[0] / plan.noise_std
    )  # of the grid; it rounds what is drawn
    size = chi2.cdf((encoded**2).sum() / (1 + step**2 / 12), encoded.size)
    lags = [
        (encoded[lag:] * encoded[:-lag]).sum() ** 2 / encoded[lag:].size
        for lag in range(1, 2 * plan.bands + 1)
    ]
    apart = chi2.cdf(sum(lags), len(lags))
    return error, 2 * min(size, 1 - size), 2 * min(apart, 1 - apart)


def check_sums(epsilons: list[float], coordinates: int, readme: Path | None) -> bool:
    """One line a plan: whether its noise is what was planned."""
    fine, lines = True, []
    for epsilon in epsilons:
        for name, plan in plans(epsilon):
            error, size, apart = measured(plan, coordinates)
            fine &= min(size, apart) > ALARM and abs(error / plan.prefix_error - 1) < 0.05
            numbers = f"{plan.noise_multiplier:.3f}", f"{plan.prefix_error:.2f}", f"{error:.2f}"
            lines.append((f"{epsilon:g}", name, *numbers, f"{size:.3f}", f"{apart:.3f}"))
    show(HEADER, lines, readme, BEGIN, END)
    return fine


def check_oracle(epsilons: list[float], python: Path) -> bool:
    """Epsilon by JAX-Privacy's events, and how near its own strategies ours come."""
    named = [(epsilon, name, plan) for epsilon in epsilons for name, plan in plans(epsilon)]
    asked = [
        {"noise": plan.noise_multiplier, "steps": plan.steps, "groups": plan.groups, "bands": plan.bands,
         "rate": plan.turn_rate, "delta": DELTA, "strategy": plan.strategy}
        for _, _, plan in named
    ]  # fmt: skip
    answer = subprocess.run(
        [str(python), "-c", ORACLE], input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    fine = True
    print("epsilon  noise                 ours      jax-privacy  error of a strategy: ours  jax-privacy's")
    for (epsilon, name, plan), found in zip(named, json.loads(answer.stdout), strict=True):
        own = plan.loss().get_epsilon_for_delta(DELTA)
        fine &= abs(own / found["epsilon"] - 1) < CLOSE and found["ours"] < 1.01 * found["best"]
        print(
            f"{epsilon:7g}  {name:20s}  {own:.5f}  {found['epsilon']:11.5f}  {found['ours']:25.4f}  "
            f"{found['best']:13.4f}",
            flush=True,
        )
    return fine


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("sums", "oracle"), help="one part of it")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[3.0, 1.0])
    parser.add_argument("--coordinates", type=int, default=2000)
    parser.add_argument("--write", type=Path, metavar="README.md", help="replace the table in this file")
    parser.add_argument("--oracle", type=Path, help="Python of an environment with jax-privacy")
    arguments = parser.parse_args(given)
    fine = True
    if arguments.only in (None, "sums"):
        fine &= check_sums(arguments.epsilons, arguments.coordinates, arguments.write)
    if arguments.oracle is not None and arguments.only in (None, "oracle"):
        fine &= check_oracle(arguments.epsilons, arguments.oracle)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
