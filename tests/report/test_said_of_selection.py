"""Three ways to state what choosing hyper-parameters cost: counted, on public data, or not counted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from dptrain.contracts import Report, SelectionTerms, Statement
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.guarantee import CHOOSING, DPGuarantee
from dptrain.report import sentences, words
from dptrain.report.model_card import as_model_card
from dptrain.report.pages import as_html, as_markdown
from dptrain.report.selection import agreed, cost, selected
from dptrain.report.statement import as_statement
from dptrain.report.statement_schema import schema
from dptrain.sweep.cost import search_cost
from dptrain.sweep.score import as_trial, tuned_on_public

pytestmark = pytest.mark.run

AGREED: dict[str, Any] = {
    "search": "a1", "epsilon": 5.06, "delta": 1e-5, "tpr_at_fpr": {"0.001": 0.1, "0.01": 0.43},
    "epsilon_alone": 3.0, "unit": "record", "distribution": "geometric", "mean_runs": 10.0, "shape": 1.0,
    "runs_99": 44, "candidates": 36, "score": "holdout.accuracy",
    "theorem": "Papernot & Steinke 2022, Theorem 2", "accountant": "dp-accounting RDP 0.6.0",
    "sentence": "If this run is the one that its search selected, a factor of exp(5.06).",
}  # fmt: skip
TERMS = SelectionTerms(**AGREED)


@pytest.fixture
def plain(report: Report) -> Report:
    """A run that says that choosing is not counted."""
    return dataclasses.replace(
        report, guarantee=dataclasses.replace(report.guarantee, outside_guarantee=(CHOOSING, "b"))
    )


@pytest.fixture
def trial(plain: Report) -> Report:
    return dataclasses.replace(plain, guarantee=as_trial(plain.guarantee, TERMS))


@pytest.fixture
def tuned(plain: Report) -> Report:
    return dataclasses.replace(plain, guarantee=tuned_on_public(plain.guarantee, "PathMNIST (public)"))


def validated(report: Report) -> dict[str, Any]:
    document = as_statement(report)
    jsonschema.Draft202012Validator(schema()).validate(document)
    return document


def test_what_is_not_counted_is_said(plain: Report) -> None:
    document = validated(plain)
    assert document["search"] == {"kind": "not_counted", "tuned_on": None, "selection": None}
    assert CHOOSING in document["outside_guarantee"]


def test_public_data_are_named_in_every_document(tuned: Report) -> None:
    document = validated(tuned)
    assert document["search"] == {"kind": "public_data", "tuned_on": "PathMNIST (public)", "selection": None}
    assert document["proved"]["epsilon"] == 3.0
    assert CHOOSING not in document["outside_guarantee"]
    for text in (as_model_card(tuned), as_markdown(tuned, []), as_html(tuned), document["sentence"]):
        assert "chosen on public data (PathMNIST (public))" in text
        assert "as its configuration declares" in text


def test_a_trial_is_released_under_the_selection_s_numbers_alone(trial: Report) -> None:
    document = validated(trial)
    assert document["proved"] == {
        "epsilon": 5.06, "delta": 1e-5, "delta_meaning": None, "cross_checks": {},
        "tpr_at_fpr": [{"fpr": 0.001, "tpr": 0.1}, {"fpr": 0.01, "tpr": 0.43}],
    }  # fmt: skip
    assert document["sentence"] == TERMS.sentence
    assert document["accountant"] == {"name": "dp-accounting RDP", "version": "0.6.0"}
    assert "best of a random number of trainings" in document["released"]
    card = as_model_card(trial)
    assert "ε = 5.06" in card
    assert "ε = 3.00" not in card
    assert "Measured leakage" not in card, "it was held against a single training's bounds"


def test_nothing_that_is_released_of_a_trial_comes_of_its_attacks(trial: Report) -> None:
    trained = dataclasses.replace(
        trial, control=None, leakage=(), gallery=None, queries={}, exposed=(), seconds={}
    )
    assert as_statement(trained) == as_statement(trial)
    assert as_model_card(trained) == as_model_card(trial)


def test_the_team_s_report_of_a_trial_never_shows_the_single_epsilon_alone(trial: Report) -> None:
    said = words.budget(trial.guarantee)
    assert said.startswith("ε = 5.06 at δ = 1e-05, per record, if its search selected it")
    for text in (as_markdown(trial, []), as_html(trial), sentences.short(trial)):
        assert "ε = 5.06" in text


def test_a_void_trial_proves_nothing(trial: Report) -> None:
    void = dataclasses.replace(trial.guarantee, void_reason="no secret", sentence="VOID: no secret.")
    document = validated(dataclasses.replace(trial, guarantee=as_trial(void, TERMS)))
    assert document["proved"] is None
    assert document["search"]["kind"] == "private_selection"
    assert "5.06" not in json.dumps(document)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kind": "public_data"}, "no data are named"),
        ({"kind": "not_counted", "tuned_on": "x"}, "data are named and not meant"),
        ({"kind": "private_selection", "tuned_on": "x"}, "both ways at once"),
        ({"selection": {}}, "terms are left out"),
        ({"runs": 7}, "the number of trainings is secret"),
    ],
)  # fmt: skip
def test_the_schema_refuses(plain: Report, changes: dict[str, Any], why: str) -> None:
    document = as_statement(plain)
    document["search"] |= changes
    assert not jsonschema.Draft202012Validator(schema()).is_valid(document), why


# ---------------------------------------------------------------------- among other runs


@pytest.fixture
def stated(make_plan_of: Callable[..., DPSGDPlan], budget: Any) -> Statement:
    return DPGuarantee(plan=make_plan_of(), budget=budget, outside=(CHOOSING,)).statement()


def test_only_the_trials_of_one_selection_have_the_selection_s_price(stated: Statement) -> None:
    one, other = as_trial(stated, TERMS), as_trial(stated, dataclasses.replace(TERMS, search="b2"))
    assert search_cost([one, one]).selected == 5.06
    assert search_cost([one, one]).selection == cost(TERMS)
    for mixed in ([one, stated], [stated, one], [one, other]):
        found = search_cost(mixed)
        assert found.selected is None
        assert "another choice" in found.selection
    assert search_cost([stated]).selected is None
    assert search_cost([stated]).selection.startswith("Not covered by the epsilon of the model alone")
    assert search_cost([one, dataclasses.replace(one, void_reason="no secret")]).selected is None


def test_public_data_are_listed_and_cover_no_choice_made_here(stated: Statement) -> None:
    found = search_cost([tuned_on_public(stated, "PathMNIST"), tuned_on_public(stated, "PathMNIST"), stated])
    assert found.tuned_on == ("PathMNIST",)
    assert found.selected is None


def test_the_console_says_before_and_after_what_may_be_released() -> None:
    before = " ".join(text for _, text in agreed(TERMS))
    assert "36 candidates" in before
    assert "at most 44 in 99 of 100 searches" in before
    assert "hold ε = 5.06 at δ = 1e-05, per record, whichever candidates are drawn" in before
    chosen = {
        **AGREED,
        "trial": "a_run",
        "settings": ["optimizer.lr=0.5"],
        "scored": 0.91,
        "release": "selected",
    }
    after = " ".join(text for _, text in selected(chosen))
    assert "a_run: optimizer.lr=0.5; holdout.accuracy 0.91" in after
    assert "release the folder selected/ and nothing else" in after
    ((_, none),) = selected(None)
    assert none.startswith("none")
