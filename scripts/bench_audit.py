#!/usr/bin/env python3
"""What one-run audits certify of what there is, and how often they cry wolf: python scripts/bench_audit.py

Three experiments:

gaussian  The ideal of Mahloujifar et al. 2025 (Table 1): 100,000 canaries, each scored N(1 / noise, 1) if
          it is a member and N(0, 1) if not. "certified" holds of every mechanism with a Gaussian curve,
          "independent" of those only that treat each canary by itself, as this one does. "picked"
          chooses the number of guesses after the coins are seen, which certifies nothing; it is shown
          because published figures look like it.
dirac     DP-SGD on canaries that have a coordinate each, as in Keinan et al. 2025 (section 6): 1,000
          canaries, 100 steps, sample rate 0.1, noise for epsilon 2 at delta 1e-5, through the engine,
          sampler and audit of any other run. "packed" puts 8 on each coordinate, and is simulated.
alarms    Scores that know nothing of the coins, noise that is honest: how often each method objects at
          95 %. "p_value_at_bound" is of a mechanism that leaks exactly what its trade-off curve allows.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import binom
from torch import Tensor, nn

from dptrain.attacks.canary_audit import CanaryAudit
from dptrain.contracts import (
    Budget,
    Canaries,
    Context,
    NoiseSeen,
    Records,
    Splits,
    Streams,
    Targets,
)
from dptrain.evaluation.games.audit.scoring import bet, noise_p_values
from dptrain.evidence.intervals import permutation_p_value
from dptrain.evidence.one_run import (
    certified_gaussian,
    certified_independent,
    certified_steinke,
    gaussian_epsilon,
    p_value_f,
    planned_guesses,
)
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.guarantee import DPGuarantee
from dptrain.privacy.plan import Rates, make_plan
from dptrain.tracking import NullRun
from dptrain.training.settings import Settings

CONFIDENCE, LEVEL = 0.95, 0.05
DELTA = 1e-5
NOISES = (0.5, 1.0, 2.0, 4.0)
CANARIES = 100_000
ROOM = 1.05  # certified over theory, at most, in the median

DIRAC_COORDINATES, DIRAC_STEPS, DIRAC_RATE, DIRAC_EPSILON = 1000, 100, 0.1, 2.0
PACKED = 8

BLIND_CANARIES = 1000
AT_BOUND_MU = 1.0
PERMUTATIONS = 99


# --------------------------------------------------------------------------- the ideal


def gaussian(noise: float, repetitions: int, rng: torch.Generator) -> dict[str, float]:
    """What is certified in the median of a mechanism that is exactly 1 / noise-Gaussian."""
    mu = 1 / noise
    guesses = planned_guesses(mu, CANARIES, CONFIDENCE)
    certified, steinke, independent, picked = [], [], [], []
    for _ in range(repetitions):
        members = torch.rand(CANARIES, generator=rng) < 0.5
        scores = mu * members + torch.randn(CANARIES, generator=rng)
        right = bet(scores, members, guesses, rng)
        certified.append(certified_gaussian(right, guesses, CANARIES, DELTA, CONFIDENCE))
        steinke.append(certified_steinke(right, guesses, CANARIES, DELTA, CONFIDENCE))
        independent.append(certified_independent(right, guesses, CANARIES, DELTA, CONFIDENCE))
        picked.append(picked_afterwards(scores, members))
    return {
        "certified": statistics.median(certified),
        "theory": gaussian_epsilon(mu, DELTA),
        "steinke": statistics.median(steinke),
        "independent": statistics.median(independent),
        "picked": statistics.median(picked),
        "guesses": guesses,
    }


def picked_afterwards(scores: Tensor, members: Tensor) -> float:
    """The best over many numbers of guesses, chosen on the very coins that are counted: no certificate."""
    ranked = members[scores.argsort()]
    low, high = (~ranked).cumsum(0), ranked.flip(0).cumsum(0)
    best = 0.0
    for half in np.unique(np.geomspace(20, len(members) // 2, 80).round()).astype(int).tolist():
        right = int(low[half - 1] + high[half - 1])
        best = max(best, certified_gaussian(right, 2 * half, len(members), DELTA, CONFIDENCE))
    return best


# --------------------------------------------------------------------------- DP-SGD


def dirac_guarantee() -> DPGuarantee:
    """What is proved of these trainings."""
    budget = Budget(epsilon=DIRAC_EPSILON, delta=DELTA)
    rates = Rates(sample_rate=DIRAC_RATE, steps=DIRAC_STEPS)
    plan = make_plan(budget, rates, DIRAC_COORDINATES, max_grad_norm=1.0, clipping="flat")
    return DPGuarantee(plan=plan, budget=budget)


def train_dirac(guarantee: DPGuarantee, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """One real training of 1,000 weights with a canary on each, and hardly a record: scores and coins.

    Sampler, clipping, noise and the audit that looks on are those of any other run.
    """
    plan, records = guarantee.plan, Records(torch.zeros(4, 100), torch.arange(4))
    splits = Splits(
        name="blank",
        source="nowhere",
        train=records,
        holdout=records,
        test=records,
        classes=tuple("0123456789"),
        bounds=(0.0, 1.0),
        mean=(0.5,),
        std=(0.5,),
    )
    rates = Rates(
        sample_rate=plan.sample_rate, steps=plan.steps, expected_batch_size=plan.expected_batch_size
    )
    settings = Settings(
        rates=rates,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        physical_batch_size=512,
        schedule="constant",
        warmup_steps=0,
        average_decay=0.0,
        evaluations=1,
        checkpoint_seconds=math.inf,
        diagnostics=False,
    )
    members = torch.rand(DIRAC_COORDINATES, generator=rng) < 0.5
    canaries = Canaries(coordinates=torch.arange(DIRAC_COORDINATES), norm=10 * plan.max_grad_norm)
    targets = Targets(
        classes=splits.classes,
        shape=splits.shape,
        bounds=splits.bounds,
        mean=splits.mean,
        background=records,
        canaries=canaries,
    )
    audit = CanaryAudit()
    observer = audit.watch(targets)
    context = Context(
        streams=Streams(0),
        tracker=NullRun(),
        device=torch.device("cpu"),
        observers=(observer,),
        canaries=replace(canaries, coordinates=canaries.coordinates[members]),
    )
    model = nn.Linear(100, 10, bias=False)
    mechanism = DPSGD(settings=settings, max_grad_norm=plan.max_grad_norm)
    release, _ = mechanism.fit(model, splits, guarantee.budget, context)
    return audit.run(replace(release, transcript=observer), targets, rng).scores, members


def dirac(plan: DPSGDPlan, per_coordinate: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """One simulated training on nothing but canaries, so many to a coordinate: scores and coins.

    A canary's score is the log-likelihood ratio of its coordinate's noisy sums, with the others on
    that coordinate, of which the adversary knows nothing, taken as more Gaussian noise.
    """
    members = torch.rand(DIRAC_COORDINATES, per_coordinate, generator=rng) < 0.5
    inclusion = plan.sample_rate / 2  # of another canary, whose coin is not known
    mean = (per_coordinate - 1) * inclusion * plan.max_grad_norm
    others = (per_coordinate - 1) * inclusion * (1 - inclusion) * plan.max_grad_norm**2
    variance = plan.noise_std**2 + others
    scores = torch.zeros(DIRAC_COORDINATES)
    for _ in range(plan.steps):
        sampled = members & (torch.rand(members.shape, generator=rng) < plan.sample_rate)
        noise = plan.noise_std * torch.randn(DIRAC_COORDINATES, generator=rng)
        seen = plan.max_grad_norm * sampled.sum(1) + noise - mean
        exponent = (seen * plan.max_grad_norm - plan.max_grad_norm**2 / 2) / variance
        scores += torch.log1p(plan.sample_rate * torch.expm1(exponent))
    return scores[:, None].expand_as(members).flatten(), members.flatten()


def audit_dirac(
    guarantee: DPGuarantee, per_coordinate: int, repetitions: int, rng: torch.Generator
) -> dict[str, float]:
    """Mean certified epsilons over trainings of their own, the number of guesses planned beforehand."""
    canaries = DIRAC_COORDINATES * per_coordinate
    guesses = planned_guesses(guarantee.mu, canaries, CONFIDENCE)
    if per_coordinate == 1:
        trainings = (train_dirac(guarantee, rng) for _ in range(repetitions))
    else:
        trainings = (dirac(guarantee.plan, per_coordinate, rng) for _ in range(repetitions))
    rights = [bet(scores, members, guesses, rng) for scores, members in trainings]

    def mean(estimator: Callable[[int, int, int, float, float], float]) -> float:
        return statistics.fmean(estimator(v, guesses, canaries, DELTA, CONFIDENCE) for v in rights)

    return {
        "certified_mean": mean(certified_gaussian),
        "steinke_mean": mean(certified_steinke),
        "guesses": guesses,
    }


# --------------------------------------------------------------------------- false alarms


def false_alarms(trials: int, rng: torch.Generator) -> dict[str, float]:
    """How often each method finds something where there is nothing to find, at the 95 % level."""
    canaries = BLIND_CANARIES
    guesses = planned_guesses(0.5, canaries, CONFIDENCE)
    at_bound = planned_guesses(AT_BOUND_MU, canaries, CONFIDENCE)

    @cache
    def on_bets(right: int) -> tuple[bool, bool, bool, bool]:
        """Steinke's, the Gaussian family's, the p-value of a curve that allows nothing, independent bets."""
        return (
            certified_steinke(right, guesses, canaries, DELTA, CONFIDENCE) > 0,
            certified_gaussian(right, guesses, canaries, DELTA, CONFIDENCE) > 0,
            p_value_f(right, guesses, canaries, lambda rate: rate) < LEVEL,
            certified_independent(right, guesses, canaries, DELTA, CONFIDENCE) > 0,
        )

    @cache
    def on_bound(right: int) -> bool:
        return (
            p_value_f(right, at_bound, canaries, lambda rate: float(ndtr(ndtri(rate) + AT_BOUND_MU))) < LEVEL
        )

    names = ("steinke", "gaussian", "p_value_of_guarantee", "independent", "p_value_at_bound")
    counts = dict.fromkeys((*names, "noise", "repeated_noise", "permutation"), 0)
    for _ in range(trials):
        members = torch.rand(canaries, generator=rng) < 0.5
        scores = torch.randn(canaries, generator=rng)
        noise = noise_p_values(honest_noise(20, 50, rng))
        found = (
            *on_bets(bet(scores, members, guesses, rng)),
            on_bound(bet(scores + AT_BOUND_MU * members, members, at_bound, rng)),
            noise["noise_p_value"] < LEVEL,
            noise["repeated_noise_p_value"] < LEVEL,
            permuted(scores[:100], members[:100], rng) < LEVEL,
        )
        for name, alarm in zip(counts, found, strict=True):
            counts[name] += int(alarm)
    return {name: count / trials for name, count in counts.items()}


def honest_noise(steps: int, coordinates: int, rng: torch.Generator) -> NoiseSeen:
    """What an attack sees of noise that is as declared."""
    noise = torch.randn(steps, coordinates, generator=rng)
    return NoiseSeen(
        each=float(noise.square().mean()),
        summed=float((noise.sum(0).square() / steps).mean()),
        steps=steps,
        coordinates=coordinates,
    )


def permuted(scores: Tensor, members: Tensor, rng: torch.Generator) -> float:
    """P-value of the members' total score among permutations of the coins."""
    orders = torch.rand(PERMUTATIONS, len(scores), generator=rng).argsort(1)
    totals = (scores[orders] * members).sum(1)
    return permutation_p_value(float(scores[members].sum()), totals)


