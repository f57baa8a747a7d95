"""How far one unit moves the sum that noise is added to, over what the plan claims: at most 1, or refused.

python scripts/check_sensitivity.py [--json] [--quick | --backbones FOLDER]

First part: models ordinary, unusual and mixing. Each is put to the tests that a run puts it to; of one that
is accepted, the clipped sum of a batch is compared with that of the batch without each of its units in turn,
in every way of clipping, by records and by groups, with and without copies, combined so that every pair of
choices occurs. Some records are extreme: zero, a thousand times as large, infinite, no number.

Second part, in the manner of "re:cord-play" (arXiv 2602.17454): whole trainings on neighbouring data, the
outputs of every addition of noise frozen to those of the first. All that is not noised must then be equal,
and the sums before the noise may differ by the claim at most.

With --backbones the pre-trained networks of scripts/bench_backbones.py take the place of all these, each with
every part of it that can be trained; it takes an hour of a core. Then none may be refused.

The last line is one JSON object: worst_ratio, refused, accepted (model, mode: ratio), replay (case:
worst_ratio, all_else_invariant).
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.contracts import ConfigError, Form, Task
from dptrain.models.cnn import SmallCNN
from dptrain.models.mlp import Mlp
from dptrain.models.wide_resnet import WideResNet
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.agreement import ROWS_AT_MOST
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.privacy.independence.check import find_dependence
from dptrain.privacy.layers import check_layers
from dptrain.privacy.noise.keys import Stream
from dptrain.privacy.sampling import Units
from dptrain.privacy.stilled import stilled
from dptrain.tasks import Classification, MultiLabel, Ordinal, Regression

sys.path.insert(0, str(Path(__file__).parent))
from bench_backbones import CLASSES as IMAGE_CLASSES
from bench_backbones import MODELS as BACKBONES
from bench_backbones import SHAPE as IMAGES
from bench_backbones import TRAINABLE, weights_file
from bench_backbones import make as backbone
from layer_models import CASES, VOCABULARY
from mixing_models import MIXING, REMEMBERING
from replay import CASES as TRAININGS
from replay import replay

# Clipping, unit and copies, so that every two choices occur together.
MODES = (
    ("flat", "record", 1),
    ("flat", "group", 2),
    ("per_layer", "record", 2),
    ("per_layer", "group", 1),
    ("automatic", "record", 1),
    ("automatic", "group", 2),
)
UNITS = 8
USUAL = (
    "Conv",
    "Linear",
    "Norm",
    "Embedding",
    "Attention",
    "RNN",
    "GRU",
    "LSTM",
)  # layers, in many configurations
FEW = 60  # models of the catalogue that are taken, evenly over its kinds, beside all the unusual ones


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model of inputs (n, *shape)."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    large: bool = False  # is measured in one mode alone
    labels: Task | None = None  # None: classes

    @property
    def task(self) -> Task:
        return self.labels or Classification(classes=self.classes)

    def inputs(self, count: int, generator: torch.Generator) -> Tensor:
        """Records that differ in size by far, the last ones extreme."""
        drawn = torch.randn(count, *self.shape, generator=generator)
        for row, scale in enumerate((0.0, 1e3, 1e-3, math.inf, math.nan), start=count - 5):
            drawn[row] *= scale
        return drawn


class Tokens(nn.Module):
    """A model of whole numbers below VOCABULARY, as one of numbers from 0 to 1."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = (inputs.nan_to_num(nan=0.5).clamp(0, 1) * VOCABULARY).long().clamp(max=VOCABULARY - 1)
        logits: Tensor = self.model(tokens)
        return logits


