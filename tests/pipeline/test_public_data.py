"""Whose weights a network began with is said of the network itself, and of nothing else."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from dptrain.assembly.model import normalises_itself
from dptrain.models.one_output import OneOutput
from dptrain.models.pretrained.backbone import TrainedBackbone
from dptrain.models.pretrained.weights import Origin
from dptrain.pipeline.summary import public_data

CONFIG: Any = SimpleNamespace(privacy=SimpleNamespace(tuned_on=None))
SPLITS: Any = SimpleNamespace(public=None)


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_output_of_several_hides_nothing_of_a_pretrained_network(wrapped: bool) -> None:
    origin = Origin(name="net", trained_on="drawn shapes", sha256=None)
    network: nn.Module = TrainedBackbone(nn.Identity(), nn.Identity(), origin)
    network = OneOutput(network, 0) if wrapped else network
    assert normalises_itself(network)
    model = nn.Sequential(OrderedDict(normalise=nn.Identity(), network=network))
    assert public_data(CONFIG, SPLITS, model) == (str(origin),)


def test_what_a_users_network_calls_its_origin_is_not_shown() -> None:
    network = nn.Linear(1, 1)
    network.origin = "a record"
    model = nn.Sequential(OrderedDict(normalise=nn.Identity(), network=network))
    assert public_data(CONFIG, SPLITS, model) == ()
