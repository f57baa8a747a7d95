#!/usr/bin/env python3
"""Pre-trained backbones, a private step beside one of SGD: python scripts/bench_backbones.py --folder FOLDER

Of each model of torchvision and timm, and of each part of it that can be trained, a row of a Markdown table:
its parameters, how many are trained, the time of a step of DP-SGD and of SGD on 8 images of 64 pixels, the
memory that the tensors of a step take beside the model, and how far the clipped sum of the engine, in double
and in single precision, is from that of a loop over single records in double precision, over its length. In
single precision that is large where rounding carries a ReLU over its kink. `way` is what the engine chose.
Each model is measured in a process of its own, its time as the median of several steps: that of a
processor, on one thread.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import logging
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from dptrain.models.frozen import split
from dptrain.models.pretrained.timm import timm_model
from dptrain.models.pretrained.torchvision import torchvision_model
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.agreement import choose
from dptrain.privacy.clipping import MARGIN, MARGIN_A_RECORD
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.privacy.layers import check_layers

MODELS: dict[str, Callable[..., nn.Module]] = {
    **dict.fromkeys(
        (
            "resnet18", "resnet50", "densenet121", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny",
            "vit_b_16",
        ),
        torchvision_model,
    ),
    **dict.fromkeys(
        ("tf_efficientnet_lite0", "vit_tiny_patch16_224", "resnet10t", "convnextv2_atto"), timm_model
    ),
}  # fmt: skip
TRAINABLE = ("head", "bias", "norm", "last_block", "all")
SHAPE, CLASSES, BATCH, STEPS = (3, 64, 64), 10, 8, 3
MIB = 2**20
HEADING = (
    "| model | trained | parameters | of which trained | SGD, ms | DP-SGD, ms | SGD, MiB | DP-SGD, MiB "
    "| error in double | in single | way |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|"
)


def make(name: str, trainable: str, folder: Path) -> nn.Module:
    """The model with weights from a file, so that its BatchNorm has statistics to keep."""
    path = weights_file(name, folder)
    torch.manual_seed(0)
    return MODELS[name](SHAPE, CLASSES, name=name, weights=str(path), trainable=trainable)


def weights_file(name: str, folder: Path) -> Path:
    """The file of a model's weights, which is made where it is not there."""
    path = folder / f"{name}.pth"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        torch.save(some_weights(name), path)
    return path


def some_weights(name: str) -> dict[str, Tensor]:
    """Weights of the whole network that nobody trained, after its BatchNorm has seen noise."""
    if MODELS[name] is timm_model:
        import timm

        sides = {"img_size": SHAPE[1:]} if "vit" in name else {}
        network = timm.create_model(name, **sides)
    else:
        import torchvision

        sides = {"image_size": SHAPE[1]} if "vit" in name else {}
        network = torchvision.models.get_model(name, **sides)
    with torch.no_grad():
        for _ in range(20):
            network.train()(torch.randn(8, *SHAPE))
    return network.state_dict()


