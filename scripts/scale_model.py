"""What a private step takes by many processes, from what it takes by one and by two: a model in closed form.

A step by p processes draws its batch, tells the others which records are theirs and what the weights are,
computes until the one with the most records is done, adds up all sums in the first, draws the noise there and
moves the weights there, one after the other. Each part is a constant of the machine times a count:

    draw      records drawn                        computed by the first alone
    send      bytes x hops, messages x hops        weights (4 bytes a parameter) go out, sums (8) come in
    compute   records of the largest share, and those times parameters times positions
    noise     parameters                           drawn by the first alone, in double precision
    update    parameters                           rounding sums to their grid, the optimizer, averages

Nothing overlaps, as nothing does in `dptrain.training.distribution`. The noise is the same however many
processes there are: it is what does not get shorter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.optimize import nnls
from scipy.stats import poisson

WEIGHT_BYTES, SUM_BYTES, INDEX_BYTES = 4, 8, 8  # of a parameter going out, of one coming in, of a record
HOPS = ("pipeline", "tree")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Seconds that one process, or the way between two, takes for one of each."""

    step: float  # a step, whatever is in it
    record: float  # a record
    work: float  # a record and a parameter, at one position
    update: float  # a parameter, in the process that moves the weights
    noise: float  # a number of the noise
    draw: float  # a record of a batch that is drawn
    message: float  # one exchange between two processes
    byte: float  # one byte between two processes


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a step is to do; `positions` are those at which each record passes through the weights."""

    parameters: int
    batch: int  # expected
    physical: int  # the most records that a process takes at once
    positions: int = 1


PARTS = ("draw", "send", "compute", "noise", "update")


def step(
    machine: Machine, job: Job, ranks: int, *, hops: str = "pipeline", own_draws: bool = False
) -> dict[str, float]:
    """Expected seconds of each part of a step by so many processes.

    With `own_draws` each process would draw from records of its own, as elsewhere, in place of an even share
    of one draw: the slowest then has the largest of so many Poisson numbers.
    """
    share = largest_of_own(job.batch, ranks) if own_draws else largest_share(job.batch, job.physical, ranks)
    return {
        "draw": machine.draw * job.batch,
        "send": machine.message * times(ranks, "tree") + machine.byte * sent(job) * times(ranks, hops),
        "compute": machine.step + share * (machine.record + machine.work * job.parameters * job.positions),
        "noise": machine.noise * job.parameters,
        "update": machine.update * job.parameters,
    }


def sent(job: Job) -> int:
    """Bytes of a step on the way to a process and back: its weights, its sum, the records of the batch."""
    return job.parameters * (WEIGHT_BYTES + SUM_BYTES) + job.batch * INDEX_BYTES


def times(ranks: int, hops: str) -> int:
    """How often a byte goes over the slowest way, one after the other, until all processes have it.

    In a `pipeline` (NCCL's rings) once, as they pass pieces on while others arrive; in a `tree` (gloo's
    broadcast) once a level.

    >>> times(1, "tree"), times(2, "tree"), times(64, "tree"), times(64, "pipeline")
    (0, 1, 6, 1)
    """
    assert hops in HOPS
    levels = math.ceil(math.log2(ranks))
    return levels if hops == "tree" else min(levels, 1)


def share_of(drawn: int, physical: int, ranks: int) -> int:
    """The most records that a process has of so many: those of the first, as `feed.Blocks` divides them."""
    if drawn == 0:
        return 0
    count = ranks * math.ceil(drawn / (physical * ranks))
    size = math.ceil(drawn / count)
    blocks = math.ceil(drawn / size)
    mine = math.ceil(blocks / ranks)
    last_is_mine = (blocks - 1) % ranks == 0
    return mine * size - (blocks * size - drawn if last_is_mine else 0)


def largest_share(batch: int, physical: int, ranks: int) -> float:
    """Its expectation where what is drawn is a Poisson number, of which an even share is each process's."""
    counts = likely(batch)
    if len(counts) > 4096:  # a hundred standard deviations are a part in a million of such batches
        counts = np.unique(np.linspace(counts[0], counts[-1], 4096).round().astype(np.int64))
    chances = poisson.pmf(counts, batch)
    shares = [share_of(int(count), physical, ranks) for count in counts]
    return float(np.dot(chances, shares) / chances.sum())


def largest_of_own(batch: int, ranks: int) -> float:
    """The expected largest of so many Poisson numbers that make up a batch: the sum of P(largest > k)."""
    mean = batch / ranks
    counts = likely(mean)
    beyond = -np.expm1(ranks * poisson.logcdf(counts, mean))
    return float(counts[0] + beyond.sum())


def likely(mean: float) -> np.ndarray:
    """Whole numbers, beyond which Poisson numbers of this mean are less likely than 1e-15, of 64 too."""
    reach = 10.0 * math.sqrt(mean) + 40.0
    return np.arange(max(0, math.floor(mean - reach)), math.ceil(mean + reach) + 1)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The seconds of a step, as they were found."""

    job: Job
    ranks: int
    seconds: float


_COUNTED = ("step", "record", "work", "update", "message", "byte")  # fitted on whole steps


def fit(found: Sequence[Measured], *, noise: float, draw: float, hops: str = "tree") -> Machine:
    """The machine whose steps are the nearest to these, by their relative errors; no part takes less than 0.

    What a number of noise and a drawn record take is measured by itself, and taken as given.
    """
    known = Machine(step=0, record=0, work=0, update=0, noise=noise, draw=draw, message=0, byte=0)
    rows, left = [], []
    for each in found:
        units = [
            sum(step(replace(_NOTHING, **{name: 1.0}), each.job, each.ranks, hops=hops).values())
            for name in _COUNTED
        ]
        given = sum(step(known, each.job, each.ranks, hops=hops).values())
        rows.append([unit / each.seconds for unit in units])
        left.append(max(0.0, each.seconds - given) / each.seconds)
    scale = np.max(rows, axis=0)
    scale[scale == 0] = 1.0
    solution, _ = nnls(np.array(rows) / scale, np.array(left))
    return replace(known, **dict(zip(_COUNTED, (solution / scale).tolist(), strict=True)))


_NOTHING = Machine(**dict.fromkeys((each.name for each in fields(Machine)), 0.0))


def errors(machine: Machine, found: Sequence[Measured], *, hops: str = "tree") -> list[float]:
    """By what share of it each measured step differs from the model's."""
    return [
        sum(step(machine, each.job, each.ranks, hops=hops).values()) / each.seconds - 1.0 for each in found
    ]


def large_gpu(measured: Machine) -> Machine:
    """An accelerator of a large machine, by its data sheet (H100 SXM), and the CPU beside it as measured.

    ASSUMED, not measured: 40 % of 989e12 bfloat16 operations a second, 6 a parameter and position; 3.35e12
    bytes a second of memory, of which an update moves 60 a parameter; for a number of noise 100 operations
    in double precision at 34e12 a second and 24 bytes; 400 Gbit/s between any two; 30 microseconds a message.
    """
    memory = 1 / 3.35e12
    return replace(
        measured,
        record=0.0,
        work=6 / (0.4 * 989e12),
        update=60 * memory,
        noise=100 / 34e12 + 24 * memory,
        message=30e-6,
        byte=8 / 400e9,
    )
