"""The sections of a report, once for the page and for the Markdown document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dptrain.contracts import Leakage, Report
from dptrain.evidence.verdict import ABOVE, BROKEN, LEAKS, NOT_SHOWN, RESISTED, TOO_WEAK, kind
from dptrain.report import answers, assumptions, costs, counts, guarding, learned, sentences, tables, words
from dptrain.report.blocks import (
    Answers,
    Block,
    Bullets,
    Cards,
    Code,
    Figures,
    Finding,
    Findings,
    Heading,
    ImageFile,
    Paragraph,
    Section,
    Tabular,
    bullets,
)
from dptrain.report.figure import Figure
from dptrain.report.gallery import image_table
from dptrain.report.leakage_words import named, sentence

GALLERY = "class_inversion.png"
TITLES = {
    "verdict": "The verdict",
    "numbers": "The numbers",
    "figures": "Figures",
    "guards": "What the guards did",
    "statement": "The privacy statement in full",
    "limits": "Assumptions, and what is outside the guarantee",
    "reproduce": "How to reproduce",
}
BADGES = {
    LEAKS: ("Leakage detected", "leaks"),
    ABOVE: ("Above its bound", "broken"),
    BROKEN: ("Broken", "broken"),
    RESISTED: ("Resisted", "resisted"),
    TOO_WEAK: ("Cannot tell", "unknown"),
    NOT_SHOWN: ("Not shown", "unknown"),
}


def verdict(report: Report) -> Section:
    """What is promised to whom, what was tried, found and not seen, what to do; then each measurement."""
    stated = report.guarantee
    void = [Paragraph(sentences.void(stated), style="alarm")] if stated.void else []
    findings = [_finding(line, void=stated.void) for line in sentences.main_lines(report)]
    findings += [Finding("Not run", "unknown", text, named=True) for text in sentences.not_run(report)]
    return _section(
        "verdict",
        *void,
        Paragraph(sentences.short(report), head="In short", style="lead"),
        _key_figures(report),
        Answers(
            (
                ("What is promised", (answers.promise(stated),)),
                ("To whom", (answers.beneficiaries(report),)),
                ("What was tried", (answers.tried(report),)),
                ("What was found", (answers.seen(report),)),
                ("What could not be seen", (answers.unseen(report),)),
                ("What to do", tuple(answers.next_steps(report))),
            )
        ),
        Heading("What the model is worth"),
        Paragraph(sentences.worth(report)),
        *([Paragraph(paid)] if (paid := costs.sentence(report)) else []),
        *([Heading("Each measurement"), Findings(tuple(findings))] if findings else []),
    )


def _finding(line: Leakage, *, void: bool) -> Finding:
    return Finding(*BADGES.get(kind(line.verdict), ("No control", "unknown")), sentence(line, void=void))


def _key_figures(report: Report) -> Cards:
    """Three numbers that sum the run up."""
    stated = report.guarantee
    if sentences.holds(stated):
        proved = (
            f"ε = {words.epsilon(stated.epsilon)}",
            f"δ = {words.delta(stated.delta)}, per {stated.unit}",
        )
        test = words.percent_at_most(stated.tpr_at_fpr["0.01"])
        membership = (
            test,
            f"of the training {stated.unit}s: the most that any membership test identifies, at a 1 % "
            "false-positive rate",
        )
    else:
        proved = "void" if stated.void else "none", "no guarantee holds"
        membership = "no limit", "to what a membership test may identify"
    worth = _worth(report)
    cards = (("Guarantee", *proved), ("Membership", *membership), worth)
    return Cards(cards, only="html")


def _worth(report: Report) -> tuple[str, str, str]:
    """What the model is able to do, as a card."""
    metric, value, records = report.utility.metric, report.utility.accuracy, f"{report.utility.records:,}"
    if metric != "accuracy":
        name = words.sentence_case(words.named(metric))
        return name, words.number(value.value), f"on {records} test records {words.interval(value)}"
    ends = f"[{words.percent_at_least(value.low)}, {words.percent_at_most(value.high)}]"
    return "Accuracy", words.percent(value.value), f"of {records} test records classified correctly {ends}"


def numbers(report: Report) -> Section:
    """Utility and leakage as tables, and how each number came about."""
    blocks: list[Block] = [
        Heading("Utility"),
        Tabular(tables.utility(report), "utility-table", "What the model is able to do.", style="short"),
        Paragraph(sentences.data(report)),
        *([bullets(*counts.scaled(report.scaled))] if report.scaled else []),
        *by_part(report),
    ]
    if report.leakage:
        blocks += _leakage(report)
    if report.leakage and report.exposed:
        blocks.append(Paragraph(f"[exposure.csv](exposure.csv) {sentences.exposure(report)}"))
    return _section("numbers", *blocks)


def by_part(report: Report) -> list[Block]:
    """What the model is able to do for each class and each subgroup, and how far it knows."""
    blocks: list[Block] = [Paragraph(said)] if (said := learned.of_groups(report)) else []
    if (found := costs.by_part(report)) is not None:
        blocks += [
            Heading(costs.title(report.utility)),
            Tabular(found, "costs-table", costs.caption(report), style="wide"),
            Paragraph(costs.legend(report), style="note"),
        ]
    if (named := costs.confusion(report.utility)) is not None:
        caption = "How often each class is named for test records of each class."
        blocks.append(Tabular(named, "confusion-table", caption, style="short"))
    if calibrated := costs.calibrated(report):
        blocks.append(Paragraph(calibrated))
    return blocks


def _leakage(report: Report) -> list[Block]:
    caption = "What each attack achieved, beside its baseline, its control and its bound."
    blocks = [
        Heading("Leakage"),
        Tabular(tables.leakage(report), "leakage-table", caption, style="wide"),
        Paragraph(sentences.legend(report), style="note"),
    ]
    remarks = [(line, sentences.remarks(line)) for line in sentences.main_lines(report)]
    items = tuple((line.attack, f", {named(line)}: {text}.") for line, text in remarks if text)
    if items:
        blocks.append(Bullets(items, summary="How each number came about"))
    compared = tables.output_defences(report)
    if compared is not None:
        blocks += [
            Heading("Output defences"),
            Tabular(compared, "defences-table", sentences.DEFENDED, style="wide"),
            Paragraph(sentences.DEFENDED, only="markdown"),
        ]
    return blocks


def guards(report: Report) -> tuple[Section, ...]:
    """What became of the questions to a service, where one was attacked."""
    if report.guarding is None:
        return ()
    caption = "What each attack asked of the service, and what became of it."
    section = _section(
        "guards",
        Tabular(guarding.table(report.guarding), "guards-table", caption, style="wide"),
        bullets(*guarding.sentences(report)),
        Paragraph(guarding.NO_BOUND, style="note"),
    )
    return (section,)


def figures(report: Report, drawn: Sequence[Figure]) -> Section:
    """The figures themselves, and the gallery, for whoever may see training records."""
    blocks: list[Block] = [Figures(tuple(drawn))]
    if report.gallery is not None:
        blocks += [
            Heading("What was inverted of each class"),
            Paragraph(sentences.INVERSIONS, style="warning"),
            image_table(report.gallery),
            Paragraph(f"The same as a figure: [{GALLERY}](figures/{GALLERY}).", style="note"),
        ]
    return _section("figures", *blocks)


def figure_files(report: Report, paths: Sequence[Path]) -> Section:
    """Files of figures by their addresses; what shows training records is linked and not shown."""
    blocks: list[Block] = []
    for path in paths:
        address = path.relative_to(report.folder).as_posix()
        if path.name == GALLERY:
            blocks.append(Paragraph(f"[{path.name}]({address}) {sentences.LINKED}"))
        else:
            blocks.append(ImageFile(address, sentences.CAPTIONS[path.stem]))
    return _section("figures", *blocks)


def statement(report: Report) -> Section:
    """Every term of the guarantee."""
    return _section(
        "statement",
        Paragraph("The same for other programs: [statement.json](statement.json).", only="html"),
        Tabular(tables.statement(report.guarantee), "statement-table", "Every term of the guarantee."),
    )


def limits(report: Report) -> Section:
    """What the guarantee rests on, and what it does not cover."""
    return _section(
        "limits",
        Heading("Assumptions", only="html"),
        bullets(*assumptions.assumptions(report.guarantee)),
        Heading("Outside the guarantee", only="html"),
        Paragraph("Outside the guarantee:", only="markdown"),
        bullets(*assumptions.outside(report.guarantee)),
    )


def reproduce(report: Report) -> Section:
    """The command, and what a repetition would give."""
    return _section(
        "reproduce",
        Code(report.reproduce, "Command"),
        Paragraph(
            f"{sentences.REPETITION}\n{sentences.seconds(report)} "
            "Every number of this report is in [report.json](report.json)."
        ),
    )


def _section(name: str, *blocks: Block) -> Section:
    return Section(name=name, title=TITLES[name], blocks=blocks)
