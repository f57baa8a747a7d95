"""The report as Markdown: the verdict in plain words first, then everything it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dptrain.contracts import Interval, Leakage, Report
from dptrain.report import defences, words

CONFIDENTIAL = "class_inversion.png"
CAPTIONS = {
    "epsilon.png": "What had been spent after each step.",
    "utility.png": "Accuracy on held-out records during training, and on the test records in the end.",
    "queries.png": "Class inversion by query: how many inversions another model recognises, against the "
    "queries spent.",
    "reconstruction.png": "Attacks on single records beside their floors, controls and bounds; "
    "and the most that any membership test can do.",
}
COLUMNS = ("attack", "measured", "floor", "control", "bound", "limit", "trials", "verdict")


def as_markdown(report: Report, figures: Sequence[Path] = ()) -> str:
    """The report for a data-protection officer; `figures` are linked relative to the report's folder."""
    return "\n".join(
        [
            f"# Privacy report: {report.recipe}",
            "",
            *_verdict(report),
            *_numbers(report),
            *_statement(report.guarantee),
            *_limits(report.guarantee),
            *_figures(report, figures),
            *_reproduce(report),
        ]
    )


def write_markdown(report: Report, path: Path, figures: Sequence[Path] = ()) -> None:
    """Write the report, in UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_markdown(report, figures), encoding="utf-8")


# ---------------------------------------------------------------------- the verdict


def _verdict(report: Report) -> Iterator[str]:
    statement = report.guarantee
    yield "## The verdict"
    yield ""
    if statement["void"]:
        yield f"> **VOID**: {statement['void_reason']}. This run proves nothing; do not rely on its epsilon."
        yield ""
    yield f"**In short.** {_short(report)}"
    yield ""
    yield f"**What is promised.** {_promise(statement)}"
    yield ""
    yield f"**To whom.** {_beneficiaries(report)}"
    yield ""
    yield f"**What the attacks did.** {_attacks(report)}"
    yield ""
    for line in filter(defences.shown, report.leakage):
        yield f"- {told(line, void=statement['void'])}"
    if report.leakage:
        yield ""
    yield f"**What the model is worth.** {_worth(report)}"
    yield ""


def _short(report: Report) -> str:
    """The guarantee, and how many attacks saw something, in two sentences."""
    statement = report.guarantee
    private = words.is_private(statement)
    text = f"Guarantee: {words.budget(statement)}."
    if not report.leakage:
        return text
    lines = [line for line in report.leakage if defences.shown(line)]
    leaking = sum(line.verdict.startswith(("leaks", "exceeds")) for line in lines)
    text += f" {leaking} of {len(lines)} measurements found leakage above the floor"
    if private and not statement["void"]:
        broken = sum(line.verdict.startswith("exceeds") for line in lines)
        text += f", **{broken} of them more than is allowed**" if broken else ", none more than is allowed"
    return f"{text}."


def _promise(statement: Mapping[str, Any]) -> str:
    if statement["void"] or not words.is_private(statement):
        return str(statement["sentence"])
    tests = ", or more than ".join(
        f"{words.percent(tpr)} of the {statement['unit']}s at {words.percent(float(fpr))} false alarms"
        for fpr, tpr in statement["tpr_at_fpr"].items()
    )
    return (
        f"{statement['sentence']} No membership test that could ever exist finds more than {tests}. "
        "This is an upper bound. It holds against every adversary, "
        "with whatever knowledge and computing power, today and later."
    )


def _beneficiaries(report: Report) -> str:
    statement, unit = report.guarantee, report.guarantee["unit"]
    if statement["void"] or not words.is_private(statement):
        return "To nobody."
    text = f"To each {unit} among the {report.data['train']:,} training records, alike."
    if unit == "record":
        text += " Someone with several records among them is protected less, the more records there are."
    return text


def _attacks(report: Report) -> str:
    if not report.leakage:
        return "No attack was run, so nothing was measured."
    return (
        "Measured leakage is never a ceiling: a better attack may find more. Only a bound is proved, "
        "and where there is none, no theorem limits the metric."
    )


def told(line: Leakage, *, void: bool) -> str:
    """One leakage line as a sentence or two."""
    low_high = words.interval(line.value)
    text = (
        f"**{line.attack}**, {line.metric}: {words.number(line.value.value)} {low_high}, "
        f"where {words.number(line.floor)} is reached without the model"
    )
    if line.control is not None:
        text += f" and {words.number(line.control.value)} against the non-private twin"
    text += f". {_meaning(line.verdict)}"
    if void:
        return text
    if line.bound is None:
        return f"{text} No theorem bounds this."
    return f"{text} The guarantee allows at most {words.number(line.bound)}."


def _meaning(verdict: str) -> str:
    """What follows from a verdict, by its first word."""
    explained = {
        "leaks": "The release leaks: the attack did better than without the model.",
        "resisted": "The attack works on the twin, and found nothing here above the floor.",
        "attack": "The attack is too weak to tell: it found nothing on the twin either. This is no evidence "
        "of privacy.",
        "not": "It found nothing above the floor; with no control, one cannot know whether it could have.",
        "exceeds": "**More than the guarantee allows: the implementation is broken. Do not release this "
        "model.**",
    }
    return explained.get(verdict.split()[0].rstrip(":"), f"{verdict}.")


def _worth(report: Report) -> str:
    accuracy = report.utility.accuracy
    text = (
        f"It is right on {words.percent(accuracy.value)} of {report.utility.records:,} test records "
        f"(interval {words.percent(accuracy.low)} to {words.percent(accuracy.high)}); always naming the most "
        f"frequent class is right on {words.percent(report.floor_accuracy)}"
    )
    if report.control is not None:
        text += f", and the non-private twin on {words.percent(report.control.accuracy.value)}"
    return f"{text}."


# ---------------------------------------------------------------------- tables


def _numbers(report: Report) -> Iterator[str]:
    yield "## The numbers"
    yield ""
    yield "### Utility"
    yield ""
    utility, twin = report.utility, report.control
    yield from _table(
        ("", "release", "non-private twin", "floor"),
        [
            (
                "test accuracy",
                _with_interval(utility.accuracy),
                "" if twin is None else _with_interval(twin.accuracy),
                words.number(report.floor_accuracy),
            ),
            ("AUROC", words.number(utility.auroc), "" if twin is None else words.number(twin.auroc), ""),
            ("loss", words.number(utility.loss), "" if twin is None else words.number(twin.loss), ""),
        ],
        numeric=range(1, 4),
    )
    data = report.data
    yield (
        f"Data: {data['name']} ({data['source']}); {data['train']:,} records to train on, "
        f"{data['holdout']:,} held out, {data['test']:,} to test on, {data['classes']} classes."
    )
    yield ""
    if not report.leakage:
        return
    yield "### Leakage"
    yield ""
    yield from _table(
        COLUMNS,
        [
            (
                f"{line.attack}: {line.metric}",
                _with_interval(line.value),
                words.number(line.floor),
                "none" if line.control is None else _with_interval(line.control),
                "void" if report.guarantee["void"] and line.bound is not None else words.bound(line.bound),
                words.number(line.detection_limit),
                f"{line.trials:,}",
                line.verdict,
            )
            for line in filter(defences.shown, report.leakage)
        ],
        numeric=range(1, 7),
    )
    yield (
        f"Intervals are at {report.leakage[0].confidence:.0%} confidence, each line by itself: among many, "
        "one may err. *Floor*: the same attack without the model. *Control*: the same attack on the twin "
        "trained without privacy, which is not released. *Bound*: what the guarantee proves about this "
        "metric. *Limit*: the most that this attack with these trials could have certified."
    )
    yield ""
    for line in filter(defences.shown, report.leakage):
        remarks = [line.notes] if line.notes else []
        remarks += [f"{name.replace('_', ' ')} {words.number(value)}" for name, value in line.details.items()]
        if remarks:
            yield f"- {line.attack}, {line.metric}: {'; '.join(remarks)}."
    yield ""
    yield from _defences(report)
    if report.exposed:
        yield (
            f"[exposure.csv](exposure.csv) names the {len(report.exposed):,} training records that a coin "
            "put there, the most easily recognised first. **It is as confidential as they are.**"
        )
        yield ""


def _defences(report: Report) -> Iterator[str]:
    names, rows = defences.table(report.leakage)
    if not rows:
        return
    yield "### Output defences"
    yield ""
    yield from _table(
        ("attack by query", "floor", *(name.replace("_", " ") for name in names)),
        [
            (
                name,
                words.number(floor),
                *("" if value is None else _with_interval(value) for value in values),
            )
            for name, floor, values in rows
        ],
        numeric=range(1, 2 + len(names)),
    )
    yield f"What each form of output leaves to these attacks. {defences.CAVEAT}"
    yield ""


def _statement(statement: Mapping[str, Any]) -> Iterator[str]:
    yield "## The privacy statement in full"
    yield ""
    rows = [(name.replace("_", " "), value) for name, value in _flat(statement) if value != ""]
    yield from _table(("term", "value"), rows)


def _limits(statement: Mapping[str, Any]) -> Iterator[str]:
    yield "## Assumptions, and what is outside the guarantee"
    yield ""
    for assumption in _assumptions(statement):
        yield f"- {assumption}"
    yield ""
    yield "Outside the guarantee:"
    yield ""
    outside = statement["outside_guarantee"] or ["nothing that this program knows of"]
    for item in outside:
        yield f"- {item}"
    yield ""


def _assumptions(statement: Mapping[str, Any]) -> Iterator[str]:
    if not words.is_private(statement):
        yield "None are needed: nothing is promised."
        return
    unit = statement["unit"]
    yield f"Two data sets are neighbours when one {unit} is {words.ADJACENCY[statement['adjacency']]}."
    if statement["units_public"]:
        yield f"The number of {unit}s is taken to be public."
    yield f"Released: {statement['released']}. Nothing else of this run is covered, this report included."
    ran, assumed = statement["sampling_run"], statement["sampling_assumed"]
    if ran == assumed:
        yield f"Batches were drawn by {ran} sampling, as the accountant assumes."
    else:
        yield f"Batches were drawn by {ran} sampling, accounted as {assumed} sampling."
    randomness = statement["randomness"]
    if not randomness["secret"]:
        yield "**The seed of noise and sampling is not secret.**"
    elif randomness["cryptographic"]:
        yield "The seed of noise and sampling is secret, and their generator is a cryptographic one."
    else:
        yield (
            f"The seed of noise and sampling is secret, but the generator is not a cryptographic one "
            f"({randomness['source']}): it is taken to be as good as true randomness."
        )
    yield "Noise is added in floating-point arithmetic, which is taken to be exact."
    yield "The computer that trained, and everyone with access to it, are trusted."


# ---------------------------------------------------------------------- figures and the way back


def _figures(report: Report, figures: Sequence[Path]) -> Iterator[str]:
    if not figures:
        return
    yield "## Figures"
    yield ""
    for path in figures:
        link = path.relative_to(report.folder).as_posix()
        if path.name == CONFIDENTIAL:
            yield (
                f"[{path.name}]({link}) shows what was inverted of each class beside the nearest training "
                "record. **It contains training records and is as confidential as they are**, so it is "
                "linked and not shown."
            )
        else:
            yield f"![{CAPTIONS[path.name]}]({link})"
            yield ""
            yield f"*{CAPTIONS[path.name]}*"
        yield ""


def _reproduce(report: Report) -> Iterator[str]:
    yield "## How to reproduce"
    yield ""
    yield "```bash"
    yield report.reproduce
    yield "```"
    yield ""
    yield "Noise and sampling are secret, so a repetition agrees within the intervals, not to the digit."
    seconds = ", ".join(f"{name} {words.duration(value)}" for name, value in report.seconds.items())
    yield f"Time taken: {seconds}. Every number of this report is in [report.json](report.json)."
    yield ""


# ---------------------------------------------------------------------- Markdown itself


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: range = range(0)
) -> Iterator[str]:
    """A table; the columns in `numeric` are aligned to the right."""
    yield _row(heads)
    yield _row(["---:" if column in numeric else "---" for column in range(len(heads))])
    for row in rows:
        yield _row(row)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _with_interval(value: Interval) -> str:
    return f"{words.number(value.value)} {words.interval(value)}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every entry of a nested statement as a name and a text."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        elif isinstance(value, list | tuple):
            yield name, "; ".join(str(item) for item in value)
        elif value is None:
            yield name, "none"
        elif isinstance(value, bool):
            yield name, "yes" if value else "no"
        elif isinstance(value, float):
            yield name, "∞" if value == float("inf") else f"{value:.6g}"
        else:
            yield name, str(value)
