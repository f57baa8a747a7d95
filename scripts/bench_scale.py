#!/usr/bin/env python3
"""What does it cost to have more records, larger batches, more parameters, more steps? One figure.

    python scripts/bench_scale.py --figure scale.png

Steps are those of `python -m dptrain`, of DP-SGD and of the same training without privacy. Records are blank
images in a file that is mapped into memory and has no content on the disk, so that reading them from a
disk is not in these figures. Needs no data.

    python scripts/bench_scale.py --processes --figure scale_processes.png

times steps by one process and by two, fits the model of scripts/scale_model.py on them, and says by it what a
step would take by up to 64 GPUs with 1e9 parameters and 1e9 records. Run it on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from dptrain.contracts import Budget, Context, Ranks, Records, Splits, Streams
from dptrain.data.npz import MappedImages
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.models.cnn import SmallCNN
from dptrain.models.mlp import Mlp
from dptrain.privacy import accountant
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.noise.keys import Stream
from dptrain.privacy.plan import Rates, Target, calibrate
from dptrain.privacy.sampling import poisson
from dptrain.tracking import NullRun
from dptrain.training.settings import Settings

sys.path.insert(0, str(Path(__file__).parent))
import scale_ranks
from scale_model import large_gpu

RECORDS = (10**4, 10**5, 10**6, 10**7)
BATCHES = (16, 64, 256, 1024, 4096)
WIDTHS = ((12,), (128,), (1024,), (2048, 2048))  # of multilayer perceptrons on 28 x 28 pixels
STEPS = (100, 1000, 10**4, 10**5, 10**6, 10**7)
BATCH, SAMPLE_RATE, EPSILON, DELTA = 1024, 1e-3, 3.0, 1e-6
# After Okabe and Ito 2008, "Color Universal Design": told apart by every kind of colour vision.
RELEASE, CONTROL, FLOOR = "#0072B2", "#D55E00", "#8C8C8C"
INK, GRID = "#333333", "#DDDDDD"
DPI = 160
MOST_SHARE = 0.02  # of a step, for drawing its batch from the most records

Row = dict[str, float]


def blank(count: int, folder: Path) -> Splits:
    """So many blank images 28 x 28 in a mapped file with nothing in it, and a few to hold out."""
    images = np.lib.format.open_memmap(
        folder / f"{count}.npy", mode="w+", dtype=np.uint8, shape=(count, 28, 28)
    )
    records = Records(MappedImages(images, name="blank"), torch.arange(count) % 2)
    few = records.take(torch.arange(16))
    return Splits(
        name="blank",
        source="nowhere",
        train=records,
        holdout=few,
        test=few,
        classes=("a", "b"),
        bounds=(0.0, 1.0),
        mean=(0.5,),
        std=(0.5,),
    )


def step_seconds(
    model: nn.Module, splits: Splits, batch: int, *, private: bool, steps: int, ranks: Ranks | None = None
) -> float:
    """The median of so many steps, after one that warms up."""
    settings = Settings(
        rates=Rates(expected_batch_size=batch, steps=steps + 1),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        physical_batch_size=256,
        schedule="constant",
        warmup_steps=0,
        average_decay=0.0,
        evaluations=1,
        checkpoint_seconds=float("inf"),
        diagnostics=False,
        prefetch=2,
    )
    ends: list[float] = []
    context = Context(
        streams=Streams(0),
        tracker=NullRun(),
        device=torch.device("cpu"),
        progress=lambda **_: ends.append(time.perf_counter()),
        ranks=ranks,
    )
    mechanism = (DPSGD if private else NonPrivate)(settings=settings)
    mechanism.fit(model, splits, Budget(epsilon=None, noise_multiplier=1.0, delta=DELTA), context)
    return median(np.diff(ends).tolist())


def seconds_of(work: Callable[[], object], repeats: int) -> float:
    """The median of so many times."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return median(taken)


def of_records(folder: Path, steps: int) -> dict[int, Row]:
    """By the number of records: drawing a batch, drawing it with a coin for each record, a whole step."""
    rng, stream, found = torch.Generator().manual_seed(0), Stream(bytes(32)), {}
    for count in RECORDS:
        rate = BATCH / count
        draw = partial(poisson, count, rate, stream)

        def coins(count: int = count, rate: float = rate) -> object:
            return (torch.rand(count, dtype=torch.float64, generator=rng) < rate).nonzero()

        step = step_seconds(SmallCNN((1, 28, 28), 2), blank(count, folder), BATCH, private=True, steps=steps)
        drawing = seconds_of(draw, 21)
        found[count] = {
            "draw": drawing,
            "coin_each": seconds_of(coins, 3),
            "step": step,
            "share": drawing / step,
        }
    return found


