"""Trainings on neighbouring data, the outputs of every addition of noise frozen.

The first training is recorded. The second has one unit less (or another in its place), the same keys to draw
by, and is given the first one's noisy sums whatever its own sums are: the other units that it draws and all
that it computes from noised values must then be equal, and its own sums may differ by what the plan claims
at most (arXiv 2602.17454, "re:cord-play").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from dptrain.contracts import Budget, Context, Records, Splits, Streams
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.models.frozen import FrozenFeatures
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.plan import Rates
from dptrain.privacy.sampling import PoissonSampler, ShuffleSampler
from dptrain.privacy.stilled import stilled
from dptrain.tracking import NullRun
from dptrain.training.augment import Augmentation
from dptrain.training.settings import Settings

RECORDS, STEPS = 60, 8


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.GroupNorm(2, 6),
        nn.Tanh(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def _frozen() -> nn.Module:
    features = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.Tanh(), nn.Flatten())
    return FrozenFeatures(features, nn.Linear(54, 3))


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is trained, and how."""

    model: Callable[[], nn.Module] = _network
    clipping: str = "flat"
    unit: str = "record"
    adjacency: str = "add_remove"
    sampling: str = "poisson"
    settings: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Training] = {
    "flat clipping": Training(),
    "augmentation": Training(
        settings={"augmentation": Augmentation(copies=3, shift=1, flip=True), "physical_batch_size": 7}
    ),
    "per-layer clipping": Training(clipping="per_layer"),
    "automatic clipping": Training(clipping="automatic"),
    "groups": Training(unit="patient"),
    "one record replaced": Training(adjacency="replace_one"),
    "averaged weights": Training(settings={"average_decay": 0.9}),
    "frozen features": Training(model=_frozen, settings={"feature_cache_gib": 1.0}),
    "Adam": Training(settings={"optimizer": partial(torch.optim.Adam, lr=0.01)}),
    "warm-up and decay": Training(settings={"schedule": "cosine", "warmup_steps": 3}),
    "small physical batches": Training(settings={"physical_batch_size": 2}),
    "shuffled batches": Training(sampling="shuffle"),
}


@dataclass(kw_only=True)
class Record:
    """What a training drew and added up, and what came of it after noise."""

    sums: list[Tensor] = field(default_factory=list)
    noisy: list[list[Tensor]] = field(default_factory=list)
    draws: list[Tensor] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)  # hashes of all that is not summed, in order


class Metrics(NullRun):
    """A tracker that hands on what it is told."""

    def __init__(self, rest: list[str]) -> None:
        self.rest = rest

    def metric(self, name: str, value: float, step: int = 0) -> None:
        self.rest.append(_hashed(name, value, step))


def replay(name: str) -> dict[str, Any]:
    """Largest change of a step's sum over the claim, and whether all else was equal."""
    training = CASES[name]
    first, second = Record(), Record()
    whole = _splits(RECORDS)
    if training.adjacency == "replace_one":
        less, gone = _splits(RECORDS, last=99), None
    else:
        last = 2 if training.unit == "patient" else 1
        less, gone = _splits(RECORDS - last), RECORDS - last
    with _recording(first):
        claim = _train(training, whole, first)
    with _frozen_noise(first, second):
        _train(training, less, second)
    same_draws = all(
        torch.equal(a if gone is None else a[a < gone], b)
        for a, b in zip(first.draws, second.draws, strict=True)
    )
    changes = [float((a - b).norm()) for a, b in zip(first.sums, second.sums, strict=True)]
    return {
        "worst_ratio": max(changes) / claim,
        "all_else_invariant": same_draws and first.rest == second.rest and len(first.sums) == STEPS,
    }


def _splits(records: int, last: int | None = None) -> Splits:
    """The first records of one list; `last` puts another in the last one's place."""

    def some(numbers: list[int]) -> Records:
        rows = []
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            rows.append(3 * torch.rand(1, 8, 8, generator=generator) ** 2)
        return Records(torch.stack(rows).clamp(0, 1), torch.tensor([number % 3 for number in numbers]))

    numbers = list(range(records))
    if last is not None:
        numbers[-1] = last
    return Splits(
        name="numbers",
        source="drawn",
        train=some(numbers),
        holdout=some(list(range(1000, 1030))),
        test=some(list(range(2000, 2010))),
        classes=("a", "b", "c"),
        bounds=(0.0, 1.0),
        mean=(0.5,),
        std=(0.5,),
        group_ids=torch.arange(records) // 2,
    )


