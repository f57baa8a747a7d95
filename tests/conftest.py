"""Small data, small models, and the surroundings of a training, for every test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import Page, browser
from torch import Tensor, nn

from dptrain.contracts import Budget, Context, Records, Splits, Streams
from dptrain.privacy import accountant
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.plan import Rates
from dptrain.tracking import NullRun
from dptrain.training.settings import Settings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What trains nothing and starts nothing is a unit test."""
    for item in items:
        if not any(item.iter_markers("run")) and not any(item.iter_markers("e2e")):
            item.add_marker("unit")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def accounting_remembered() -> Iterator[None]:
    """Many tests train by the same plan; it is accounted for once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("privacy_loss", "_profile", "cross_checks"):
            patch.setattr(accountant, name, lru_cache(maxsize=256)(getattr(accountant, name)))
        yield


@pytest.fixture(autouse=True, scope="module")
def modules_forgotten(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a file of tests imported from temporary folders is forgotten: the next may use its names again."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        source = getattr(sys.modules[name], "__file__", None)
        if source and Path(source).is_relative_to(tmp_path_factory.getbasetemp()):
            del sys.modules[name]


def _plan(**changes: Any) -> DPSGDPlan:
    values: dict[str, Any] = {
        "units": 1000,
        "sample_rate": 0.01,
        "steps": 1000,
        "expected_batch_size": 10,
        "max_grad_norm": 1.0,
        "noise_multiplier": 1.0,
    }
    return DPSGDPlan(**{**values, **changes})


@pytest.fixture(scope="session")
def make_plan_of() -> Callable[..., DPSGDPlan]:
    """A plan with some of its constants changed."""
    return _plan


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser, for tests that are marked `needs_browser`."""
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(20240)


def _records(count: int, rng: torch.Generator) -> Records:
    """Images (1, 8, 8) of three classes, told apart by the quarter that is bright."""
    labels = torch.randint(3, (count,), generator=rng)
    inputs = 0.3 * torch.rand(count, 1, 8, 8, generator=rng)
    for label in range(3):
        row, column = divmod(label, 2)
        inputs[labels == label, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.6
    return Records(inputs, labels)


@pytest.fixture
def splits(rng: torch.Generator) -> Splits:
    return Splits(
        name="squares",
        source="drawn for a test",
        train=_records(60, rng),
        holdout=_records(40, rng),
        test=_records(20, rng),
        classes=("a", "b", "c"),
        bounds=(0.0, 1.0),
        mean=(0.5,),
        std=(0.5,),
    )


def _mlp() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 3))


def _cnn() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.GroupNorm(4, 8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.GroupNorm(4, 8),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(128, 3),
        )


@pytest.fixture
def mlp() -> nn.Module:
    return _mlp()


@pytest.fixture
def cnn() -> nn.Module:
    return _cnn()


@pytest.fixture
def models() -> dict[str, Callable[[], nn.Module]]:
    return {"mlp": _mlp, "cnn": _cnn}


@pytest.fixture
def budget() -> Budget:
    return Budget(epsilon=None, delta=1e-5, noise_multiplier=1.0)


def _settings(**changes: Any) -> Settings:
    rates = {"expected_batch_size": 12, "steps": 8} | changes.pop("rates", {})
    values: dict[str, Any] = {
        "rates": Rates(**rates),
        "optimizer": partial(torch.optim.SGD, lr=0.5, momentum=0.9),
        "physical_batch_size": 512,
        "schedule": "constant",
        "warmup_steps": 0,
        "average_decay": 0.0,
        "evaluations": 1,
        "checkpoint_seconds": 0.0,
        "diagnostics": False,
    }
    return Settings(**{**values, **changes})


@pytest.fixture
def settings_of() -> Callable[..., Settings]:
    """Settings of a short training, some of them changed."""
    return _settings


class RecordingRun(NullRun):
    """A tracker that remembers the metrics it was told."""

    def __init__(self) -> None:
        self.metrics: list[tuple[str, float, int]] = []

    def metric(self, name: str, value: float, step: int = 0) -> None:
        self.metrics.append((name, value, step))


@pytest.fixture
def recorder() -> RecordingRun:
    return RecordingRun()


def _context(**changes: Any) -> Context:
    values: dict[str, Any] = {
        "streams": Streams(seed=7, deterministic=True),
        "tracker": NullRun(),
        "device": torch.device("cpu"),
    }
    return Context(**{**values, **changes})


@pytest.fixture
def context_of() -> Callable[..., Context]:
    """Surroundings of a deterministic training, some of them changed."""
    return _context


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir()
    return made


def _flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in weights.values()])


@pytest.fixture
def flat() -> Callable[[dict[str, Tensor]], Tensor]:
    """All the weights of a state dict in one row."""
    return _flat
