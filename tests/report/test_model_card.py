"""model_card.md: metadata that the Hub can read, and no more of the records than may be told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml as reader

from dptrain.contracts import Assignment, Constants, Randomness, Report, Sensitivity
from dptrain.evidence.intervals import UNDEFINED_AREA
from dptrain.report.model_card import as_model_card, front_matter, metadata
from dptrain.report.pages import as_markdown
from dptrain.storage import write_text

SECTIONS = (
    "Intended use", "Training data", "Evaluation", "Privacy", "Limitations", "How to reproduce",
)  # fmt: skip


def parts(report: Report) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card."""
    _, front, text = as_model_card(report).split("---\n", 2)
    found: dict[str, Any] = reader.safe_load(front)
    return found, text


@pytest.mark.parametrize("which", ["report", "bare", "void"])
def test_the_metadata_can_be_read(which: str, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(which)
    front, text = parts(report)
    assert front == metadata(report)
    assert front["license"] == "unknown"
    assert front["datasets"] == ["phantom"]
    (model,) = front["model-index"]
    (result,) = model["results"]
    assert {"type", "name"} <= set(result["dataset"])
    assert result["task"]["type"]
    assert result["metrics"][0] == {"type": "accuracy", "name": "Test accuracy", "value": 0.873}
    places = [text.index(f"\n## {section}\n") for section in SECTIONS]
    assert places == sorted(places)
    assert report.reproduce in text


def test_privacy_is_told_in_words_and_numbers(report: Report) -> None:
    front, text = parts(report)
    assert "differential-privacy" in front["tags"]
    assert front["model-index"][0]["results"][0]["metrics"][-1]["value"] == 3.0
    assert "**ε = 3.00 at δ = 1e-05, per record.**" in text
    assert report.guarantee.sentence in text
    for item in report.guarantee.outside_guarantee:
        assert f"- {item}" in text


def test_what_attacks_measured_of_training_records_is_on_it_only_where_asked_for(report: Report) -> None:
    card, asked = as_model_card(report), as_model_card(report, measured=True)
    line = "| reconstruction from gradients: record named among 8 | 0.293 [0.222, 0.373] |"
    assert line in asked
    assert "0.411" in asked
    assert "`report.card_measured=true` asked for it" in asked
    shown = card[card.index("## Intended use") : card.index("## Limitations")]
    for told in ("Measured", "reconstruction", "0.293", "0.411", "attack"):
        assert told not in shown.replace("set aside for attacks", "")


@pytest.mark.parametrize("which", ["bare", "void"])
def test_what_does_not_hold_is_not_advertised(which: str, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(which)
    front, text = parts(report)
    assert "differential-privacy" not in front["tags"]
    assert [metric["type"] for metric in front["model-index"][0]["results"][0]["metrics"]] == [
        "accuracy", "roc_auc",
    ]  # fmt: skip
    assert "no privacy guarantee" in text
    assert "upper bound" not in text
    assert "ε = 3" not in text
    assert "To nobody." in text


def test_a_secret_number_of_units_stays_secret(report: Report) -> None:
    assert "4,000" in as_model_card(report)
    public = report.counts.published(units_public=False, set_aside={})
    stated = dataclasses.replace(report.guarantee, units_public=False, counts=public)
    secret = dataclasses.replace(report, guarantee=stated, reproduce="dptrain")
    text = as_model_card(secret)
    assert "4,000" not in text
    assert "4000" not in text
    assert "in the files: not stated; trained on: not stated; held out:" in text


def test_the_twin_is_not_evaluated_in_public(report: Report) -> None:
    _, text = parts(report)
    evaluation = text[text.index("## Evaluation") : text.index("## Privacy")]
    assert "0.873" in evaluation
    assert "| AUROC | 0.981 [0.973, 0.987] |" in evaluation
    assert "0.951" not in evaluation
    assert "twin" not in evaluation
    assert report.data["source"] not in text


def test_without_images_and_without_auroc(bare: Report) -> None:
    undefined = dataclasses.replace(
        bare,
        utility=dataclasses.replace(bare.utility, auroc=UNDEFINED_AREA),
        data={**bare.data, "images": False},
    )
    (result,) = parts(undefined)[0]["model-index"][0]["results"]
    assert [metric["type"] for metric in result["metrics"]] == ["accuracy"]
    assert result["task"]["type"] == "other"


def test_names_of_any_kind_survive() -> None:
    values = {
        "plain": "a: b # c",
        "list": ["- x", "yes", 'quoted "', "ε\nnew line", "'"],
        "deep": [{"one": {"two": ["---", {"three": 1e-5}]}, "four": None}],
        "flag": True,
    }
    assert reader.safe_load(front_matter(values)) == values


def test_the_folder_is_made(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "new" / "model_card.md"
    write_text(as_model_card(report), path)
    assert path.read_text(encoding="utf-8") == as_model_card(report)


def test_what_the_guarantee_rests_on_is_said_in_words(report: Report) -> None:
    told = dataclasses.replace(
        report.guarantee,
        sensitivity=Sensitivity(
            most=1.0, records=1, independence="tested, not proved", audit="held", ratio=0.99991
        ),
        randomness=Randomness(
            secret=True,
            cryptographic=True,
            source="s",
            epsilon=1.01e-6,
            delta=2e-12,
            grid=1 / 64,
            assumptions=("the cipher is good",),
        ),
        assignment=Assignment(probes=40, change="by it and its replacement at most"),
        constants=Constants(
            declared=("max_grad_norm",),
            mean=(0.5,),
            std=(0.25,),
            from_units=("sample_rate",),
            class_prior=(0.5, 0.5),
        ),
        public_data=("PathMNIST",),
    )
    card = as_model_card(dataclasses.replace(report, guarantee=told))
    for said in (
        "One record moves a step's sum of gradients by at most 1, by 1 of its records at most",
        "do not depend on each other: tested, not proved",
        "on rows that are no record: held (largest ratio 1.0000)",
        "The cipher is good.",
        "rounded to one public grid, 0.016 standard deviations of the noise wide",
        "costs at most 1.1e-06 of epsilon and 2e-12 of delta, which are counted",
        "by it and its replacement at most",
        "taken to depend on no record: max grad norm; mean, standard deviation and bounds of inputs, class",
        "Computed from the number of records: sample rate.",
        "Taken to be public: PathMNIST.",
        "Trust model: central curator",
        "the initial weights and the frozen parts of the model come of no record of these data",
        "SHA-256 begins aaaaaaaaaaaaaaaa, on 2026-01-31",
    ):
        assert said in card, said


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, None),
        ({"group_word": "patient", "test_groups": "known"}, "Intervals hold for new patients"),
        ({"group_word": "patient", "test_groups": "unknown"}, "so that intervals of utility are too narrow"),
    ],
)
def test_how_intervals_take_records_of_one_patient_is_said(
    report: Report, known: dict[str, str], said: str | None
) -> None:
    grouped = dataclasses.replace(report, data={**report.data, **known})
    for text in (as_model_card(grouped), as_markdown(grouped)):
        text = " ".join(text.split())
        assert said is None or said in text
        assert said is not None or "patients" not in text.partition("## Privacy")[0]