def _train(training: Training, splits: Splits, record: Record) -> float:
    """Train from the same weights; the plan's claim. What depends on noised values alone goes to `record`."""
    torch.manual_seed(3)
    model = training.model()
    values: dict[str, Any] = {
        "rates": Rates(sample_rate=0.4, expected_batch_size=20, steps=STEPS, sampling=training.sampling),
        "optimizer": partial(torch.optim.SGD, lr=0.5, momentum=0.9),
        "physical_batch_size": 512,
        "schedule": "constant",
        "warmup_steps": 0,
        "average_decay": 0.0,
        "evaluations": 4,
        "checkpoint_seconds": 0.0,
        "diagnostics": False,
    }
    values |= training.settings
    optimizer = values["optimizer"]
    values["optimizer"] = lambda parameters: _observed(optimizer(parameters), record.rest)
    mechanism = DPSGD(settings=Settings(**values), clipping=training.clipping, max_grad_norm=0.7)
    budget = Budget(
        epsilon=None,
        delta=1e-5,
        noise_multiplier=1.0,
        unit=training.unit,
        adjacency=training.adjacency,
        units_public=False,
    )
    context = Context(
        streams=Streams(seed=11, deterministic=True), tracker=Metrics(record.rest), device=torch.device("cpu")
    )
    with stilled():
        release, guarantee = mechanism.fit(model, splits, budget, context)
    plan = mechanism.plan(splits, budget)
    statement = replace(guarantee.statement(), units=None, delta_meaning=None, date=None, sentence="")
    record.rest += [
        _hashed(*(part for item in sorted(release.weights.items()) for part in item)),
        _hashed(release.published),
        _hashed(sorted(asdict(replace(plan, units=0)).items())),
        _hashed(statement),
        _hashed(guarantee.curve),
    ]
    return plan.sensitivity


def _observed(optimizer: torch.optim.Optimizer, rest: list[str]) -> torch.optim.Optimizer:
    """This optimizer; before and after each step its rates, its state and its gradients are hashed."""

    def look(each: torch.optim.Optimizer, *_: Any) -> None:
        for group in each.param_groups:
            rest.append(_hashed(*(value for key, value in sorted(group.items()) if key != "params")))
            for parameter in group["params"]:
                rest.append(_hashed(parameter, parameter.grad))
        state = each.state_dict()["state"]
        rest.append(_hashed(*(v for key in sorted(state) for _, v in sorted(state[key].items()))))

    optimizer.register_step_pre_hook(look)
    optimizer.register_step_post_hook(look)
    return optimizer


@contextmanager
def _recording(record: Record) -> Iterator[None]:
    """Sums before noise, sums after it, and draws go to `record`."""
    add = NoiseSource.add

    def adding(source: NoiseSource, sums: list[Tensor], std: float) -> list[Tensor]:
        record.sums.append(torch.cat([each.flatten() for each in sums]).double())
        noisy = add(source, sums, std)
        record.noisy.append([each.clone() for each in noisy])
        return noisy

    with patch.object(NoiseSource, "add", adding), _recorded_draws(record):
        yield


@contextmanager
def _frozen_noise(first: Record, second: Record) -> Iterator[None]:
    """Sums and draws go to `second`; what comes of sums is as in `first`."""

    def adding(_: NoiseSource, sums: list[Tensor], std: float) -> list[Tensor]:  # noqa: ARG001
        second.sums.append(torch.cat([each.flatten() for each in sums]).double())
        return [each.clone() for each in first.noisy[len(second.sums) - 1]]

    with patch.object(NoiseSource, "add", adding), _recorded_draws(second):
        yield


@contextmanager
def _recorded_draws(record: Record) -> Iterator[None]:
    """The units that samplers draw go to `record`."""
    draws = {kind: kind.draw for kind in (PoissonSampler, ShuffleSampler)}

    def drawing(sampler: Any) -> Tensor:
        record.draws.append(draws[type(sampler)](sampler))
        return record.draws[-1]

    with (
        patch.object(PoissonSampler, "draw", drawing),
        patch.object(ShuffleSampler, "draw", drawing),
    ):
        yield


def _hashed(*values: Any) -> str:
    whole = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            whole.update(f"{value.dtype}{tuple(value.shape)}".encode())
            whole.update(value.detach().contiguous().numpy().tobytes())
        else:
            whole.update(repr(value).encode())
    return whole.hexdigest()
