"""Layers that mix records or keep statistics of them are refused by name, with the cure."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dptrain.contracts import ConfigError
from dptrain.privacy.agreement import choose
from dptrain.privacy.gradients import ByRules
from dptrain.privacy.layers import check_layers

pytestmark = pytest.mark.run


def with_batch_norm(channels=8):
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.Flatten(), nn.Linear(36 * channels, 3)
    )


def test_batch_norm_is_refused_by_name_and_group_norm_offered():
    with pytest.raises(
        ConfigError, match=r"`1` \(BatchNorm2d\) .*replace_batch_norm=true .* GroupNorm\(1, 8\)"
    ):
        check_layers(with_batch_norm(), replace_batch_norm=False)


@pytest.mark.parametrize("channels", [8, 32, 48, 64])
def test_batch_norm_is_replaced_when_asked(channels):
    model = check_layers(with_batch_norm(channels), replace_batch_norm=True)
    assert isinstance(model[1], nn.GroupNorm)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    inputs = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(model(inputs)[:1], model(inputs[:1]), rtol=1e-4, atol=1e-5)


def test_the_offered_group_norm_is_the_one_that_is_put_in():
    try:
        check_layers(with_batch_norm(48), replace_batch_norm=False)
    except ConfigError as error:
        offered = str(error)
    norm = check_layers(with_batch_norm(48), replace_batch_norm=True)[1]
    assert f"GroupNorm({norm.num_groups}, {norm.num_channels})" in offered


@pytest.mark.parametrize("affine", [True, False])
def test_running_statistics_are_refused(affine):
    norm = nn.InstanceNorm2d(8, affine=affine, track_running_stats=True)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), norm, nn.Flatten(), nn.Linear(288, 3))
    with pytest.raises(ConfigError, match=r"`1` keeps running statistics .*track_running_stats=False"):
        check_layers(model, replace_batch_norm=False)


def test_a_model_of_separate_records_passes_unchanged(cnn):
    assert check_layers(cnn.eval(), replace_batch_norm=False) is cnn
    assert cnn.training


def test_a_model_with_nothing_to_train_is_refused(mlp):
    with pytest.raises(ConfigError, match="nothing to train"):
        check_layers(mlp.requires_grad_(False), replace_batch_norm=False)


def test_a_frozen_batch_norm_of_vectors_has_a_rule() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model = check_layers(model, replace_batch_norm=False, freeze_batch_norm=True).requires_grad_()
    chosen = choose("bookkeeping", model, partial(cross_entropy, reduction="none"), torch.zeros(1, 4))
    assert chosen.note == ""
    assert isinstance(chosen.make(model, cross_entropy), ByRules)
