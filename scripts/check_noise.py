"""Whether noise is Gaussian as far as delta says: dptrain's source beside two that are not.

python scripts/check_noise.py [--json] [--draws 1000000000] [--trainings 4000000]

The same tests are put to dptrain's source, to that source cut off at 5 standard deviations, and to the
numbers of Opacus (PyTorch's float32 normals): the shares beyond thresholds on either side, each by an exact
binomial test; the distance of the distribution (Kolmogorov and Smirnov's, over 2^16 cells, which is at
most that of single numbers); how often a number comes twice; and whole trainings of which one record is given
away with certainty, by a value of its coordinate that only its being there explains.

Further: what the noise of plans small and large costs in epsilon and delta, relative to each; the share of
outcomes that cannot come from a sum without the record, with the grid and without it, in float32; and
nanoseconds a number, on one thread.

The last line is one JSON object: largest (in standard deviations, of all draws), limit, ks_p, cost (plan:
epsilon, delta), grid (with, without), ns_per_number, caught (truncated_at_5, float32), trainings.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers.optimizer import _generate_noise
from scipy.stats import binom, binomtest, kstwobign, norm, poisson
from torch import Tensor

from dptrain.contracts import Budget
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.noise.cost import cost
from dptrain.privacy.noise.gaussian import REACH, grid_step, noisy_on_grid
from dptrain.privacy.noise.source import BLOCK, NoiseSource
from dptrain.privacy.plan import Rates, make_plan

CELLS = 2**16  # of equal probability
THRESHOLDS = (
    1.0,
    2.0,
    3.0,
    4.0,
    4.5,
    4.62,
    5.0,
    5.5,
    5.768,
    6.0,
)  # standard deviations; 4.62: where tails begin
UNLIKELY = 1e-6  # of all tests of a source together: below, its numbers are not Gaussian
OPACUS_REACH = math.sqrt(48 * math.log(2))  # Box and Muller's, of uniform numbers of 24 bits
CHUNKS = 64  # that the draws are divided into, each with a key of its own

# A training of which one record adds 1.0, all that it may, along one coordinate.
TRAINING = DPSGDPlan(
    units=60_000,
    sample_rate=1024 / 60_000,
    steps=600,
    expected_batch_size=1024,
    max_grad_norm=1.0,
    noise_multiplier=0.8,
)
DELTA = 1e-5
# Epsilon, delta, units, batch, epochs, parameters.
PLANS = (
    (0.1, 1e-6, 100_000, 1024, 3, 10**4),
    (1.0, 1e-5, 4_000, 256, 30, 10**5),
    (3.0, 1e-5, 60_000, 1024, 10, 10**5),
    (3.0, 1e-8, 60_000, 256, 10, 10**7),
    (8.0, 1e-5, 50_000, 4096, 100, 10**8),
    (10.0, 1e-9, 1_000_000, 4096, 10, 10**9),
)


class Source(Protocol):
    """Standard normal numbers (count,), float64: those of this chunk and block, always the same."""

    def __call__(self, chunk: int, count: int, *, block: int) -> Tensor: ...


def ours(chunk: int, count: int, *, block: int) -> Tensor:
    """dptrain's numbers."""
    key = chunk.to_bytes(32, "little")
    return NoiseSource(key).numbers(key, count, block=block)


def truncated(chunk: int, count: int, *, block: int) -> Tensor:
    """dptrain's numbers, those beyond 5 standard deviations drawn again."""
    numbers = ours(chunk, count, block=block)
    again = 2**40 + block * 2**8
    while len(far := (numbers.abs() > 5.0).nonzero().squeeze(1)):
        numbers[far] = ours(chunk, len(far), block=again)
        again += 1
    return numbers


