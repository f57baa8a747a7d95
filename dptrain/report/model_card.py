"""A model card as the Hugging Face Hub has it: metadata on top, then what a user of the model must know."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dptrain.contracts import Report, Statement
from dptrain.report import selection, sentences, tables, words
from dptrain.report.markdown import table
from dptrain.storage import write_text


def as_model_card(report: Report, *, measured: bool = False) -> str:
    """The card, for those who are given the model; it tells no more of the records than it must.

    What attacks measured was computed from training records, outside the guarantee, and is on it only where
    that is asked for.
    """
    report = selection.as_released(report)
    return "\n".join(
        [
            "---",
            *yaml(metadata(report)),
            "---",
            "",
            f"# {report.recipe}",
            "",
            *_use(report),
            *_data(report),
            *_evaluation(report),
            *_privacy(report, measured=measured),
            *_limitations(report),
            *_reproduce(report),
        ]
    )


def write_model_card(report: Report, path: Path, *, measured: bool = False) -> None:
    """Write the card, in UTF-8."""
    write_text(as_model_card(report, measured=measured), path)


def metadata(report: Report) -> dict[str, Any]:
    """What the Hub indexes a model by; the licence is for whoever publishes it to say."""
    name, statement = str(report.data["name"]), report.guarantee
    images = bool(report.data.get("images"))
    metrics = [
        {"type": "accuracy", "name": "Test accuracy", "value": report.utility.accuracy.value},
        {"type": "roc_auc", "name": "Test AUROC, macro one-vs-rest", "value": report.utility.auroc},
    ]
    tags = [report.mechanism.lower()]
    if sentences.holds(statement):
        tags = ["differential-privacy", *tags]
        said = f"Privacy budget at delta = {words.delta(statement.delta)}, per {statement.unit}"
        metrics.append({"type": "epsilon", "name": said, "value": statement.epsilon})
    return {
        "license": "unknown",
        "library_name": "pytorch",
        "tags": tags,
        "datasets": [name],
        "metrics": ["accuracy", "roc_auc"],
        "model-index": [
            {
                "name": report.recipe,
                "results": [
                    {
                        "task": {
                            "type": "image-classification" if images else "other",
                            "name": "Image classification" if images else "Classification",
                        },
                        "dataset": {"type": name, "name": name, "split": "test"},
                        "metrics": [metric for metric in metrics if _finite(metric["value"])],
                    }
                ],
            }
        ],
    }


def yaml(values: Mapping[str, Any], indent: int = 0) -> Iterator[str]:
    """Lines of YAML for nested mappings and sequences; scalars are written as JSON, which is YAML too."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield f"{' ' * indent}{key}:"
            yield from yaml(value, indent + 2)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield f"{' ' * indent}{key}:"
            for item in value:
                lines = list(yaml(item, indent + 2)) if isinstance(item, Mapping) else [_scalar(item)]
                yield f"{' ' * indent}- {lines[0].lstrip()}"
                yield from lines[1:]
        else:
            yield f"{' ' * indent}{key}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # YAML 1.1 takes 1e-05 for a word, and 1.0e-05 for a number.
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text


def _finite(value: Any) -> bool:
    return math.isfinite(float(value))


# ---------------------------------------------------------------------- the sections


def _use(report: Report) -> Iterator[str]:
    yield "## Intended use"
    yield ""
    data = report.data
    yield f"A classifier of {data['classes']} classes, trained by {report.mechanism} on {data['name']}."
    if sentences.holds(report.guarantee):
        yield (
            "It is meant for use where the training records must stay confidential: "
            f"{words.budget(report.guarantee)}, limits what anyone learns of one {report.guarantee.unit}."
        )
    else:
        yield (
            "**It carries no privacy guarantee**: do not give it to anyone who may not see its training "
            "records."
        )
    yield "It is not meant to be relied on for records unlike those that it was tested on."
    yield ""


def _data(report: Report) -> Iterator[str]:
    statement, data = report.guarantee, report.data
    yield "## Training data"
    yield ""
    number = f"{data['train']:,}" if _counted(statement) else "a secret number of"
    yield (
        f"{data['name']}: {number} records to train on; {data['holdout']:,} more were held out and "
        f"{data['test']:,} kept for the test, and both are unprotected."
    )
    yield ""


def _evaluation(report: Report) -> Iterator[str]:
    yield "## Evaluation"
    yield ""
    alone = replace(report, control=None)  # the twin is not released, nor is what it can do
    yield sentences.worth(alone)
    yield ""
    yield from table(tables.utility(alone))


def _privacy(report: Report, *, measured: bool) -> Iterator[str]:
    statement = report.guarantee
    yield "## Privacy"
    yield ""
    if statement.void:
        yield f"> {sentences.void(statement)}"
        yield ""
    yield f"**{words.budget(statement)}.** {sentences.promise(statement)}"
    yield ""
    yield f"*To whom.* {sentences.beneficiaries(report, counted=_counted(statement))}"
    yield ""
    for assumption in sentences.assumptions(statement):
        yield f"- {assumption}"
    yield ""
    yield "The same for other programs: [statement.json](statement.json)."
    yield ""
    if not measured or statement.selected_from is not None:
        return  # attacks were held against the bounds of a single training
    yield "### Measured leakage"
    yield ""
    yield sentences.attacks(report)
    yield ""
    if report.leakage:
        yield (
            "These numbers were made from training records, and the guarantee does not cover them; this "
            "section is here because `report.card_measured=true` asked for it."
        )
        yield ""
        yield from table(tables.leakage(report))
        for sentence in sentences.not_run(report):
            yield f"- {sentence}"
        yield sentences.legend(report)
        yield ""


def _counted(statement: Statement) -> bool:
    """Whether the number of training records may be told; without privacy there is nothing to keep."""
    return statement.units_public


def _limitations(report: Report) -> Iterator[str]:
    yield "## Limitations"
    yield ""
    yield "Outside the guarantee:"
    yield ""
    for item in sentences.outside(report.guarantee):
        yield f"- {item}"
    yield ""
    yield (
        "A bound on one record is none on a class or a group: what classes look like, and what is true of "
        "the population, may be learned from any model that is of use."
    )
    yield ""


def _reproduce(report: Report) -> Iterator[str]:
    revision = report.guarantee.code_revision
    yield "## How to reproduce"
    yield ""
    yield "```bash"
    yield report.reproduce
    yield "```"
    yield ""
    versions = ", ".join(f"{name} {version}" for name, version in report.guarantee.versions.items())
    yield f"With {versions}" + (f"; code revision {revision}." if revision else ".")
    yield sentences.REPETITION
    yield ""
