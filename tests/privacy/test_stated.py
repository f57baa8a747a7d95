"""A guarantee read back from a report is never better than the one that was proved."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from dptrain.contracts import Budget, Guarantee
from dptrain.pipeline.summary import tradeoff
from dptrain.privacy.guarantee import DPGuarantee, NoGuarantee
from dptrain.privacy.written import StatedGuarantee, from_json, to_json


@pytest.fixture
def proved(make_plan_of):
    return DPGuarantee(plan=make_plan_of(), budget=Budget(epsilon=None, delta=1e-5, noise_multiplier=1.0))


def read_back(guarantee):
    stated = json.loads(json.dumps(to_json(guarantee.statement())))
    return StatedGuarantee(stated=from_json(stated), tradeoff_points=tradeoff(guarantee))


def test_it_states_the_same(proved):
    stated = read_back(proved)
    assert isinstance(stated, Guarantee)
    assert stated.epsilon() == pytest.approx(proved.epsilon())
    assert stated.mu == pytest.approx(proved.mu)
    assert stated.delta == proved.delta
    assert stated.statement().sentence == proved.statement().sentence


def test_its_bounds_enclose_those_that_were_proved(proved):
    stated = read_back(proved)
    rates = np.concatenate([np.geomspace(1e-5, 1, 200), np.linspace(0, 1, 101)])
    for rate in rates:
        most, told = proved.membership_tpr(float(rate)), stated.membership_tpr(float(rate))
        assert told >= most - 1e-12
        if rate >= 1e-3:
            assert told <= most * 1.02 + 1e-6
    assert stated.reconstruction_bound(0.1) >= proved.reconstruction_bound(0.1)


def test_it_knows_no_other_delta(proved):
    with pytest.raises(ValueError, match=r"delta=0\.1 was not stated"):
        read_back(proved).epsilon(0.1)


def test_no_guarantee_stays_none():
    stated = read_back(NoGuarantee(budget=Budget(epsilon=3.0, delta=1e-5)))
    assert stated.epsilon() == math.inf
    assert stated.mu == math.inf
    assert dataclasses.replace(stated).membership_tpr(0.5) == 1.0