# --------------------------------------------------------------------------- the command


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 1 if more is certified than there is, or more false alarms raised than promised."""
    options = parse(arguments)
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(options.seed)
    started = time.perf_counter()
    ideal = {f"{noise:g}": gaussian(noise, options.repetitions, rng) for noise in NOISES}
    print(f"idealised Gaussian, {CANARIES} canaries, median of {options.repetitions}\n{HEAD}")
    for name, line in ideal.items():
        print(LINE.format(noise=name, **line))
    guarantee = dirac_guarantee()
    theory = guarantee.epsilon()
    alone = audit_dirac(guarantee, 1, options.trainings, rng)
    packed = audit_dirac(guarantee, PACKED, max(1, options.trainings // PACKED), rng)
    print(
        f"\nDP-SGD, Dirac canaries, epsilon {theory:.2f}, noise {guarantee.plan.noise_multiplier:.3f}, mean"
    )
    for name, found in {"one a coordinate": alone, f"{PACKED} a coordinate": packed}.items():
        print(DIRAC_LINE.format(name=name, **found))
    alarms = false_alarms(options.trials, rng)
    print(f"\nfalse alarms in {options.trials} trials without leakage")
    for name, rate in alarms.items():
        print(f"{name:<24}{rate:7.2%}")
    seconds = time.perf_counter() - started
    print(f"\n{seconds:.0f} seconds")
    if options.json:
        everything = {
            "gaussian": ideal,
            "dirac": {"theory": theory, **alone, "packed_mean": packed["certified_mean"]},
            "false_alarm": alarms,
            "seconds": seconds,
        }
        print(json.dumps(everything))
    return 1 if complain(ideal, alone | {"theory": theory}, alarms, options.trials) else 0


def complain(
    ideal: dict[str, dict[str, float]], alone: dict[str, float], alarms: dict[str, float], trials: int
) -> bool:
    """Say what is not as promised; whether there was anything to say."""
    over = [
        f"noise {name}: certified {line['certified']:.3f} of {line['theory']:.3f}"
        for name, line in ideal.items()
        if line["certified"] > ROOM * line["theory"]
    ]
    if alone["certified_mean"] > ROOM * alone["theory"]:
        over.append(f"dirac: certified {alone['certified_mean']:.3f} of {alone['theory']:.3f}")
    most = binom.ppf(0.999, trials, LEVEL) / trials
    over += [f"{name}: {rate:.2%} false alarms" for name, rate in alarms.items() if rate > most]
    for complaint in over:
        print(f"broken  {complaint}", file=sys.stderr)
    return bool(over)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--repetitions", type=int, default=25, help="of each idealised mechanism (default 25)"
    )
    parser.add_argument("--trainings", type=int, default=200, help="with Dirac canaries (default 200)")
    parser.add_argument("--trials", type=int, default=4000, help="for false alarms (default 4000)")
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default 0)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(arguments)
    for name in ("repetitions", "trainings", "trials"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)} must be at least 1")
    return options


HEAD = "noise    theory   certified   steinke   guesses   if independent   picked afterwards (no certificate)"
LINE = (
    "{noise:<5}{theory:10.2f}{certified:12.2f}{steinke:10.2f}{guesses:10d}{independent:17.2f}{picked:10.2f}"
)
DIRAC_LINE = "{name:<18} certified {certified_mean:.3f}   steinke {steinke_mean:.3f}   guesses {guesses:d}"


if __name__ == "__main__":
    sys.exit(main())
