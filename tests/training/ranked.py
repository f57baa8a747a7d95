"""Trainings by one process or by several, for tests that compare them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from dptrain.contracts import Budget, Context, Release, Splits
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.training.augment import Augmentation

Fit = Callable[..., tuple[Release, Any]]


class Tokens(nn.Module):
    """A transformer whose attention is large enough to be gathered by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 192)
        self.layer = nn.TransformerEncoderLayer(192, 2, 64, dropout=0.1, batch_first=True)
        self.last = nn.Linear(192, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.layer(self.first(inputs.flatten(1).unflatten(1, (8, 8)))).mean(1))


class Adapted(nn.Module):
    """A frozen layer with an update of low rank, which is trained (LoRA)."""

    def __init__(self, rank: int = 4) -> None:
        super().__init__()
        self.frozen = nn.Linear(64, 2000).requires_grad_(requires_grad=False)
        self.down, self.up = nn.Linear(64, rank, bias=False), nn.Linear(rank, 2000, bias=False)
        self.last = nn.Linear(2000, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        return self.last(torch.tanh(self.frozen(flat) + self.up(self.down(flat))))


def resnet18() -> nn.Module:
    network = torchvision.models.resnet18(num_classes=3, norm_layer=partial(nn.GroupNorm, 32))
    network.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    return network


def model(name: str = "mlp") -> nn.Module:
    made = {"transformer": Tokens, "adapted": Adapted, "resnet18": resnet18}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        if name in made:
            return made[name]()
        if name == "wide":
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 2000), nn.Tanh(), nn.Linear(2000, 3))
        if name == "cnn":
            layers = [nn.Conv2d(1, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
            return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 3))
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.5), nn.Linear(12, 3))


class Alone:
    """One process, which divides batches as several would."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.way, self.sharded = "", False

    def team(self, job: object) -> Any:  # noqa: ARG002
        return nullcontext(Nobody())


class Nobody:
    """A team of one."""

    size = 1

    def begin(self, *_: Any) -> None:
        pass

    def collect(self) -> float:
        return 0.0


def trainer(splits: Splits, settings_of: Callable[..., Any], context_of: Callable[..., Context]) -> Fit:
    """Trains by these ranks, or by one process that divides batches as so many `lanes` would."""

    def run(
        ranks: Any,
        *,
        name: str = "mlp",
        made: nn.Module | None = None,
        data: Splits = splits,
        unit: str = "record",
        lanes: int = 3,
        mechanism: Callable[..., Any] = DPSGD,
        context: dict[str, Any] | None = None,
        **changes: Any,
    ) -> tuple[Release, Any]:
        settings = settings_of(**{"physical_batch_size": 4, **changes})
        budget = Budget(epsilon=None, delta=1e-5, noise_multiplier=1.0, unit=unit)
        surroundings = context_of(ranks=ranks or Alone(lanes), **(context or {}))
        found: tuple[Release, Any] = mechanism(settings=settings).fit(
            made or model(name), data, budget, surroundings
        )
        return found

    return run


def releases_agree(
    train: Fit, ranks: Any, flat: Callable[..., Tensor], splits: Splits, options: dict[str, Any]
) -> str:
    """One process and these release the same, bit for bit; what the statement says of them."""
    if options.get("unit") == "group":
        options = {**options, "data": replace(splits, group_ids=torch.arange(len(splits.train)) // 3)}
    (alone, _), (together, said) = train(None, **options), train(ranks, **options)
    assert torch.equal(flat(alone.weights), flat(together.weights))
    assert alone.published == together.published
    outside: str = said.statement().outside_guarantee[-1]
    return outside


def control_agrees(train: Fit, ranks: Any, flat: Callable[..., Tensor]) -> None:
    """One process and these train the same without privacy, but for rounding."""
    options = {"mechanism": NonPrivate, "context": {"dtype": torch.float64}, "rates": {"steps": 50}}
    (alone, _), (together, _) = train(None, **options), train(ranks, **options)
    torch.testing.assert_close(flat(alone.weights), flat(together.weights), rtol=1e-9, atol=1e-9)


class Looking:
    """Keeps what an observer sees of each step."""

    def __init__(self) -> None:
        self.noise: list[Tensor] = []
        self.canaries: list[Tensor] = []
        self.own: list[Tensor] = []

    def observe(self, seen: Any) -> None:
        self.noise.append(seen.noise)
        self.canaries.append(seen.undecided("canaries"))
        self.own.append(seen.view(0))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def observers_agree(train: Fit, ranks: Any, copies: int) -> None:
    """Observers see the same of one process and of these, bit for bit."""
    augmentation = Augmentation(copies=copies, shift=1, flip=True) if copies else None
    seen = []
    for helpers in (None, ranks):
        looking = Looking()
        context = {"observers": (looking,), "planted": (3, 4), "probed": (7, 8, 9)}
        train(helpers, context=context, augmentation=augmentation)
        seen.append(looking)
    alone, together = seen
    for name in ("noise", "canaries", "own"):
        mine, theirs = getattr(alone, name), getattr(together, name)
        assert all(map(torch.equal, mine, theirs)), name
