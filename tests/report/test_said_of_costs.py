"""What is said of classes, subgroups and confidences: the words never contradict the numbers."""

from __future__ import annotations

import dataclasses
import io
import re
from typing import Any

import pytest
import rich.console

from dptrain.contracts import Bin, Calibration, Constants, Cost, Interval, Report, Subgroup, Utility
from dptrain.evidence.intervals import UNDEFINED_AREA
from dptrain.report import cost_figures, costs
from dptrain.report.console import Console
from dptrain.report.model_card import as_model_card
from dptrain.report.pages import as_html, as_markdown


def around(value: float, reach: float = 0.02) -> Interval:
    return Interval(value=value, low=value - reach, high=value + reach)


def utility(ill: float, b: float, error: float) -> Utility:
    return Utility(
        accuracy=around(0.8),
        auroc=around(0.9),
        loss=0.4,
        records=400,
        more={"balanced_accuracy": around(0.75)},
        by_class={"well": around(0.9), "ill": around(ill)},
        by_subgroup=(
            Subgroup(column="scanner", name="A", records=360, value=around(0.85)),
            Subgroup(column="scanner", name="B", records=40, value=around(b)),
        ),
        confusion={"well": {"well": 180, "ill": 20}, "ill": {"well": 50, "ill": 150}},
        calibration=Calibration(
            error=around(error),
            bins=tuple(
                Bin(confidence=0.5 + at / 20, right=around(0.48 + at / 20), records=40) for at in range(10)
            ),
        ),
    )


def cost(by: str, name: str, records: int, difference: float, excess: float | None) -> Cost:
    return Cost(
        by=by,
        name=name,
        records=records,
        release=around(0.8 + difference),
        control=around(0.8),
        difference=around(difference),
        excess=None if excess is None else around(excess),
    )


@pytest.fixture
def served(report: Report) -> Report:
    """Privacy is worse for scanner B than for the rest."""
    return dataclasses.replace(
        report,
        utility=utility(0.75, 0.5, 0.105),
        control=utility(0.76, 0.85, 0.021),
        costs=(
            cost("all", "", 400, -0.04, None),
            cost("class", "well", 200, -0.03, 0.01),
            cost("class", "ill", 200, -0.05, -0.01),
            cost("scanner", "A", 360, -0.005, 0.345),
            cost("scanner", "B", 40, -0.35, -0.345),
        ),
    )


@pytest.fixture
def alike(served: Report) -> Report:
    """It is not shown to be worse for anybody."""
    return dataclasses.replace(served, costs=served.costs[:3])


def test_whoever_fares_worse_than_the_rest_is_named(served: Report) -> None:
    said = costs.sentence(served)
    assert "differs by −0.040 [−0.060, −0.020]" in said
    assert (
        "worse for some than for the rest**: scanner = B (−0.345 [−0.365, −0.325] beside all others)." in said
    )
    assert "class" not in said
    assert "worse for scanner = B than for the rest" in cost_figures.cost_figure(served).title


def test_where_nobody_does_it_is_told_what_is_left_open(alike: Report) -> None:
    said = costs.sentence(alike)
    assert "do not show that privacy is worse for class well and class ill than for the rest" in said
    assert "leave open up to 0.030 for class ill (200 records)" in said
    assert "nobody is shown to fare worse" in cost_figures.cost_figure(alike).title


def test_a_verdict_goes_by_the_digits_that_are_shown(served: Report) -> None:
    tiny = Interval(value=-0.02, low=-0.04, high=-0.0004)
    paid = dataclasses.replace(served.costs[1], excess=tiny)
    assert costs.more(dataclasses.replace(served, costs=(served.costs[0], paid))) == []
    assert words_of(tiny) == "−0.020 [−0.040, 0.000]"


def words_of(value: Interval) -> str:
    from dptrain.report import words

    return words.difference(value)


