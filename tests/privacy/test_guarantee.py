"""What a guarantee says, and that it says all of it."""

import json
import math

import pytest
from scipy.stats import norm

from dptrain.contracts import Budget, Guarantee
from dptrain.privacy.gaussian import gaussian_delta
from dptrain.privacy.guarantee import DPGuarantee, NoGuarantee
from dptrain.privacy.written import from_json, to_json

pytestmark = pytest.mark.run

BUDGET = Budget(epsilon=None, delta=1e-5, noise_multiplier=1.0)


def test_mu_of_a_gaussian_mechanism_is_found_again(make_plan_of):
    plan = make_plan_of(noise_multiplier=4.0, sample_rate=1.0, steps=4)
    assert DPGuarantee(plan=plan, budget=BUDGET).mu == pytest.approx(0.5, rel=1e-3)


def test_mu_reproduces_epsilon(make_plan_of):
    guarantee = DPGuarantee(plan=make_plan_of(), budget=BUDGET)
    assert gaussian_delta(guarantee.mu, guarantee.epsilon()) == pytest.approx(1e-5, rel=1e-6)


@pytest.mark.parametrize("epsilon", [1e-6, 0.01, 3.0, 700.0, 5000.0, 50_000.0])
def test_mu_exists_for_every_epsilon(make_plan_of, monkeypatch, epsilon):
    guarantee = DPGuarantee(plan=make_plan_of(), budget=BUDGET)
    monkeypatch.setattr(DPGuarantee, "epsilon", lambda _: epsilon)
    assert gaussian_delta(guarantee.mu, epsilon) == pytest.approx(1e-5, rel=1e-3)


def test_an_epsilon_of_zero_has_mu_zero(make_plan_of):
    guarantee = DPGuarantee(plan=make_plan_of(noise_multiplier=math.inf), budget=BUDGET)
    assert (guarantee.epsilon(), guarantee.mu) == (0.0, 0.0)
    assert guarantee.reconstruction_bound(0.1) == pytest.approx(0.1)


def test_trade_off_is_the_complement_of_true_positives(make_plan_of):
    guarantee = DPGuarantee(plan=make_plan_of(), budget=BUDGET)
    assert guarantee.tradeoff(0.01) + guarantee.membership_tpr(0.01) == pytest.approx(1.0)
    assert guarantee.reconstruction_bound(0.1) == guarantee.membership_tpr(0.1)


def test_epsilon_falls_as_delta_grows(make_plan_of):
    guarantee = DPGuarantee(plan=make_plan_of(), budget=BUDGET)
    assert guarantee.epsilon(1e-6) > guarantee.epsilon() > guarantee.epsilon(1e-4)


def test_statement_says_everything_and_is_json(make_plan_of):
    plan = make_plan_of()
    statement = DPGuarantee(plan=plan, budget=BUDGET, outside=("something",)).statement()
    assert from_json(json.loads(json.dumps(to_json(statement)))) == statement
    promised = {
        "released",
        "unit",
        "adjacency",
        "units_public",
        "epsilon",
        "delta",
        "noise_multiplier",
        "max_grad_norm",
        "sample_rate",
        "steps",
        "expected_batch_size",
        "clipping",
        "sampling_run",
        "sampling_assumed",
        "accountant",
        "outside_guarantee",
        "randomness",
        "tpr_at_fpr",
        "versions",
        "code_revision",
    }
    assert promised <= to_json(statement).keys()
    assert "mu" not in to_json(statement), "one (epsilon, delta) proves no mu"
    assert statement.epsilon == pytest.approx(1.83, abs=0.01)
    assert statement.outside_guarantee == ("something",)
    assert statement.randomness.secret is True
    assert statement.accountant.startswith("dp-accounting PLD ")
    assert "exp(1.83)" in statement.sentence
    assert "adding or removing one record" in statement.sentence


def test_statement_tpr_is_close_to_the_gaussian_approximation(make_plan_of):
    guarantee = DPGuarantee(plan=make_plan_of(sample_rate=1.0, steps=1), budget=BUDGET)
    tpr = guarantee.statement().tpr_at_fpr
    for rate in ("0.001", "0.01"):
        assert tpr[rate] == pytest.approx(norm.cdf(norm.ppf(float(rate)) + 1.0), abs=1e-3)


def test_replacement_is_put_in_words(make_plan_of):
    plan = make_plan_of(adjacency="replace_one")
    assert "replacing one record by any other" in DPGuarantee(plan=plan, budget=BUDGET).statement().sentence


def test_a_void_guarantee_says_so_first(make_plan_of):
    statement = DPGuarantee(plan=make_plan_of(), budget=BUDGET, void="the seed is public").statement()
    assert statement.void is True
    assert statement.sentence == "VOID: the seed is public. No guarantee holds for this run."


def test_no_guarantee_promises_nothing():
    nothing = NoGuarantee(budget=BUDGET)
    assert isinstance(nothing, Guarantee)
    assert nothing.epsilon() == math.inf
    assert nothing.membership_tpr(0.001) == nothing.reconstruction_bound(0.01) == 1.0
    assert nothing.statement().private is False
