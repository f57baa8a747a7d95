"""statement.json: what is proved, in the form that its schema declares; void promises are none."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dptrain.contracts import Budget, Report
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.guarantee import DPGuarantee, NoGuarantee
from dptrain.report.statement import as_statement
from dptrain.report.statement_schema import SCHEMA, VERSION, schema
from dptrain.storage import write_json

PLAN = DPSGDPlan(
    units=500, sample_rate=0.1, steps=20, expected_batch_size=50, max_grad_norm=1.0, noise_multiplier=2.0
)
BUDGET = Budget(epsilon=None, delta=1e-5, noise_multiplier=2.0)


def complaints(document: Any) -> list[str]:
    """What the schema has against a document."""
    jsonschema = pytest.importorskip("jsonschema")
    return [error.message for error in jsonschema.Draft202012Validator(schema()).iter_errors(document)]


def promised(report: Report, guarantee: DPGuarantee | NoGuarantee) -> Report:
    return dataclasses.replace(report, guarantee=guarantee.statement())


def objects(part: Any) -> Iterator[dict[str, Any]]:
    """Every object type that a schema declares in full."""
    if isinstance(part, dict):
        if part.get("type") == "object" and "required" in part:
            yield part
        for value in part.values():
            yield from objects(value)
    elif isinstance(part, list):
        for value in part:
            yield from objects(value)


def test_a_guarantee_is_told_in_full(report: Report) -> None:
    document = as_statement(report)
    assert document["$schema"] == schema()["$id"] == SCHEMA
    assert document["version"] == VERSION
    assert document["status"] == "holds"
    assert document["proved"]["epsilon"] == 3.0
    assert document["proved"]["tpr_at_fpr"] == [{"fpr": 0.001, "tpr": 0.0097}, {"fpr": 0.01, "tpr": 0.0578}]
    assert document["accountant"] == {"name": "dp-accounting PLD", "version": "0.6.0"}
    assert document["mechanism"]["noise_multiplier"] == 1.1484375
    assert document["mechanism"]["sampling_run"] == document["mechanism"]["sampling_assumed"] == "poisson"
    assert document["units"] == 4000
    assert document["outside_guarantee"] == list(report.guarantee.outside_guarantee)
    assert document["code"]["revision"] == "0123456789ab"


@pytest.mark.parametrize("which", ["bare", "void"])
def test_what_does_not_hold_has_no_numbers(which: str, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(which)
    document = as_statement(report)
    assert document["status"] == {"bare": "none", "void": "void"}[which]
    assert document["proved"] is None
    assert document["void_reason"] == (report.guarantee.void_reason if which == "void" else None)
    assert "epsilon" not in json.dumps(document)


def test_a_secret_number_of_units_stays_secret(report: Report) -> None:
    public = report.counts.published(units_public=False, set_aside={})
    stated = dataclasses.replace(report.guarantee, units_public=False, counts=public)
    document = as_statement(dataclasses.replace(report, guarantee=stated))
    assert document["units"] is document["counts"]["units"] is document["counts"]["trained_on"] is None
    assert document["counts"]["holdout"] is document["counts"]["test"] is None
    assert complaints(document) == []
    assert "4000" not in json.dumps(document)


def test_nothing_that_was_measured_is_told(report: Report) -> None:
    text = json.dumps(as_statement(report))
    for line in report.leakage:
        assert line.attack not in text
    assert str(report.utility.accuracy.value) not in text
    assert report.data["source"] not in text


def test_an_accountant_without_a_version(report: Report) -> None:
    other = dataclasses.replace(report, guarantee=dataclasses.replace(report.guarantee, accountant="by hand"))
    assert as_statement(other)["accountant"] == {"name": "by hand", "version": None}


def test_the_schema_and_the_document_name_the_same_fields(report: Report) -> None:
    document = as_statement(report)
    assert list(document) == schema()["required"] == list(schema()["properties"])
    for name, fields in schema()["$defs"].items():
        assert set(fields["required"]) == set(document[name]), name
    for declared in objects(schema()):
        assert set(declared["required"]) == set(declared["properties"])


def test_the_file_is_plain_json(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "new" / "statement.json"
    write_json(as_statement(report), path)
    assert json.loads(path.read_text(encoding="utf-8")) == as_statement(report)


# ---------------------------------------------------------------------- against the schema


def test_the_schema_is_one() -> None:
    pytest.importorskip("jsonschema").Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("which", ["report", "bare", "void"])
def test_invented_statements_are_valid(which: str, request: pytest.FixtureRequest) -> None:
    assert complaints(as_statement(request.getfixturevalue(which))) == []


@pytest.mark.parametrize(
    "guarantee",
    [
        DPGuarantee(plan=PLAN, budget=BUDGET),
        DPGuarantee(plan=PLAN, budget=BUDGET, void="a test"),
        DPGuarantee(
            plan=dataclasses.replace(PLAN, sampling="shuffle", adjacency="replace_one", clipping="per_layer"),
            budget=dataclasses.replace(BUDGET, unit="patient", adjacency="replace_one", units_public=False),
        ),
        NoGuarantee(budget=BUDGET),
    ],
    ids=["poisson", "void", "shuffle", "none"],
)
def test_real_statements_are_valid(report: Report, guarantee: DPGuarantee | NoGuarantee) -> None:
    assert complaints(as_statement(promised(report, guarantee))) == []


@pytest.mark.parametrize(
    "broken",
    [
        {"$schema": "urn:other"},
        {"version": 1},
        {"status": "perhaps"},
        {"status": "void"},
        {"status": "none"},
        {"void_reason": "but it holds"},
        {"proved": None},
        {"randomness": None},
        {"unit": ""},
        {"units": 0},
        {"sentence": None},
        {"surprise": 1},
        {"outside_guarantee": "nothing"},
    ],
    ids=str,
)
def test_what_is_false_or_contradicts_itself_is_refused(report: Report, broken: dict[str, Any]) -> None:
    assert complaints({**as_statement(report), **broken})


@pytest.mark.parametrize(
    ("part", "broken"),
    [
        ("proved", {"epsilon": -1.0}),
        ("proved", {"epsilon": math.nan}),
        ("proved", {"epsilon": None}),
        ("proved", {"delta": 1.0}),
        ("proved", {"tpr_at_fpr": []}),
        ("proved", {"tpr_at_fpr": [{"fpr": 0.01, "tpr": 1.5}]}),
        ("mechanism", {"sample_rate": 1.4}),
        ("mechanism", {"steps": 2.5}),
        ("mechanism", {"surprise": 1}),
        ("accountant", {"version": 6}),
        ("code", {"versions": {"torch": 2}}),
    ],
)
def test_parts_are_checked_too(report: Report, part: str, broken: dict[str, Any]) -> None:
    document = as_statement(report)
    if broken == {"epsilon": math.nan}:  # JSON has no such number: it never comes to be written
        with pytest.raises(ValueError, match="JSON"):
            json.dumps({**document, part: {**document[part], **broken}}, allow_nan=False)
    else:
        assert complaints({**document, part: {**document[part], **broken}})


@pytest.mark.parametrize("name", ["status", "proved", "unit", "outside_guarantee"])
def test_nothing_may_be_left_out(report: Report, name: str) -> None:
    document = as_statement(report)
    del document[name]
    assert complaints(document)