def float32(chunk: int, count: int, *, block: int) -> Tensor:
    """The numbers that Opacus adds."""
    generator = torch.Generator().manual_seed(chunk * 2**20 + block)  # of which it takes 32 bits
    return _generate_noise(1.0, torch.empty(count), generator=generator).double()


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A source and how many standard deviations its largest number lies out."""

    source: Source
    limit: float


SOURCES = {
    "dptrain": Subject(source=ours, limit=REACH),
    "truncated_at_5": Subject(source=truncated, limit=5.0),
    "float32": Subject(source=float32, limit=OPACUS_REACH),
}


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What is kept of many numbers."""

    count: int
    largest: float
    beyond: NDArray[np.int64]  # (2, thresholds): above each, below the negative of each
    cells: NDArray[np.int64]  # (CELLS,), by the normal distribution function
    pairs: int = 0  # of numbers that were compared: the first 2^17 of each chunk among themselves
    repeated: int = 0  # numbers that came before among those

    @classmethod
    def of(cls, numbers: Tensor) -> Tally:
        cells = (torch.special.ndtr(numbers) * CELLS).long().clamp_(max=CELLS - 1)
        far = numbers[numbers.abs() > THRESHOLDS[0]]
        return cls(
            count=len(numbers),
            largest=float(numbers.abs().max()),
            beyond=np.array(
                [[int((side * far > threshold).sum()) for threshold in THRESHOLDS] for side in (1, -1)]
            ),
            cells=torch.bincount(cells, minlength=CELLS).numpy(),
        )

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            count=self.count + other.count,
            largest=max(self.largest, other.largest),
            beyond=self.beyond + other.beyond,
            cells=self.cells + other.cells,
            pairs=self.pairs + other.pairs,
            repeated=self.repeated + other.repeated,
        )


def tally(name: str, chunk: int, count: int) -> Tally:
    """Of so many numbers of this source and chunk."""
    source = SOURCES[name].source
    first = source(chunk, min(count, BLOCK), block=0)
    found = replace(
        Tally.of(first), pairs=math.comb(len(first), 2), repeated=len(first) - len(first.unique())
    )
    for block, start in enumerate(range(BLOCK, count, BLOCK), start=1):
        found = found + Tally.of(source(chunk, min(BLOCK, count - start), block=block))
    return found


def p_values(found: Tally) -> dict[str, float]:
    """Of each test that its numbers are independent and standard normal."""
    tested = {
        f"{'above' if side == 0 else 'below'} {(1 - 2 * side) * threshold:g}": float(
            binomtest(int(found.beyond[side, place]), found.count, norm.sf(threshold)).pvalue
        )
        for side in (0, 1)
        for place, threshold in enumerate(THRESHOLDS)
    }
    tested["distribution"] = ks_p(found)
    # Two numbers of a normal density, rounded to doubles, are equal with a chance of less than 2^-52.
    tested["no number twice"] = float(poisson.sf(found.repeated - 1, found.pairs * 2.0**-52))
    return tested


def ks_p(found: Tally) -> float:
    """By the limiting distribution, for many numbers."""
    reached = np.cumsum(found.cells) / found.count
    distance = np.abs(reached - np.arange(1, CELLS + 1) / CELLS).max()
    return float(kstwobign.sf(distance * math.sqrt(found.count)))


def given_away(name: str, chunk: int, trainings: int) -> int:
    """How many of so many trainings give the record away with certainty.

    They do where its coordinate of a step's noisy sum lies beyond all that noise alone can reach.
    """
    source, limit = SOURCES[name].source, SOURCES[name].limit
    std = TRAINING.noise_std
    rng = np.random.default_rng(chunk)
    drawn = rng.binomial(TRAINING.steps, TRAINING.sample_rate, size=trainings)
    owner = np.repeat(np.arange(trainings), drawn)
    certain = np.zeros(trainings, dtype=bool)
    for block, start in enumerate(range(0, len(owner), BLOCK)):
        whose = owner[start : start + BLOCK]
        noisy = 1.0 + std * source(CHUNKS + chunk, len(whose), block=block)
        certain[whose[(noisy > std * limit * (1 + 1e-6)).numpy()]] = True
    return int(certain.sum())


def told_apart(count: int) -> dict[str, float]:
    """The share of outcomes of a coordinate without a record that no outcome with it can equal.

    A sum is 0 without the record and 1 with it, both exact in every precision; what noise may be added is
    every number of the precision that it is added in, so that more is told apart than is counted here.
    """
    std = TRAINING.noise_std
    numbers = ours(0, count, block=0)
    rough = (std * numbers).float()
    near = rough - 1.0  # one of these, if any number at all, is what noise must have been
    reached = torch.zeros(count, dtype=torch.bool)
    for noise in (near, near.nextafter(torch.tensor(math.inf)), near.nextafter(torch.tensor(-math.inf))):
        reached |= 1.0 + noise == rough
    step = grid_step(std)
    outcomes = noisy_on_grid(torch.zeros(count, dtype=torch.float64), numbers.clone(), std)
    needed = (outcomes - 1.0) / step  # the multiple of the step that noise must have come to, with the record
    possible = (needed == needed.round()) & (needed.abs() * step <= std * REACH)
    return {"with": 1.0 - float(possible.double().mean()), "without": 1.0 - float(reached.double().mean())}


