#!/usr/bin/env python3
"""What privacy costs in time and memory, a step of DP-SGD beside one of SGD: python scripts/bench_step.py

Five models, four ways to take a step, each in a process of its own, so that peak memory is told apart:

plain         SGD in plain PyTorch
opacus_hooks  Opacus' GradSampleModule: every record's gradient in full
opacus_ghost  Opacus' fast gradient clipping: a pass for norms, a second for the weighted sum
dptrain       mechanism.engine=bookkeeping: one pass for the gradients of layer outputs

The processes take turns of a quarter of a second or of one step, and each private turn is compared with the
plain turn just before it: the speed shown is the median over pairs. Each mode runs as its users run it,
which for dptrain means that freed memory is kept for the next step (`dptrain/cli/process.py`) and that
threads wait for each other as `dptrain/__init__.py` says; with --alike they do in every mode. Memory is the
highest resident memory of a process (on a GPU: allocated by PyTorch) over that of the plain one. Noise and
update are part of every private step.

With --compiled there are two more ways: plain SGD's model, and dptrain's way to per-record gradients, by
torch.compile. That takes a compiler for C++, or on a GPU Triton; how long the first step takes is told.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.nn import functional as F

from dptrain import WAITING
from dptrain.cli.process import keep_freed_memory
from dptrain.models.cnn import SmallCNN
from dptrain.models.mlp import Logistic, Mlp
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.agreement import choose
from dptrain.privacy.bookkeeping.shares import Share
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.privacy.gradients import Gradients
from dptrain.privacy.noise.keys import key_from
from dptrain.privacy.noise.source import NoiseSource

MODES = {"plain": "", "opacus_hooks": "hooks", "opacus_ghost": "", "dptrain": "bookkeeping"}
COMPILED = "_compiled"  # ends the name of a mode whose model, or way to gradients, is compiled
WARM_UP = 2  # steps that are not timed
TURN = 0.25  # seconds that a process takes steps before the next one's turn: a step in training is not alone


class Block(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016), with GroupNorm."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(32, out)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(32, out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width, out, 1, stride=stride, bias=False), nn.GroupNorm(32, out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 as it is used for images of 32 pixels: a 3 x 3 stem and no pooling before the blocks."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.GroupNorm(32, 64), nn.ReLU()]
    width = 64
    for out, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        layers.append(Block(width, out, stride))
        width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class EncoderLayer(nn.Module):
    """Self-attention and two linear layers, each after LayerNorm (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        query, key, value = (
            layer(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """An encoder that classifies texts (n, length) of token numbers."""

    def __init__(self, *, vocabulary: int, length: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.layers = nn.Sequential(*(EncoderLayer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 2)

    def forward(self, texts: Tensor) -> Tensor:
        places = torch.arange(texts.shape[1], device=texts.device).repeat(len(texts), 1)
        x = self.layers(self.tokens(texts) + self.places(places))
        return self.head(self.norm(x).mean(1))


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model and the batches that it is trained on."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    classes: int


TASKS = {
    "cnn": Task(
        build=lambda: SmallCNN((1, 28, 28), 2), inputs=lambda: torch.randn(256, 1, 28, 28), classes=2
    ),
    "resnet18": Task(build=resnet18, inputs=lambda: torch.randn(64, 3, 32, 32), classes=10),
    "mlp": Task(
        build=lambda: Mlp((108,), 2, widths=(256, 256, 256)),
        inputs=lambda: torch.randn(1024, 108),
        classes=2,
    ),
    "transformer": Task(
        build=lambda: Transformer(vocabulary=8192, length=128, width=256, layers=4, heads=4),
        inputs=lambda: torch.randint(8192, (32, 128)),
        classes=2,
    ),
    # Scattering features are computed once, normalised and kept: the head is what a step trains.
    "linear": Task(
        build=lambda: Logistic((81, 7, 7), 10), inputs=lambda: torch.randn(4096, 81, 7, 7), classes=10
    ),
}


def make_step(task: Task, mode: str, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """One step of SGD on a batch that stays the same, by this mode; in bfloat16 with weights in float32."""
    compiled, mode = mode.endswith(COMPILED), mode.removesuffix(COMPILED)
    torch.manual_seed(0)
    low = dtype == torch.bfloat16
    wide = torch.float32 if low else dtype
    autocast = partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=low)
    model = task.build().to(device, wide).train()
    inputs = task.inputs()
    labels = torch.randint(task.classes, (len(inputs),)).to(device)
    inputs = inputs.to(device, wide) if inputs.is_floating_point() else inputs.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    if mode == "plain":
        forward = torch.compile(model) if compiled else model

        def step() -> None:
            with autocast():
                outputs = forward(inputs)
            F.cross_entropy(outputs.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    if mode == "opacus_ghost":
        return ghost_step(model, optimizer, inputs, labels, autocast)
    plan = DPSGDPlan(
        units=len(inputs),
        sample_rate=1.0,
        steps=1,
        expected_batch_size=len(inputs),
        max_grad_norm=1.0,
        noise_multiplier=1.0,
    )
    loss = partial(F.cross_entropy, reduction="none")
    noise = NoiseSource.on(device, key_from(torch.Generator().manual_seed(0)))
    chosen = choose(MODES[mode], model, loss, inputs, bfloat16=True) if low and mode == "dptrain" else None
    engine = DPSGDEngine(MODES[mode], model, optimizer, plan, loss=loss, generator=noise, chosen=chosen)
    if compiled:
        if engine.gradients is None:
            engine.prepare(inputs)
        assert engine.gradients is not None
        engine.gradients = Compiled(engine.gradients)

    def private_step() -> None:
        with autocast() if chosen is None else nullcontext():
            engine.accumulate(inputs, labels)
        engine.update()

    return private_step


class Compiled:
    """A way to gradients by torch.compile, which goes on in Python where it cannot."""

    def __init__(self, gradients: Gradients) -> None:
        self.rows_at_once = gradients.rows_at_once
        self._call = torch.compile(gradients.__call__)

    def __call__(self, inputs: Tensor, labels: Tensor, copies: int) -> tuple[Tensor, list[Share | None]]:
        return self._call(inputs, labels, copies)


def ghost_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    autocast: Callable[[], torch.autocast],
) -> Callable[[], None]:
    """One step by Opacus alone, its optimizer and its loss."""
    # Opacus' hooks are not meant for the inputs' own gradients, of which PyTorch warns.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    module = GradSampleModuleFastGradientClipping(
        model, loss_reduction="mean", max_grad_norm=1.0, use_ghost_clipping=True
    )
    noise = torch.Generator(inputs.device).manual_seed(0)
    private = DPOptimizerFastGradientClipping(
        optimizer, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=len(inputs), generator=noise
    )
    loss = DPLossFastGradientClipping(module, private, nn.CrossEntropyLoss(), "mean")

    def step() -> None:
        with autocast():
            outputs = module(inputs)
        loss(outputs.float(), labels).backward()
        private.step()
        private.zero_grad()

    return step


def serve(model: str, mode: str, options: argparse.Namespace) -> None:
    """Take a step for each line that comes in, and answer with its seconds; at the end with peak memory.

    First with the seconds of the very first step, once it is warm.
    """
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if options.alike or mode.startswith("dptrain"):
        keep_freed_memory()
    step = make_step(TASKS[model], mode, device, getattr(torch, options.dtype))
    first, *_ = [timed(step, device) for _ in range(WARM_UP)]
    print(first, flush=True)
    for _ in sys.stdin:
        print(turn(step, device), flush=True)
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated(device) / 2**20)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def turn(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of a step, the median of those that fit in a turn; the first of several warms up again."""
    seconds: list[float] = []
    while sum(seconds) < TURN:
        seconds.append(timed(step, device))
    return statistics.median(seconds[1:] or seconds)


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of this step, until the device has done it."""
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


class Worker:
    """A process that takes steps of one model in one mode when it is told to."""

    def __init__(self, model: str, mode: str, options: argparse.Namespace) -> None:
        here = Path(__file__).resolve()
        command = [sys.executable, str(here), "--serve", model, mode]
        command += [f"--{name}={getattr(options, name)}" for name in ("threads", "device", "dtype")]
        command += ["--alike"] * options.alike
        environment = dict(os.environ)
        if not mode.startswith("dptrain") and not options.alike:
            environment = {name: value for name, value in environment.items() if name not in WAITING}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=here.parents[1],
            env=environment,
        )

    def ready(self) -> float:
        """Wait until it is warm; the seconds of its first step."""
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process ended early: {' '.join(map(str, self.process.args))}")
        return line

    def step(self) -> float:
        """Seconds of one step."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return float(self._answer())

    def finish(self) -> float:
        """Highest memory in MiB; the process is gone."""
        peak, _ = self.process.communicate()
        return float(peak)


def started(model: str, options: argparse.Namespace) -> dict[str, Worker]:
    """A process for each mode, warm; what does not compile is told and left out."""
    modes = [*MODES, *(mode + COMPILED for mode in ("plain", "dptrain") if options.compiled)]
    workers = {mode: Worker(model, mode, options) for mode in modes}
    for mode in modes:
        try:
            first = workers[mode].ready()
        except RuntimeError:
            if not mode.endswith(COMPILED):
                raise
            del workers[mode]
            print(f"{model:<12}{mode:<18} does not compile, for the reason above", flush=True)
            continue
        if mode.endswith(COMPILED):
            print(f"{model:<12}{mode:<18}{first:8.1f} s for the first step", flush=True)
    return workers


def measure(model: str, options: argparse.Namespace) -> dict[str, object]:
    """Speeds and memory relative to plain SGD, and the plain figures themselves on the way."""
    workers = started(model, options)
    compared = [mode for mode in workers if mode != "plain"]
    speeds: dict[str, list[float]] = {mode: [] for mode in compared}
    plain: list[float] = []
    for _ in range(options.repeats):
        for mode in compared:
            plain.append(workers["plain"].step())
            speeds[mode].append(plain[-1] / workers[mode].step())
    peaks = {mode: worker.finish() for mode, worker in workers.items()}
    found = {mode: statistics.median(values) for mode, values in speeds.items()}
    memory = {mode: peaks[mode] / peaks["plain"] for mode in compared}
    for mode in compared:
        print(f"{model:<12}{mode:<18}{found[mode]:8.2f}{memory[mode]:8.2f}", flush=True)
    print(f"{model:<12}{'plain':<18}{statistics.median(plain) * 1e3:8.1f} ms{peaks['plain']:8.0f} MiB")
    return {**found, "memory": memory}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark."""
    options = parse(arguments)
    if options.serve:
        model, mode = options.serve
        serve(model, mode, options)
        return 0
    started = time.perf_counter()
    card = f", {torch.cuda.get_device_name()}" if options.device == "cuda" else ""
    print(f"{options.threads} threads, {options.device}{card}, {options.dtype}\n")
    print(f"{'model':<12}{'mode':<18}{'speed':>8}{'memory':>8}   relative to plain SGD")
    table = {model: measure(model, options) for model in options.models.split(",")}
    print(f"\n{time.perf_counter() - started:.0f} seconds")
    if options.json:
        print(json.dumps(table))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default=",".join(TASKS), help="some of them, with commas (default all)")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of steps a mode (default 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch (default all cores)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default float32)")
    parser.add_argument(
        "--alike",
        action="store_true",
        help="dptrain's handling of memory and threads for all, so that only the arithmetic differs",
    )
    parser.add_argument("--compiled", action="store_true", help="torch.compile for plain SGD and dptrain too")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := set(options.models.split(",")) - set(TASKS):
        parser.error(f"--models {', '.join(sorted(unknown))} is unknown; choose among {', '.join(TASKS)}")
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats} must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
