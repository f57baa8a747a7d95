"""Models as people write them: each trains, is estimated and observed, or is refused by name."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from opacus.layers import DPLSTM, DPMultiheadAttention
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from dptrain.contracts import Budget, ConfigError, Splits
from dptrain.contracts.layers import FrozenBatchNorm, GroupNormOfEnough
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.layers import check_layers
from dptrain.training.estimate import blank, seconds_per_step

pytestmark = pytest.mark.run

CPU = torch.device("cpu")


class Of(nn.Module):
    """Named layers, and any function of them and of images (n, 1, 8, 8) to logits (n, 3)."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **layers: Any) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self, images)


def by_rows(net: Any, images: Tensor) -> Tensor:
    """Images as sequences of their rows, the last state to classes."""
    first = net.layer.batch_first
    found, _ = net.layer(images[:, 0] if first else images[:, 0].transpose(0, 1))
    return net.head(found[:, -1] if first else found[-1])


def attended(net: Any, images: Tensor) -> Tensor:
    rows = images[:, 0]
    return net.head(net.layer(rows, rows, rows)[0].flatten(1))


def encoded(net: Any, images: Tensor) -> Tensor:
    return net.head(net.layer(images[:, 0]).mean(1))


def linear(net: Any, images: Tensor) -> Tensor:
    return net.used(images.flatten(1))


def times(net: Any, images: Tensor) -> Tensor:
    return images.flatten(1) @ net.weight


def _recurrent(layer: nn.Module) -> nn.Module:
    return Of(by_rows, layer=layer, head=nn.Linear(6, 3))


ORDINARY: dict[str, Callable[[], nn.Module]] = {
    "an unused layer": lambda: Of(linear, used=nn.Linear(64, 3), unused=nn.Linear(5, 5)),
    "activations in place": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)
    ),
    "LSTM": lambda: _recurrent(nn.LSTM(8, 6, batch_first=True)),
    "time-first GRU": lambda: _recurrent(nn.GRU(8, 6)),
    "time-first DPLSTM": lambda: _recurrent(DPLSTM(8, 6)),
    "attention": lambda: Of(
        attended, layer=nn.MultiheadAttention(8, 2, batch_first=True), head=nn.Linear(64, 3)
    ),
    "transformer": lambda: Of(
        encoded, layer=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), head=nn.Linear(8, 3)
    ),
    "weight_norm": lambda: nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(64, 3))),
    "a parameter": lambda: Of(times, weight=nn.Parameter(torch.zeros(64, 3))),
}