def costs() -> dict[str, dict[str, float]]:
    """What noise costs each plan, relative to its epsilon and its delta."""
    found = {}
    for epsilon, delta, units, batch, epochs, parameters in PLANS:
        rates = Rates(expected_batch_size=batch, epochs=epochs)
        plan = make_plan(
            Budget(epsilon=epsilon, delta=delta), rates, units, max_grad_norm=1.0, clipping="flat"
        )
        spent = cost(plan.steps * parameters, epsilon=epsilon, delta=delta)
        name = f"epsilon {epsilon:g}, delta {delta:g}, {plan.steps} steps of {parameters:.0e} parameters"
        found[name] = {"epsilon": spent.epsilon / epsilon, "delta": spent.delta / delta}
    return found


def speeds(count: int = 2**20, repeats: int = 7) -> dict[str, float]:
    """Nanoseconds a number on one thread, the median of a few runs that take turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    ways: dict[str, Callable[[], object]] = {
        "dptrain": lambda: [ours(0, BLOCK, block=block) for block in range(count // BLOCK)],
        "numpy ziggurat": lambda: rng.standard_normal(count),
        "torch float64": lambda: torch.randn(count, dtype=torch.float64, generator=generator),
        "torch float32": lambda: torch.randn(count, generator=generator),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    try:
        for _ in range(repeats):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return {name: round(statistics.median(each) / count * 1e9, 1) for name, each in seconds.items()}


def shares(total: int, parts: int = CHUNKS) -> Iterator[tuple[int, int]]:
    """(chunk, count) of so many in nearly equal parts.

    >>> list(shares(5, 3))
    [(0, 2), (1, 2), (2, 1)]
    """
    for part in range(parts):
        if count := total // parts + (part < total % parts):
            yield part, count


def measure(*, draws: int, trainings: int, processes: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All of it, as the last line has it."""
    found: dict[str, Any] = {"ns_per_number": speeds()}
    say("  ".join(f"{name} {each} ns" for name, each in found["ns_per_number"].items()))
    failed: dict[str, list[str]] = {}
    certain: dict[str, int] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=partial(torch.set_num_threads, 1)
    ) as pool:
        for name, subject in SOURCES.items():
            parts = [pool.submit(tally, name, *part) for part in shares(draws)]
            replayed = [pool.submit(given_away, name, *part) for part in shares(trainings)]
            whole = parts[0].result()
            for part in parts[1:]:
                whole = whole + part.result()
            tested = p_values(whole)
            certain[name] = sum(part.result() for part in replayed)
            tested[f"{certain[name]} of {trainings} trainings give a record away"] = float(
                binom.sf(certain[name] - 1, trainings, DELTA)
            )
            failed[name] = [test for test, p in tested.items() if p < UNLIKELY / len(tested)]
            say(
                f"{name}: largest {whole.largest:.3f} of {draws:.0e}, limit {subject.limit:.3f}, "
                f"smallest p {min(tested.values()):.2g}; fails: {', '.join(failed[name]) or 'none'}"
            )
            if name == "dptrain":
                found |= {"largest": whole.largest, "limit": subject.limit, "ks_p": tested["distribution"]}
    found["cost"] = costs()
    for name, spent in found["cost"].items():
        say(f"{name}: costs {spent['epsilon']:.1e} of epsilon, {spent['delta']:.1e} of delta")
    found["grid"] = told_apart(min(draws, 2**20))
    apart = found["grid"]
    say(f"told apart by rounding: {apart['without']:.2%} without a grid, {apart['with']:.2%} with it")
    found["caught"] = {name: bool(tests) for name, tests in failed.items() if name != "dptrain"}
    found["failed"] = failed["dptrain"]
    found["trainings"] = {**certain, "allowed": trainings * DELTA}
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON object alone")
    parser.add_argument("--draws", type=int, default=10**9, help="of each source (default 1e9)")
    parser.add_argument("--trainings", type=int, default=4 * 10**6, help="of each source (default 4e6)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="at a time (default: the cores)"
    )
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    say = partial(print, flush=True, file=sys.stderr if options.json else sys.stdout)
    found = measure(draws=options.draws, trainings=options.trainings, processes=options.processes, say=say)
    say(f"{time.perf_counter() - started:.0f} seconds")
    print(json.dumps(found))
    costly = any(max(spent.values()) > 1e-3 for spent in found["cost"].values())
    right = not found["failed"] and all(found["caught"].values()) and found["grid"]["with"] == 0.0
    return 0 if right and not costly else 1


if __name__ == "__main__":
    sys.exit(main())