def of_batches(folder: Path, steps: int) -> dict[int, Row]:
    """By the size of the batch: a step of DP-SGD and a plain one, of the medical CNN."""
    splits = blank(10**5, folder)
    return {
        batch: both(lambda: SmallCNN((1, 28, 28), 2), splits, batch, max(2, min(steps, 8192 // batch)))
        for batch in BATCHES
    }


def of_parameters(folder: Path, steps: int) -> dict[int, Row]:
    """By the number of parameters: likewise, of perceptrons with batches of 256."""
    splits, found = blank(10**5, folder), {}
    for widths in WIDTHS:
        make = partial(Mlp, (1, 28, 28), 2, widths=widths)
        found[sum(p.numel() for p in make().parameters())] = both(make, splits, 256, steps)
    return found


def both(make: Callable[[], nn.Module], splits: Splits, batch: int, steps: int) -> Row:
    """A step with privacy and one without."""
    return {
        name: step_seconds(make(), splits, batch, private=private, steps=steps)
        for name, private in (("dpsgd", True), ("plain", False))
    }


def of_steps() -> dict[int, Row]:
    """By the number of steps: calibrating the noise to an epsilon, and epsilon over the steps."""
    found = {}
    for steps in STEPS:
        plan = DPSGDPlan(
            units=10**6,
            sample_rate=SAMPLE_RATE,
            steps=steps,
            expected_batch_size=1000,
            max_grad_norm=1.0,
            noise_multiplier=1.0,
        )
        target = Target(key="epsilon", most=EPSILON, at=DELTA)
        calibrating = seconds_of(lambda plan=plan, target=target: calibrate(plan, target), 1)
        noisy = replace(plan, noise_multiplier=calibrate(plan, target) * 1.0001)  # never composed before
        curve = accountant.Curve(noisy, DELTA)
        found[steps] = {
            "calibrate": calibrating,
            "curve": seconds_of(lambda curve=curve: curve.points, 1),
            "noise_multiplier": noisy.noise_multiplier,
        }
    return found


def draw(results: dict[str, dict[int, Row]]) -> Figure:
    """The four of them, side by side, on logarithmic axes."""
    figure = Figure(figsize=(10.0, 7.2), dpi=DPI, layout="constrained")
    (records, batches), (parameters, steps) = figure.subplots(2, 2)
    found = results["records"]
    line(records, found, "step", RELEASE, f"a step of DP-SGD, batch {BATCH}")
    line(records, found, "coin_each", FLOOR, "its batch by a coin for each record", dashes=(0, (1, 1.5)))
    line(records, found, "draw", CONTROL, "its batch as it is drawn here")
    last = found[max(found)]
    say(records, "Records: what is drawn costs, not what there is", "records", room=200.0)
    records.annotate(
        f"{100 * last['share']:.1g} % of a step",
        (max(found), last["draw"]),
        xytext=(0, 8),
        textcoords="offset points",
        ha="right",
        color=CONTROL,
        fontsize=9,
    )
    for axes, name, title, axis in (
        (batches, "batches", "Batch: the medical CNN", "records in a batch"),
        (parameters, "parameters", "Parameters: perceptrons, batch 256", "parameters"),
    ):
        line(axes, results[name], "dpsgd", RELEASE, "a step of DP-SGD")
        line(axes, results[name], "plain", CONTROL, "a step without privacy", dashes=(0, (5, 2)))
        say(axes, title, axis)
    line(steps, results["steps"], "calibrate", RELEASE, f"noise calibrated to ε = {EPSILON:g}")
    line(steps, results["steps"], "curve", CONTROL, "ε over the steps", dashes=(0, (5, 2)))
    say(steps, f"Steps: the accounting, sample rate {SAMPLE_RATE:g}", "steps")
    return figure


def line(
    axes: Axes,
    found: dict[int, Row],
    name: str,
    colour: str,
    label: str,
    dashes: str | tuple[float, tuple[float, ...]] = "-",
) -> None:
    """One quantity."""
    axes.plot(
        list(found),
        [row[name] for row in found.values()],
        color=colour,
        label=label,
        linestyle=dashes,
        linewidth=2,
        marker="o",
        markersize=5,
    )


def say(axes: Axes, title: str, x: str, room: float = 6.0) -> None:
    """Title, axes, legend."""
    axes.set(xscale="log", yscale="log")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.5, high * room)  # for the legend
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel("seconds", color=INK)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", fontsize=9)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 1 if drawing a batch from the most records takes 2 % of a step or more."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.processes:
        return of_processes(options)
    results: dict[str, dict[int, Row]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, measure in (
            ("records", partial(of_records, folder, options.steps)),
            ("batches", partial(of_batches, folder, options.steps)),
            ("parameters", partial(of_parameters, folder, options.steps)),
            ("steps", of_steps),
        ):
            results[name] = measure()
            print(f"\n{name:<12}" + "".join(f"{key:>18}" for key in next(iter(results[name].values()))))
            for count, row in results[name].items():
                print(f"{count:<12,}" + "".join(f"{value:>18.6f}" for value in row.values()))
    FigureCanvasAgg(draw(results)).print_png(options.figure, metadata={"Software": "dptrain"})
    print(f"\n{options.figure}")
    if options.json:
        print(json.dumps(results))
    return 0 if results["records"][max(RECORDS)]["share"] < MOST_SHARE else 1


def of_processes(options: argparse.Namespace) -> int:
    """Steps by one process and by two, and what a model of them says of many."""
    with tempfile.TemporaryDirectory() as scratch:
        splits = blank(10**5, Path(scratch))

        def seconds(model: nn.Module, batch: int, ranks: Ranks | None) -> float:
            return step_seconds(model, splits, batch, private=True, steps=options.steps, ranks=ranks)

        found = scale_ranks.measure(seconds, rounds=options.rounds)
    machine = scale_ranks.fitted(found)
    print(scale_ranks.of_measured(found, machine))
    print(f"\n{machine}\n\n{(large_gpu.__doc__ or '').strip()}\n")
    print(scale_ranks.far(large_gpu(machine)))
    FigureCanvasAgg(scale_ranks.draw(found, machine)).print_png(
        options.figure, metadata={"Software": "dptrain"}
    )
    print(f"\n{options.figure}")
    if options.json:
        print(json.dumps({"machine": asdict(machine), "measured": [asdict(each) for each in found]}))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=5, help="timed of each training (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    parser.add_argument("--figure", default="scale.png", help="where the figure goes (default scale.png)")
    parser.add_argument(
        "--processes", action="store_true", help="steps by two processes, and a model of many"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of all steps with --processes (default 3)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
