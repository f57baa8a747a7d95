"""A model card as the Hugging Face Hub has it: metadata on top, then what a user of the model must know."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from dptrain.contracts import Report
from dptrain.report import answers, assumptions, counts, render, sections, selection, sentences, tables, words
from dptrain.report.blocks import Block, Code, Heading, Paragraph, Section, Tabular, bullets

TASKS = {  # of the data: what the Hub calls it, and what people do
    "multi_label": ("classification", "multi-label classification"),
    "ordinal": ("classification", "ordinal classification"),
    "regression": ("regression", "regression"),
    "next_token": ("generation", "text generation"),
}


def as_model_card(report: Report, *, measured: bool = False) -> str:
    """The card, for those who are given the model; it tells no more of the records than it must.

    What attacks measured was computed from training records, outside the guarantee, and is on it only where
    that is asked for.
    """
    report = selection.as_released(report)
    return render.markdown(
        report.title,
        (
            _use(report),
            _data(report),
            _evaluation(report),
            _privacy(report, measured=measured),
            _limitations(report),
            _reproduce(report),
        ),
        front=front_matter(metadata(report)),
    )


def metadata(report: Report) -> dict[str, Any]:
    """What the Hub indexes a model by; the licence is for whoever publishes it to say."""
    name, statement = str(report.data["name"]), report.guarantee
    images = bool(report.data.get("images"))
    metrics: list[dict[str, Any]] = [
        {
            "type": report.utility.metric,
            "name": f"Test {words.named(report.utility.metric)}",
            "value": report.utility.accuracy.value,
        },
    ]
    if tables.has_auroc(report.utility):
        metrics.append(
            {"type": "roc_auc", "name": "Test AUROC, macro one-vs-rest", "value": report.utility.auroc.value}
        )
    metrics += [
        {"type": name, "name": f"Test {words.named(name)}", "value": found.value}
        for name, found in report.utility.more.items()
        if report.data.get("task") is not None
    ]
    kind, task = TASKS.get(str(report.data.get("task")), ("classification", "classification"))
    tags = [report.mechanism.lower()]
    if sentences.holds(statement):
        tags = ["differential-privacy", *tags]
        name_of_epsilon = f"Privacy budget at delta = {words.delta(statement.delta)}, per {statement.unit}"
        metrics.append({"type": "epsilon", "name": name_of_epsilon, "value": statement.epsilon})
    return {
        "license": "unknown",
        "library_name": "pytorch",
        "tags": tags,
        "datasets": [name],
        "metrics": [
            report.utility.metric,
            *(["roc_auc"] if tables.has_auroc(report.utility) else []),
        ],
        "model-index": [
            {
                "name": report.title,
                "results": [
                    {
                        "task": {
                            "type": f"image-{kind}" if images and kind == "classification" else "other",
                            "name": words.sentence_case(f"image {task}" if images else task),
                        },
                        "dataset": {"type": name, "name": name, "split": "test"},
                        "metrics": [metric for metric in metrics if math.isfinite(float(metric["value"]))],
                    }
                ],
            }
        ],
    }


def front_matter(values: Mapping[str, Any]) -> str:
    """Metadata as YAML."""
    return yaml.safe_dump(dict(values), allow_unicode=True, sort_keys=False, width=110)


# ---------------------------------------------------------------------- the sections


def _use(report: Report) -> Section:
    data, stated = report.data, report.guarantee
    count = data["classes"]
    what = {
        None: f"A classifier of {count} classes",
        "ordinal": f"A classifier of {count} classes in an order",
        "multi_label": f"A model that tells of each of {count} labels how likely it is",
        "regression": "A model that predicts a number",
    }.get(data.get("task"), f"A model whose {words.named(report.utility.metric)} is measured")
    if sentences.holds(stated):
        meant = (
            "It is meant for use where the training records must stay confidential: "
            f"{words.budget(stated)}, limits what anyone learns of one {stated.unit}."
        )
    else:
        meant = (
            "**It carries no privacy guarantee**: do not give it to anyone who may not see its training "
            "records."
        )
    return _section(
        "Intended use",
        Paragraph(
            f"{what}, trained by {report.mechanism} on {data['name']}.\n"
            f"{meant}\n"
            "It is not meant to be relied on for records unlike those that it was tested on."
        ),
    )


def _data(report: Report) -> Section:
    return _section(
        "Training data",
        Paragraph(
            f"{report.data['name']}, records {counts.row(report.guarantee.counts)}. Those held out and those "
            "to test on are unprotected."
        ),
    )


def _evaluation(report: Report) -> Section:
    alone = replace(report, control=None, costs=())  # the control is not released, nor is what it can do
    return _section(
        "Evaluation",
        Paragraph(sentences.worth(alone)),
        Tabular(tables.utility(alone)),
        *sections.by_part(alone),
    )


def _privacy(report: Report, *, measured: bool) -> Section:
    stated = report.guarantee
    blocks: list[Block] = [Paragraph(sentences.void(stated), style="alarm")] if stated.void else []
    blocks += [
        Paragraph(f"**{words.budget(stated)}.** {answers.promise(stated)}"),
        Paragraph(f"*To whom.* {answers.beneficiaries(report, counted=False)}"),
        bullets(*assumptions.assumptions(stated)),
        Paragraph("The same for other programs: [statement.json](statement.json)."),
    ]
    # Of a selected model attacks were held against the bounds of a single training.
    if measured and stated.selected_from is None:
        blocks += [Heading("Measured leakage"), Paragraph(sentences.attacks(report))]
        if report.leakage:
            blocks += [
                Paragraph(
                    "These numbers were made from training records, and the guarantee does not cover them; "
                    "this section is here because `report.card_measured=true` asked for it."
                ),
                Tabular(tables.leakage(report)),
                *([bullets(*sentences.not_run(report))] if report.not_run else []),
                Paragraph(sentences.legend(report)),
            ]
    return _section("Privacy", *blocks)


def _limitations(report: Report) -> Section:
    return _section(
        "Limitations",
        Paragraph("Outside the guarantee:"),
        bullets(*assumptions.outside(report.guarantee)),
        Paragraph(
            "A bound on one record is none on a group of records: what they have in common, and what is true "
            "of the population, may be learned from any model that is of use."
        ),
    )


def _reproduce(report: Report) -> Section:
    stated = report.guarantee
    versions = ", ".join(f"{name} {version}" for name, version in stated.versions.items())
    revision = f"; code revision {stated.code_revision}." if stated.code_revision else "."
    return _section(
        "How to reproduce",
        Code(report.reproduce, "Command"),
        Paragraph(f"With {versions}{revision}\n{sentences.REPETITION}"),
    )


def _section(title: str, *blocks: Block) -> Section:
    return Section(name=title.lower().replace(" ", "-"), title=title, blocks=blocks)