def subjects(*, quick: bool, backbones: Path | None = None) -> Iterator[Subject]:
    """Ordinary and unusual models, then those that mix records or remember them; or pre-trained ones.

    `backbones` is a folder for the weights of these.
    """
    if backbones is not None:
        for name in BACKBONES:
            for trainable in TRAINABLE:
                yield Subject(
                    name=f"{name}, trainable={trainable}",
                    make=partial(backbone, name, trainable, backbones),
                    shape=IMAGES,
                    classes=IMAGE_CLASSES,
                    large=True,
                )
        return
    cases = list(CASES)
    every = max(1, len(cases) // (6 if quick else FEW))
    for index, case in enumerate(cases):
        usual = any(word in case.name for word in USUAL)
        if index % every == 0 or not (usual or quick):
            make = (lambda case=case: Tokens(case.make())) if case.tokens else case.make
            yield Subject(name=case.name, make=make, shape=case.shape, classes=2)
    digits = (1, 8, 8)
    yield Subject(name="SmallCNN", make=partial(SmallCNN, digits, 10), shape=digits, classes=10)
    yield Subject(name="Mlp", make=partial(Mlp, digits, 10), shape=digits, classes=10)
    if not quick:
        colour = (3, 16, 16)
        yield Subject(
            name="WideResNet", make=partial(WideResNet, colour, 10), shape=colour, classes=10, large=True
        )
        yield Subject(name="ResNet-18", make=_resnet, shape=(3, 32, 32), classes=10, large=True)
    for task in (
        MultiLabel(labels=5),
        Ordinal(classes=5),
        Regression(bounds=(0.0, 9.0)),
        Regression(bounds=(-1e30, 1e30)),
    ):
        made = partial(Mlp, digits, task.outputs[-1])
        yield Subject(name=f"loss: {task}", make=made, shape=digits, classes=task.outputs[-1], labels=task)
    for name, make in MIXING.items():
        yield Subject(name=f"mixing: {name}", make=make, shape=(8,), classes=3)
    for name, (make, _) in REMEMBERING.items():
        yield Subject(name=f"remembering: {name}", make=make, shape=(8,), classes=3)


def _resnet() -> nn.Module:
    from torchvision.models import resnet18

    return resnet18(num_classes=10, norm_layer=partial(nn.GroupNorm, 8))


def refusal(subject: Subject) -> str | None:
    """What a run would say before its first step; None where it would train."""
    try:
        model = check_layers(subject.make(), replace_batch_norm=False, freeze_batch_norm=False)
    except ConfigError as error:
        return str(error)
    return find_dependence(
        model,
        forms=Form(shape=subject.shape),
        labels=subject.task.made_up,
        loss=subject.task.loss,
    )


def worst_change(subject: Subject, clipping: str, unit: str, copies: int) -> float:
    """Largest change of the clipped sum as one unit is left out, over the clipping norm."""
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(6)
    model = check_layers(subject.make(), replace_batch_norm=False, freeze_batch_norm=False)
    plan = DPSGDPlan(
        units=UNITS,
        sample_rate=0.5,
        steps=1,
        expected_batch_size=4,
        max_grad_norm=1.0,
        noise_multiplier=1.0,
        clipping=clipping,
    )
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    engine = DPSGDEngine(
        "bookkeeping",
        model,
        optimizer,
        plan,
        loss=subject.task.loss,
        generator=torch.Generator().manual_seed(7),
    )
    if subject.labels is not None:  # engines try classes of their own
        engine.prepare(torch.zeros(1, *subject.shape), copies, subject.task.made_up(ROWS_AT_MOST, generator))
    records = UNITS if unit == "record" else 2 * UNITS
    inputs = subject.inputs(records, generator)
    labels = subject.task.made_up(records, generator)
    units = Units(records, None if unit == "record" else torch.arange(records) % UNITS)
    picked = units.pick(torch.arange(len(units)), Stream(bytes(32)))

    def total(chosen: Tensor) -> Tensor:
        """The sum of these units alone; masks and copies are those of each unit, whoever else is there."""
        views = inputs[chosen].repeat_interleave(copies, 0)
        if copies > 1 and subject.shape:
            views[1::2] = views[1::2].flip(-1)
        with stilled():
            engine.accumulate(views, labels[chosen].repeat_interleave(copies, 0), copies)
        found = engine.total().double()
        engine.optimizer.zero_grad(set_to_none=True)
        return found

    whole = total(picked)
    changes = [
        float((whole - total(torch.cat([picked[:out], picked[out + 1 :]]))).norm()) for out in range(UNITS)
    ]
    return max(changes) / plan.sensitivity if all(map(math.isfinite, changes)) else math.inf


Ratios = dict[str, float]


def examine(number: int, *, quick: bool, backbones: Path | None = None) -> tuple[str, str | Ratios]:
    """Of the model of this number: its name, and why it is refused or its ratio in each mode."""
    subject = list(subjects(quick=quick, backbones=backbones))[number]
    if (reason := refusal(subject)) is not None:
        return subject.name, reason
    modes = MODES[:1] if subject.large else MODES[:3] if quick else MODES
    try:
        return subject.name, {
            f"{clipping}, {unit}, {copies} {'copy' if copies == 1 else 'copies'}": worst_change(
                subject, clipping, unit, copies
            )
            for clipping, unit, copies in modes
        }
    except ConfigError as error:
        return subject.name, str(error)


def measure(
    *, quick: bool, processes: int, say: Callable[[str], None], backbones: Path | None = None
) -> dict[str, Any]:
    """Both parts, as the last line has them."""
    refused: list[str] = []
    accepted: dict[str, Ratios] = {}
    trainings: dict[str, dict[str, Any]] = {}
    if backbones is not None:  # before there are processes that would make the same ones
        for name in BACKBONES:
            weights_file(name, backbones)
    names = [] if backbones else list(TRAININGS)[: 2 if quick else None]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_alone) as pool:
        count = len(list(subjects(quick=quick, backbones=backbones)))
        replays = [pool.submit(replay, name) for name in names]
        found = [pool.submit(examine, number, quick=quick, backbones=backbones) for number in range(count)]
        for name, each in zip(names, replays, strict=True):
            trainings[name] = each.result()
            ratio, same = trainings[name]["worst_ratio"], trainings[name]["all_else_invariant"]
            say(f"{ratio:9.6f}  replay: {name}{'' if same else ': SOMETHING ELSE DIFFERS'}")
        for each in found:
            name, result = each.result()
            if isinstance(result, str):
                refused.append(name)
                say(f"  refused  {name}: {result[:90]}")
            else:
                accepted[name] = result
                say(f"{max(result.values()):9.6f}  {name}")
    ratios = [ratio for modes in accepted.values() for ratio in modes.values()]
    ratios += [each["worst_ratio"] for each in trainings.values()]
    return {
        "worst_ratio": max(ratios, default=0.0),
        "refused": refused,
        "accepted": accepted,
        "replay": trainings,
    }


def _alone() -> None:
    """A process of its own for one thread, which says nothing."""
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON object alone")
    parser.add_argument("--quick", action="store_true", help="a few models, modes and trainings")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="at a time (default: the cores)"
    )
    parser.add_argument("--backbones", type=Path, metavar="FOLDER", help="where weights are put meanwhile")
    arguments = parser.parse_args()
    started = time.perf_counter()
    say = (
        (lambda line: print(line, file=sys.stderr, flush=True))
        if arguments.json
        else partial(print, flush=True)
    )
    found = measure(
        quick=arguments.quick, processes=arguments.processes, say=say, backbones=arguments.backbones
    )
    say(f"{time.perf_counter() - started:.0f} seconds")
    print(json.dumps(found))
    mixing = [name for name in found["accepted"] if name.startswith(("mixing", "remembering"))]
    same = all(each["all_else_invariant"] for each in found["replay"].values())
    lost = arguments.backbones is not None and found["refused"]
    return 0 if found["worst_ratio"] <= 1.0 and not mixing and same and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
