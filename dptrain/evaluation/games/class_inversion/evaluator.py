"""The evaluator of class inversions: another architecture than the target, trained on other records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dptrain.contracts import Splits
from dptrain.models.normalise import Normalise

FEATURES = 128
MOST_WEIGHED = 2**24  # records: as many weights as torch.multinomial takes
LARGEST_SIDE = 32  # larger images are averaged down to this many pixels, which keeps the evaluator cheap


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """A classifier that shares neither architecture nor training records with the target."""

    network: nn.Sequential  # all but the last layer computes the features
    accuracy: float  # on the test records
    device: torch.device

    def classify(self, inputs: Tensor) -> Tensor:
        """The class of each input: (N,) int64, on the CPU."""
        return _classify(self.network, inputs, self.device)

    @torch.no_grad()
    def log_odds(self, inputs: Tensor) -> Tensor:
        """How much likelier each class is than all others together, in nats: (N, classes), on the CPU."""
        logits = torch.cat([self.network(part.to(self.device)).double().cpu() for part in inputs.split(1024)])
        others = logits.unsqueeze(1).masked_fill(torch.eye(logits.shape[1]).bool(), -torch.inf)
        return logits - others.logsumexp(-1)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_evaluator` needs."""
        return {
            "network": {name: value.cpu() for name, value in self.network.state_dict().items()},
            "accuracy": self.accuracy,
        }

    @torch.no_grad()
    def features(self, inputs: Tensor) -> Tensor:
        """The penultimate layer: (N, 128), on the CPU."""
        body = self.network[:-1]
        return torch.cat([body(part.to(self.device)).float().cpu() for part in inputs.split(1024)])


def train_evaluator(
    splits: Splits,
    rng: torch.Generator,
    *,
    steps: int = 250,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    device: torch.device | str = "cpu",
) -> Evaluator:
    """Train an evaluator without privacy on records the target never saw: public ones, else the held-out.

    Every class is drawn equally often, so that the evaluator has no favourite among them, and
    images are shifted by up to a fourteenth of their side. 250 steps take about five seconds of one
    core for 28 x 28 images, whatever the number of records.
    """
    device = torch.device(device)
    network = _build(splits, seed=int(torch.randint(2**62, (), generator=rng))).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps)
    records = splits.holdout if splits.public_seen or splits.public is None else splits.public
    labels = records.labels
    pool = torch.arange(len(labels))
    if len(pool) > MOST_WEIGHED:
        pool = torch.randperm(len(labels), generator=rng)[:MOST_WEIGHED]
    weights = 1.0 / labels.bincount(minlength=splits.num_classes).clamp(min=1)[labels[pool]]
    order = pool[torch.multinomial(weights, steps * batch_size, replacement=True, generator=rng)]
    network.train()
    for chosen in order.split(batch_size):
        inputs = records.take(chosen).inputs
        if inputs.dim() == 4:
            inputs = _shift(inputs, rng)
        loss = F.cross_entropy(network(inputs.to(device)), labels[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval().requires_grad_(False)
    named = torch.cat([_classify(network, batch.inputs, device) for batch in splits.test.batches()])
    accuracy = float((named == splits.test.labels).double().mean())
    return Evaluator(network=network, accuracy=accuracy, device=device)


def load_evaluator(
    splits: Splits, state: Mapping[str, Any], *, device: torch.device | str = "cpu"
) -> Evaluator:
    """An evaluator of these splits that was trained before."""
    device = torch.device(device)
    network = _build(splits, seed=0)
    network.load_state_dict(state["network"])
    return Evaluator(
        network=network.to(device).eval().requires_grad_(False), accuracy=state["accuracy"], device=device
    )


@torch.no_grad()
def _classify(network: nn.Module, inputs: Tensor, device: torch.device) -> Tensor:
    return torch.cat([network(part.to(device)).argmax(-1).cpu() for part in inputs.split(1024)])


def _build(splits: Splits, *, seed: int) -> nn.Sequential:
    """A wide ReLU network: convolutions for images, dense layers for anything else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = _convolutions(splits.shape) if len(splits.shape) == 3 else _dense(splits.shape)
        head = nn.Linear(FEATURES, splits.num_classes)
    return nn.Sequential(Normalise(splits.mean, splits.std), *body, head)


def _convolutions(shape: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    if max(shape[1:]) > LARGEST_SIDE:
        layers.append(nn.AdaptiveAvgPool2d(LARGEST_SIDE))
    width, side = shape[0], min(min(shape[1:]), LARGEST_SIDE)
    for out in (32, 64):
        layers.append(nn.Conv2d(width, out, 3, padding=1))
        if side >= 2:  # of smaller images nothing would be left
            layers.append(nn.MaxPool2d(2))
        layers += [nn.GroupNorm(8, out), nn.ReLU()]
        width, side = out, side // 2
    layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.ReLU()]
    return [*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(width * 16, FEATURES), nn.ReLU()]


def _dense(shape: tuple[int, ...]) -> list[nn.Module]:
    wide = 2 * FEATURES
    return [nn.Flatten(), nn.Linear(math.prod(shape), wide), nn.ReLU(), nn.Linear(wide, FEATURES), nn.ReLU()]


def _shift(images: Tensor, rng: torch.Generator) -> Tensor:
    """Move each image by up to a fourteenth of its side, one pixel at least, each way; its border repeats."""
    count, _, height, width = images.shape
    pixels = max(1, max(height, width) // 14)
    down, right = torch.randint(-pixels, pixels + 1, (2, count, 1), generator=rng)
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + right).clamp(0, width - 1)
    every = torch.arange(count)[:, None, None]
    return images.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