class Watching:
    """An observer that keeps what the first planted record added to each step."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def observe(self, step: Any) -> None:
        self.seen.append(step.view(0) - step.noise)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize("name", ORDINARY)
def test_it_trains_is_estimated_and_observed(
    name: str,
    splits: Splits,
    budget: Budget,
    settings_of: Callable[..., Any],
    context_of: Callable[..., Any],
    make_plan_of: Callable[..., DPSGDPlan],
) -> None:
    model = ORDINARY[name]()
    start = copy.deepcopy(model.state_dict())
    mechanism = DPSGD(settings=settings_of(rates={"steps": 3, "expected_batch_size": 50}))
    blanks, plan = blank(splits, len(splits.train)), make_plan_of(steps=2, expected_batch_size=8)

    def trial(batch: int, progress: Any) -> None:
        context = dataclasses.replace(context_of(), progress=progress)
        mechanism.trial(copy.deepcopy(model), blanks, budget, context, plan=plan, batch=batch, audit=False)

    assert seconds_per_step(trial, 8, physical=8) > 0
    watching = Watching()
    context = dataclasses.replace(context_of(), observers=(watching,), planted=(3,))
    settings = settings_of(rates={"steps": 3, "expected_batch_size": 50})
    release, _ = DPSGD(settings=settings).fit(copy.deepcopy(model), splits, budget, context)
    assert release.weights.keys() == start.keys()  # the names that the user's own model has
    model.load_state_dict(release.weights)
    assert any(not torch.equal(start[key], value) for key, value in release.weights.items())
    longest = max(float(each.norm()) for each in watching.seen)
    assert 0 < longest <= 1 + 1e-4
    NonPrivate(settings=settings).fit(ORDINARY[name](), splits, budget, context)


def vector_net(width: int = 32) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3)
        )


def test_a_replaced_norm_of_vectors_lets_the_model_learn(
    splits: Splits, settings_of: Callable[..., Any], context_of: Callable[..., Any], budget: Budget
) -> None:
    settings = settings_of(rates={"steps": 60, "expected_batch_size": 50})
    mechanism = NonPrivate(settings=settings, replace_batch_norm=True)
    release, _ = mechanism.fit(vector_net(), splits, budget, context_of())
    found = release.build()(splits.test.inputs).argmax(1)
    assert (found == splits.test.labels).float().mean() > 0.9


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d(32), (32,)),
        (nn.BatchNorm1d(48), (48,)),
        (nn.BatchNorm1d(10), (10,)),
        (nn.BatchNorm1d(7), (7,)),
        (nn.BatchNorm1d(2), (2,)),
        (nn.BatchNorm1d(1), (1,)),
        (nn.BatchNorm1d(1), (1, 50)),
        (nn.BatchNorm2d(8), (8, 1, 1)),
        (nn.BatchNorm2d(64), (64, 1, 1)),
        (nn.BatchNorm2d(512), (512, 1, 1)),
        (nn.BatchNorm3d(24), (24, 1, 1, 1)),
    ],
    ids=str,
)
def test_a_replaced_norm_does_not_erase_its_input(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """A group of one value is always zero, and one of two is one and minus one, whatever the record."""
    norm = check_layers(nn.Sequential(layer, nn.Conv1d(1, 1, 1)), replace_batch_norm=True)[0]
    inputs = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    distinct = norm(inputs).detach().round(decimals=2).unique().numel()
    assert distinct >= min(10, inputs.numel())
    torch.testing.assert_close(norm(inputs)[:1], norm(inputs[:1]))
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_channels // norm.num_groups >= min(8, norm.num_channels)
    assert isinstance(norm, GroupNormOfEnough) is (layer.num_features < 8)


class Backbone(nn.Module):
    """Frozen, with statistics of public data, and a head to train."""

    def __init__(self) -> None:
        super().__init__()
        self.back = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.back[1].running_mean.uniform_(-1, 1)
        self.back[1].running_var.uniform_(0.5, 2)
        self.back.eval().requires_grad_(False)
        self.head = nn.Linear(512, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.back(images).flatten(1))


def test_a_frozen_batch_norm_is_offered_by_name_and_stays_what_it_is(
    splits: Splits, settings_of: Callable[..., Any], context_of: Callable[..., Any], budget: Budget
) -> None:
    settings = settings_of(rates={"steps": 3, "expected_batch_size": 30})
    model = Backbone()
    both = r"`back\.1` \(BatchNorm2d\) .*replace_batch_norm=true .*freeze_batch_norm=true"
    with pytest.raises(ConfigError, match=both):
        DPSGD(settings=settings).fit(model, splits, budget, context_of())
    expected = model.eval()(splits.test.inputs).detach()
    frozen = check_layers(model, replace_batch_norm=False, freeze_batch_norm=True)
    assert frozen.training
    torch.testing.assert_close(frozen(splits.test.inputs).detach(), expected)
    assert frozen.state_dict().keys() == model.state_dict().keys()
    release, _ = DPSGD(settings=settings, freeze_batch_norm=True).fit(model, splits, budget, context_of())
    for name, before in model.state_dict().items():
        assert torch.equal(release.weights[name], before) is not name.startswith("head")


def test_what_is_not_trained_is_frozen_and_the_rest_replaced_where_both_are_asked_for() -> None:
    model = nn.Sequential(Backbone(), nn.BatchNorm1d(3))
    found = check_layers(model, replace_batch_norm=True, freeze_batch_norm=True)
    assert isinstance(found[0].back[1], FrozenBatchNorm)
    assert isinstance(found[1], nn.GroupNorm)


def test_a_batch_norm_without_statistics_cannot_be_frozen() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))
    with pytest.raises(ConfigError, match=r"`0` keeps no running statistics.*replace_batch_norm=true"):
        check_layers(model, replace_batch_norm=False, freeze_batch_norm=True)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(64, 3)), "`1` has spectral_norm"),
    "old spectral_norm": (lambda: nn.utils.spectral_norm(nn.Linear(64, 3)), "`1` has spectral_norm"),
    "old weight_norm": (
        lambda: nn.utils.weight_norm(nn.Linear(64, 3)),
        r"`1` has torch.nn.utils.weight_norm.*parametrizations",
    ),
    "Opacus' attention": (
        lambda: DPMultiheadAttention(8, 2, batch_first=True),
        r"`1` .*use nn\.MultiheadAttention",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_what_cannot_be_trained_is_refused_by_name(name: str) -> None:
    build, said = REFUSED[name]
    with pytest.raises(ConfigError, match=said):
        check_layers(nn.Sequential(nn.Flatten(), build()), replace_batch_norm=False)