def row(name: str, trainable: str, folder: Path) -> str:
    """A row of the table."""
    model = check_layers(make(name, trainable, folder), replace_batch_norm=False)
    images = torch.rand(BATCH, *SHAPE, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(BATCH) % CLASSES
    parts = split(model)
    part, inputs = model, images
    if parts is not None:  # features are made once, and the rest is what a step trains
        with torch.no_grad():
            part, inputs = parts[1], parts[0](images)
    loss = partial(F.cross_entropy, reduction="none")
    limit, truth = slow_sum(part, inputs, labels)
    chosen = choose("bookkeeping", part, loss, inputs)

    def engine_of(part: nn.Module) -> DPSGDEngine:
        plan = DPSGDPlan(
            units=BATCH, sample_rate=1.0, steps=1, expected_batch_size=BATCH,
            max_grad_norm=limit / (1 - MARGIN - BATCH * MARGIN_A_RECORD),  # which the engine stays below
            noise_multiplier=1.0,
        )  # fmt: skip
        optimizer = torch.optim.SGD([each for each in part.parameters() if each.requires_grad], lr=0.0)
        noise = torch.Generator().manual_seed(0)
        return DPSGDEngine("bookkeeping", part, optimizer, plan, loss=loss, generator=noise, chosen=chosen)

    double = engine_of(copy.deepcopy(part).double())
    double.accumulate(inputs.double(), labels)
    errors = [apart(double.total(), truth)]
    del double
    trained = [each for each in part.parameters() if each.requires_grad]

    def plain() -> None:
        loss(part(inputs), labels).mean().backward()
        for each in trained:
            each.grad = None

    engine = engine_of(part)
    engine.accumulate(inputs, labels)
    errors.append(apart(engine.total().double(), truth))
    engine.update()
    way = type(engine.gradients).__name__

    def private() -> None:
        engine.accumulate(inputs, labels)
        engine.update()

    sgd, dpsgd = cost(plain), cost(private)
    counts = [sum(each.numel() for each in some) for some in (model.parameters(), trained)]
    numbers = (*(f"{count:,}" for count in counts), *(f"{sgd[0]:.0f}", f"{dpsgd[0]:.0f}"))
    made = "" if parts is None else ", features once"
    return (
        f"| {name} | {trainable}{made} | {' | '.join(numbers)} | {sgd[1]:.0f} | {dpsgd[1]:.0f} "
        f"| {errors[0]:.0e} | {errors[1]:.0e} | {way} |"
    )


def slow_sum(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """A clipping norm that half of the records exceed, and the clipped sum, one record after the other."""
    double = copy.deepcopy(model).double()
    trained = [each for each in double.parameters() if each.requires_grad]

    def gradient(one: int) -> Tensor:
        loss = F.cross_entropy(double(inputs[one : one + 1].double()), labels[one : one + 1])
        found = torch.autograd.grad(loss, trained, allow_unused=True)
        return torch.cat(
            [
                (torch.zeros_like(each) if one is None else one).flatten()
                for one, each in zip(found, trained, strict=True)
            ]
        )

    limit = float(torch.stack([gradient(one).norm() for one in range(len(inputs))]).median())
    total = torch.zeros(sum(each.numel() for each in trained), dtype=torch.float64)
    for one in range(len(inputs)):
        found = gradient(one)
        total += found * min(1.0, limit / float(found.norm()))
    return limit, total


def apart(found: Tensor, truth: Tensor) -> float:
    """The length of the difference over that of the truth."""
    return float((found - truth).norm() / truth.norm())


def cost(step: Callable[[], None]) -> tuple[float, float]:
    """Milliseconds of a step, and the MiB that its tensors take together at their highest."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [each for each in profiler.profiler.kineto_results.events() if each.name() == "[memory]"]
    events.sort(key=lambda each: each.start_ns())
    held = list(itertools.accumulate(each.nbytes() for each in events))
    times = []
    for _ in range(STEPS):
        started = time.process_time()
        step()
        times.append(1000 * (time.process_time() - started))
    return statistics.median(times), max(held, default=0) / MIB


def rows(name: str, trainable: tuple[str, ...], folder: Path) -> None:
    """Print the rows of a model."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for each in trainable:
        try:
            print(row(name, each, folder), flush=True)
        except Exception as error:
            print(f"| {name} | {each} | {type(error).__name__}: {error} |", flush=True)
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), help="all of them by default")
    parser.add_argument("--trainable", nargs="*", default=TRAINABLE, choices=TRAINABLE)
    parser.add_argument("--folder", type=Path, required=True, help="where weights are put meanwhile")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(HEADING, flush=True)
    context = multiprocessing.get_context("spawn")
    for name in arguments.models:
        process = context.Process(target=rows, args=(name, tuple(arguments.trainable), arguments.folder))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