def test_of_errors_more_is_worse_and_no_class_is_spoken_of(served: Report) -> None:
    """The same records as scores, and as errors in a unit of their own."""
    turned = [
        dataclasses.replace(
            each,
            difference=costs.lost(each.difference, served.utility),
            excess=None if each.excess is None else costs.lost(each.excess, served.utility),
        )
        for each in served.costs
        if each.by != "class"
    ]
    errors: dict[str, Any] = {
        "metric": "r2", "scored": "mean_absolute_error", "auroc": UNDEFINED_AREA, "by_class": {},
        "confusion": {}, "calibration": None, "more": {"mean_absolute_error": around(6.0)},
    }  # fmt: skip
    numbers = dataclasses.replace(
        served,
        data={**served.data, "task": "regression"},
        utility=dataclasses.replace(utility(0.0, 9.0, 0.1), **errors),
        control=dataclasses.replace(utility(0.0, 8.0, 0.1), **errors),
        costs=tuple(turned),
        leakage=(),
        gallery=None,
    )
    said = costs.sentence(numbers)
    assert "mean absolute error on all test records differs by +0.040" in said
    assert "worse for some than for the rest**: scanner = B (+0.345 [+0.325, +0.365] beside" in said
    assert "scanner = A" not in said
    figure = cost_figures.cost_figure(numbers)
    assert "worse for scanner = B than for the rest" in figure.title
    assert figure.caption.startswith("Mean absolute error of both")
    out = io.StringIO()
    Console(rich.console.Console(file=out, width=130, highlight=False)).report(numbers)
    told = " ".join(out.getvalue().split())
    assert "worst for 9.000" in told
    assert "scanner = B, mean absolute error" in told
    markdown = as_markdown(numbers).partition("## The privacy statement")[0]
    card = as_model_card(numbers).partition("## Privacy")[0]
    for text in (markdown, card, told):
        assert "the lower the better" in text or text is told
        for word in ("Classes and", "of classes", "ccuracy", "AUROC", "lassifier"):
            assert word not in text, word


def test_of_several_labels_each_and_each_subgroup_is_named_with_its_measure(served: Report) -> None:
    several = dataclasses.replace(
        served.utility, metric="mean_auroc", scored="label_accuracy", confusion={}, calibration=None, more={}
    )
    findings = dataclasses.replace(served, utility=several, control=None, costs=())
    assert costs.title(several) == "Labels and subgroups"
    assert costs.legend(findings).startswith("Of labels the AUROC, of subgroups the label accuracy.")
    out = io.StringIO()
    Console(rich.console.Console(file=out, width=130, highlight=False)).report(findings)
    told = " ".join(out.getvalue().split())
    assert "worst for 0.750 label ill, AUROC" in told
    assert "worst for 0.500 scanner = B, label accuracy" in told


def test_every_number_is_in_the_page_and_in_markdown(served: Report) -> None:
    page, text = as_html(served), as_markdown(served)
    for said in (
        "scanner = B",
        "class ill",
        "0.500",
        "0.850",
        "beside all others",
        "named ill",
        "150",
        "0.105",
    ):
        assert said in page, said
        assert said in text, said
    assert "| scanner = B | 40 | 0.500 [0.480, 0.520] | 0.850 [0.830, 0.870] | −0.350" in text
    (picture,) = re.findall(r'<svg role="img" aria-labelledby="costs-title costs-desc".*?</svg>', page)
    assert "scanner = B, 40 records: release" in picture
    assert "worse than for the rest" in picture
    assert 'aria-labelledby="calibration-title calibration-desc"' in page


def test_the_card_tells_of_the_release_alone(served: Report) -> None:
    card = as_model_card(served)
    assert "| scanner = B | 40 | 0.500 [0.480, 0.520] |" in card
    assert "control" not in card.partition("## Privacy")[0]
    assert "0.850 [0.830" in card  # scanner A of the release
    assert "−0.350" not in card
    assert "0.021" not in card


def test_the_console_names_the_worst(served: Report) -> None:
    out = io.StringIO()
    Console(rich.console.Console(file=out, width=130, highlight=False)).report(served)
    told = " ".join(out.getvalue().split())
    assert "worst for 0.500" in told
    assert re.search(r"privacy costs most .* worse than for the rest", told)
    assert "scanner = B" in told
    assert "calibration error 0.105" in told


def test_confidences_under_a_declared_prior_say_what_they_mean(served: Report) -> None:
    assert "equally frequent" not in costs.calibrated(served)
    stated = dataclasses.replace(served.guarantee, constants=Constants(class_prior=(0.9, 0.1)))
    assert "equally frequent" in costs.calibrated(dataclasses.replace(served, guarantee=stated))


def test_without_confidences_or_a_control_model_less_is_said(served: Report) -> None:
    labels = dataclasses.replace(served.utility, calibration=None)
    alone = dataclasses.replace(served, utility=labels, control=None, costs=())
    assert costs.calibrated(alone) == costs.sentence(alone) == ""
    text = as_markdown(alone)
    assert "| scanner = B | 40 | 0.500 [0.480, 0.520] |" in text
    assert "beside all others" not in text
    assert "costs-title" not in as_html(alone)


def test_many_classes_keep_the_figure_short(served: Report) -> None:
    many = tuple(cost("class", f"c{at}", 20, -at / 100, 0.0) for at in range(40))
    figure = cost_figures.cost_figure(dataclasses.replace(served, costs=(served.costs[0], *many)))
    assert figure.summary.count("20 records") == cost_figures.ROWS - 1
    assert "25 more that cost less are in the table" in figure.caption
