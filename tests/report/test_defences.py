"""Attacks by query: through each interface side by side, against the queries spent, record by record."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest
import rich.console

from dptrain.contracts import Exposed, Interval, Leakage, Report
from dptrain.report import defences, figures, write
from dptrain.report.console import Console
from dptrain.report.pages import as_markdown


def line(interface: str, value: float, metric: str = "auc", attack: str = "membership_loss") -> Leakage:
    return Leakage(
        attack=attack,
        metric=metric,
        value=Interval(value=value, low=value - 0.04, high=value + 0.04),
        floor=0.5,
        control=Interval(value=0.71, low=0.6, high=0.8),
        bound=0.73,
        detection_limit=0.96,
        verdict="leakage detected, within the guarantee",
        trials=400,
        interface=interface,
    )


@pytest.fixture
def defended(report: Report) -> Report:
    certified = dataclasses.replace(
        line("", 1.4, "certified_epsilon", "audit_canaries"),
        value=Interval(value=1.4, low=1.4, high=float("inf")),
        bound=3.0,
        control=None,
    )
    return dataclasses.replace(
        report,
        guarantee=dataclasses.replace(report.guarantee, interface="labels_only"),
        leakage=(
            *report.leakage,
            line("confidences", 0.612),
            line("labels_only", 0.533),
            line("top_k", 0.587),
            certified,
        ),
        queries={
            "class_inversion_queries": ((100, 0.1, 0.2), (1000, 0.4, 0.6), (10_000, 0.7, 0.9)),
            "class_inversion_labels": ((200, 0.1, None), (9000, 0.3, None)),
        },
        exposed=(
            Exposed(
                record="train 17",
                label=1,
                score={"membership_loss": 4.2},
                percentile={"membership_loss": 0.98},
            ),
            Exposed(
                record="holdout 3",
                label=0,
                score={"membership_loss": 0.1},
                percentile={"membership_loss": 0.4},
            ),
        ),
    )


def said(report: Report, width: int = 112) -> str:
    out = io.StringIO()
    Console(out=rich.console.Console(file=out, width=width)).report(report)
    return out.getvalue()


def test_a_table_holds_each_interface_once(defended: Report) -> None:
    names, rows = defences.table(defended.leakage)
    assert names == ["confidences", "labels_only", "top_k"]
    ((name, floor, values),) = rows
    assert (name, floor) == ("membership_loss: auc", 0.5)
    assert [value.value for value in values] == [0.612, 0.533, 0.587]


def test_one_interface_needs_no_table(report: Report) -> None:
    assert defences.table([*report.leakage, line("confidences", 0.6)]) == ([], [])


def test_an_attack_that_met_fewer_interfaces_leaves_a_gap() -> None:
    lines = [line("confidences", 0.6), line("top_k", 0.5), line("confidences", 0.7, attack="other")]
    _, rows = defences.table(lines)
    assert rows[1][2][1] is None


@pytest.mark.parametrize("width", [80, 140])
def test_the_console_compares_and_warns(defended: Report, width: int) -> None:
    told = said(defended, width)
    assert "OUTPUT DEFENCES" in told
    assert "given away  labels only only" not in told
    assert "labels only" in told
    for number in ("0.612", "0.533", "0.587", "∞"):
        assert number in told
    assert "None of these is a guarantee" in " ".join(told.split())
    assert told.count("membership_loss") == 2  # once in the main table, once beside its defences
    assert max(map(len, told.splitlines())) <= max(width, 110)


def test_the_report_compares_and_names_the_file_of_records(defended: Report) -> None:
    text = as_markdown(defended)
    assert "### Output defences" in text
    assert "| membership_loss: auc | 0.500 | 0.612 [0.572, 0.652] | 0.533" in text
    assert "[exposure.csv](exposure.csv) names the 2 training records" in text
    assert text.count("**membership_loss**, auc") == 1
    assert "### Output defences" not in as_markdown(dataclasses.replace(defended, leakage=()))


def test_figures_of_rates_leave_out_what_is_no_rate(defended: Report) -> None:
    metrics = {found.metric for found, _ in figures.bounded(defended)}
    assert "certified_epsilon" not in metrics
    assert "auc" not in metrics


def test_everything_is_written(defended: Report) -> None:
    names = {path.name for path in write(defended)}
    assert {"exposure.csv", "queries.svg", "report.json"} <= names
    with (defended.folder / "exposure.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "record": "train 17",
        "label": "1",
        "membership_loss_percentile": "0.98",
        "membership_loss_score": "4.2",
    }
    assert rows[1]["record"] == "holdout 3"


def test_without_probes_there_is_no_file_of_records(report: Report) -> None:
    assert "exposure.csv" not in {path.name for path in write(report)}
