"""Steps by one process and by two, a model fitted on them, and what it says of 64 GPUs: table and figure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from statistics import median

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measured import table
from scale_model import PARTS, Job, Machine, Measured, errors, fit, large_gpu, step
from torch import nn

from dptrain.contracts import Ranks as RanksOf
from dptrain.models.mlp import Mlp
from dptrain.privacy.noise.keys import Stream
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.sampling import poisson
from dptrain.training.processes import Ranks

WIDTHS = ((128,), (1024,), (1024, 1024))  # of perceptrons on 28 x 28 pixels
BATCHES = (64, 512)
PHYSICAL = 256
NUMBERS = 2**21  # of noise, that are timed
DRAWN, RECORDS = 100_000, 10**9  # a batch from so many records, of which none needs to be there

UP_TO = (1, 2, 4, 8, 16, 32, 64)
# Of 1e9 records each: a batch of so many, at so many positions a record (the tokens of a text).
FAR = (
    Job(parameters=10**7, batch=100_000, physical=1024, positions=1),
    Job(parameters=10**8, batch=100_000, physical=256, positions=64),
    Job(parameters=10**9, batch=100_000, physical=64, positions=128),
)

Seconds = Callable[[nn.Module, int, "RanksOf | None"], float]
COLOURS = {
    "compute": "#0072B2",
    "noise": "#D55E00",
    "send": "#E69F00",
    "update": "#009E73",
    "draw": "#8C8C8C",
}  # after Okabe and Ito 2008


def measure(seconds: Seconds, *, rounds: int) -> list[Measured]:
    """Medians of steps by one process and by two, in turn; `seconds` times them."""
    found: dict[tuple[Job, int], list[float]] = {}
    with Ranks(2, seconds=300, threads=1) as both:
        for _ in range(rounds):
            for widths in WIDTHS:
                for batch in BATCHES:
                    model = Mlp((1, 28, 28), 2, widths=widths)
                    count = sum(each.numel() for each in model.parameters())
                    job = Job(parameters=count, batch=batch, physical=PHYSICAL)
                    for ranks in (1, 2):
                        with nullcontext(both if ranks == 2 else None) as together:
                            taken = seconds(Mlp((1, 28, 28), 2, widths=widths), batch, together)
                        found.setdefault((job, ranks), []).append(taken)
    return [Measured(job=job, ranks=ranks, seconds=median(each)) for (job, ranks), each in found.items()]


def of_noise() -> float:
    """Seconds that a number of noise takes, added to a sum in double precision."""
    sums = torch.zeros(NUMBERS, dtype=torch.float64)
    return _seconds(partial(NoiseSource(bytes(32)).add, [sums], 1.0)) / NUMBERS


def of_draw() -> float:
    """Seconds that a record of a batch takes to be drawn, from a thousand million of them."""
    return _seconds(partial(poisson, RECORDS, DRAWN / RECORDS, Stream(bytes(32)))) / DRAWN


def _seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return median(taken)


def fitted(found: Sequence[Measured]) -> Machine:
    return fit(found, noise=of_noise(), draw=of_draw())


def of_measured(found: Sequence[Measured], machine: Machine) -> str:
    """The steps that were measured, and how far the model is from each."""
    rows = [
        (
            f"{each.job.parameters:,}",
            f"{each.job.batch:,}",
            str(each.ranks),
            f"{1000 * each.seconds:.1f}",
            f"{100 * error:+.0f} %",
        )
        for each, error in zip(found, errors(machine, found), strict=True)
    ]
    return table(("parameters", "batch", "processes", "ms a step", "model"), rows)


def far(machine: Machine) -> str:
    """What the model says of accelerators, by their number: seconds a step, and what they are spent on."""
    rows = []
    for job in FAR:
        alone = sum(step(machine, job, 1).values())
        for ranks in UP_TO:
            parts = step(machine, job, ranks)
            whole = sum(parts.values())
            own = step(machine, job, ranks, own_draws=True)["compute"]
            rows.append(
                (
                    f"{job.parameters:.0e}",
                    str(ranks),
                    f"{whole:.3g}",
                    f"{alone / whole:.1f}",
                    *(f"{100 * parts[name] / whole:.1f} %" for name in PARTS),
                    f"{100 * abs(own / parts['compute'] - 1):.2f} %",
                )
            )
    return table(("parameters", "GPUs", "s a step", "times faster", *PARTS, "own draws: compute"), rows)


def draw(found: Sequence[Measured], machine: Machine) -> Figure:
    """Model against measurement; a step by up to 64 GPUs; what it is spent on where there are 64."""
    figure = Figure(figsize=(12.0, 4.0), dpi=160, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _of_steps(left, found, machine)
    gpu = large_gpu(machine)
    for job, dashes in zip(FAR, ("-", (0, (5, 2)), (0, (1, 1.5))), strict=True):
        seconds = [sum(step(gpu, job, ranks).values()) for ranks in UP_TO]
        label = f"{job.parameters:.0e} parameters, {job.positions} position{'s' * (job.positions > 1)}"
        middle.plot(UP_TO, seconds, color="#0072B2", linestyle=dashes, marker="o", markersize=4, label=label)
        middle.plot(UP_TO, [seconds[0] / ranks for ranks in UP_TO], color="#DDDDDD", linewidth=1, zorder=0)
    middle.set(xscale="log", yscale="log", xlabel="GPUs (assumed)", ylabel="seconds a step")
    middle.set_xticks(UP_TO, [str(ranks) for ranks in UP_TO])
    low, high = middle.get_ylim()
    middle.set_ylim(low, 20 * high)
    _of_parts(right, gpu)
    for axes, title in (
        (left, "Measured: 1 and 2 processes"),
        (middle, "Modelled: batch 100,000 of 1e9"),
        (right, f"On {UP_TO[-1]} GPUs"),
    ):
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color="#333333")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def _of_steps(axes: Axes, found: Sequence[Measured], machine: Machine) -> None:
    for ranks, colour in ((1, "#0072B2"), (2, "#D55E00")):
        some = [each for each in found if each.ranks == ranks]
        modelled = [sum(step(machine, each.job, ranks, hops="tree").values()) for each in some]
        label = f"{ranks} process{'es' if ranks > 1 else ''}"
        axes.scatter([each.seconds for each in some], modelled, color=colour, s=24, label=label)
    ends = [min(each.seconds for each in found), max(each.seconds for each in found)]
    axes.plot(ends, ends, color="#DDDDDD", linewidth=1, zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="seconds a step, measured", ylabel="by the model")


def _of_parts(axes: Axes, gpu: Machine) -> None:
    bottom = [0.0] * len(FAR)
    for name, colour in COLOURS.items():
        shares = []
        for job in FAR:
            parts = step(gpu, job, UP_TO[-1])
            shares.append(100 * parts[name] / sum(parts.values()))
        axes.bar([f"{job.parameters:.0e}" for job in FAR], shares, bottom=bottom, color=colour, label=name)
        bottom = [low + share for low, share in zip(bottom, shares, strict=True)]
    axes.set(ylim=(0, 150), xlabel="parameters", ylabel="% of a step")
