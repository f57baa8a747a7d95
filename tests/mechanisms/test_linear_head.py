"""Mechanisms that train a linear head alone take logistic regression on inputs as they are."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from once import accuracy
from torch import nn

from dptrain.contracts import Budget
from dptrain.mechanisms.objective_perturbation import ObjectivePerturbation
from dptrain.mechanisms.output_perturbation import OutputPerturbation
from dptrain.mechanisms.preconditioned import Preconditioned
from dptrain.mechanisms.sufficient_statistics import SufficientStatistics
from dptrain.models.frozen import FrozenFeatures, LinearModel, frozen
from dptrain.models.mlp import Logistic, Mlp
from dptrain.models.normalise import Normalise

pytestmark = pytest.mark.run

ONCE = [ObjectivePerturbation, OutputPerturbation, SufficientStatistics]


def within(network: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(normalise=Normalise((0.5,), (0.25,)), network=network))


def test_only_features_that_hold_nothing_to_train_are_frozen() -> None:
    bare, deep = within(Logistic((1, 8, 8), 3)), within(Mlp((1, 8, 8), 3))
    made = frozen(bare)
    assert isinstance(made.get_submodule("network"), LinearModel)
    assert frozen(made) is made
    assert frozen(deep) is deep
    assert list(made.state_dict()) == list(bare.state_dict())
    inputs = torch.rand(4, 1, 8, 8)
    assert torch.equal(made(inputs), bare(inputs))


@pytest.mark.parametrize("kind", ONCE, ids=lambda kind: kind.__name__)
def test_logistic_regression_on_inputs_is_learnt(kind, splits, settings_of, context_of) -> None:
    torch.manual_seed(1)
    model = within(Logistic(splits.shape, splits.num_classes))
    before = {name: each.clone() for name, each in model.state_dict().items()}
    mechanism = kind(settings=settings_of(feature_cache_gib=1.0), feature_norm=4.0)
    release, guarantee = mechanism.fit(model, splits, Budget(epsilon=20.0, delta=1e-3), context_of())
    assert guarantee.epsilon() <= 20.0
    assert accuracy(release, splits) > 0.7
    network = release.blank().get_submodule("network")
    assert isinstance(network, FrozenFeatures)
    assert all(torch.equal(model.state_dict()[name], each) for name, each in before.items())


def test_steps_are_preconditioned_on_inputs_too(splits, settings_of, context_of) -> None:
    torch.manual_seed(1)
    rates = {"expected_batch_size": 60, "sample_rate": 60 / len(splits.train), "steps": 60}
    mechanism = Preconditioned(
        settings=settings_of(feature_cache_gib=1.0, rates=rates), feature_norm=4.0, max_grad_norm=1.0
    )
    model = within(Logistic(splits.shape, splits.num_classes))
    release, _ = mechanism.fit(model, splits, Budget(epsilon=20.0, delta=1e-3), context_of())
    assert accuracy(release, splits) > 0.7
