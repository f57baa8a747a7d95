"""report.md: the verdict first, nothing promised that is not proved."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dptrain.contracts import Interval, Report
from dptrain.privacy.written import to_json
from dptrain.report import answers, sentences, write
from dptrain.report.leakage_words import sentence
from dptrain.report.pages import as_markdown
from dptrain.report.statement_rows import LEFT_OUT, NAMES, SELDOM
from dptrain.storage import write_text


def test_the_verdict_comes_before_the_numbers(report: Report) -> None:
    text = as_markdown(report)
    order = [
        "## The verdict", "## The numbers", "## The privacy statement in full",
        "## Assumptions, and what is outside the guarantee", "## How to reproduce",
    ]  # fmt: skip
    assert [text.index(head) for head in order] == sorted(text.index(head) for head in order)


def test_words_for_the_officer(report: Report) -> None:
    text = as_markdown(report)
    assert report.guarantee.sentence in text
    assert "only a bound is a ceiling" in text
    assert "identifies more than 5.78 % of the training records" in text
    assert "2 of 4 measurements found leakage above the baseline (if nothing leaked, " in text
    assert "to make at most 0.2 of them say so), none more than is proved" in text
    assert "too weak to tell" in text
    assert "no evidence of privacy" in text
    assert "not a cryptographic one" in text
    assert "accuracy and loss on 1000 held-out records" in text
    assert report.reproduce in text


def test_the_whole_statement_is_there(report: Report) -> None:
    text = as_markdown(report)
    for key, value in to_json(report.guarantee).items():
        if value is None or value in ([], {}):
            continue
        if key in LEFT_OUT or (key in SELDOM and not value):
            continue
        assert f"| {NAMES.get(key, key).replace('_', ' ')}" in text or isinstance(value, dict), key
        if isinstance(value, str) and key != "adjacency":
            assert value in text


def test_tables_are_well_formed(report: Report) -> None:
    report = dataclasses.replace(
        report, leakage=(dataclasses.replace(report.leakage[0], attack="a|b"), *report.leakage[1:])
    )
    tables: list[list[str]] = [[]]
    for line in as_markdown(report).splitlines():
        if line.startswith("|"):
            tables[-1].append(line.replace("\\|", ""))
        elif tables[-1]:
            tables.append([])
    assert len(tables) == 4
    for table in tables[:-1]:
        assert len({line.count("|") for line in table}) == 1


def test_no_privacy_promises_nothing(bare: Report) -> None:
    text = as_markdown(bare)
    assert "none (not private)" in text
    assert "To nobody." in text
    assert "No attack was run" in text
    assert " inf" not in text


def test_a_void_guarantee_promises_nothing(void: Report) -> None:
    text = as_markdown(void)
    assert "> **VOID**" in text
    assert "Guarantee: VOID." in text
    assert "To nobody." in text
    assert "Proved bound" not in text
    assert "0.411" not in text


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        ("exceeds the bound: broken", "the implementation is broken"),
        ("not above the baseline, no control", "with no control"),
        ("resisted: not above the baseline, the control is", "works on the control model"),
        ("of another kind", "of another kind."),
    ],
)
def test_every_verdict_is_explained(report: Report, verdict: str, says: str) -> None:
    assert says in sentence(dataclasses.replace(report.leakage[2], verdict=verdict), void=False)


def test_a_broken_bound_is_counted(report: Report) -> None:
    broken = dataclasses.replace(
        report.leakage[2], value=Interval(value=0.9, low=0.8, high=0.95), verdict="exceeds the bound: broken"
    )
    text = as_markdown(dataclasses.replace(report, leakage=(broken,)))
    assert "**1 of them more than is proved**" in text


def test_figures_are_linked_and_training_records_are_not_shown(report: Report) -> None:
    paths = write(report)
    text = (report.folder / "report.md").read_text(encoding="utf-8")
    assert {path.name for path in paths} == {
        "report.json", "report.html", "report.md", "statement.json", "model_card.md",
        "epsilon.svg", "utility.svg", "reconstruction.svg", "class_inversion.png",
    }  # fmt: skip
    assert all(path.is_file() for path in paths)
    assert "](figures/utility.svg)" in text
    assert "![class_inversion" not in text
    assert "[class_inversion.png](figures/class_inversion.png)" in text
    assert "confidential" in text


def test_the_folder_is_made(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.md"
    write_text(as_markdown(report), path)
    assert path.read_text(encoding="utf-8") == as_markdown(report)


@pytest.mark.parametrize(("low", "useless"), [(0.184, True), (0.1841, False)])
def test_a_model_that_is_no_better_than_the_most_frequent_class_is_called_so(
    low: float, useless: bool, report: Report
) -> None:
    accuracy = Interval(value=0.2, low=low, high=0.23)
    report = dataclasses.replace(report, utility=dataclasses.replace(report.utility, accuracy=accuracy))
    said = "1,000 test records do not show that the model is better than always naming the most frequent"
    assert (said in sentences.short(report)) == (said in sentences.worth(report)) == useless
    assert any("Do not use the model's predictions" in step for step in answers.next_steps(report)) == useless
