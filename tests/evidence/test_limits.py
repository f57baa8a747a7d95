"""`fail_if`: what can be asked for, what is refused, and when it bites."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from comparisons import statement

from dptrain.contracts import (
    Calibration,
    ConfigError,
    Counts,
    Interval,
    Leakage,
    LimitExceeded,
    Report,
    Subgroup,
    Utility,
)
from dptrain.evidence import criteria
from dptrain.tasks import Classification, MultiLabel, Ordinal, Regression

ATTACKS = ("membership_loss", "membership_lira", "audit_canaries")


def line(attack, metric, value, *, bound=None, control=None):
    return Leakage(
        attack=attack,
        metric=metric,
        value=Interval(value=value, low=value - 0.05, high=value + 0.05),
        floor=0.5,
        control=control,
        bound=bound,
        detection_limit=0.9,
        verdict="leakage detected, within the guarantee",
        trials=100,
    )


def interval(value):
    return Interval(value=value, low=value - 0.1, high=value + 0.1)


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(
        recipe="r",
        mechanism="DPSGD",
        data={},
        counts=Counts(unit="record", holdout=0, test=100),
        utility=Utility(
            accuracy=Interval(value=0.8, low=0.7, high=0.9),
            auroc=Interval(value=0.85, low=0.8, high=0.9),
            loss=0.4,
            records=100,
            more={"balanced_accuracy": interval(0.7)},
            by_class={"well": interval(0.8), "ill": interval(0.6)},
            by_subgroup=(Subgroup(column="sex", name="f", records=40, value=interval(0.75)),),
            calibration=Calibration(error=interval(0.12), bins=()),
        ),
        control=None,
        floor_accuracy=0.5,
        guarantee=statement(3.0, delta=1e-5),
        epsilon_by_step=(),
        holdout_by_step=(),
        tradeoff=(),
        leakage=(
            line("membership_loss", "auc", 0.62, bound=0.7),
            line("membership_loss", "tpr_at_fpr_0.01", 0.2, bound=0.1),
            line("audit_canaries", "certified_epsilon", 0.8, bound=3.0),
        ),
        gallery=None,
        seconds={},
        folder=tmp_path,
        reproduce="python -m dptrain",
    )


def met(report, *texts):
    try:
        criteria.check(criteria.parse(texts, ATTACKS), report)
    except LimitExceeded as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("text", "beyond"),
    [
        ("leakage.membership.low > bound", "leakage.membership_loss.tpr_at_fpr_0.01.low=0.15 > bound=0.1"),
        ("leakage.membership.auc > 0.6", "leakage.membership_loss.auc.value=0.62 > 0.6"),
        ("leakage.membership.auc.high >= 0.67", "auc.high=0.67 >= 0.67"),
        ("leakage.membership_loss.tpr_at_fpr_0.01.value > 0.1", "tpr_at_fpr_0.01.value=0.2 > 0.1"),
        ("leakage.audit_canaries.value > 0.5", "certified_epsilon.value=0.8 > 0.5"),
        ("accuracy < 0.85", "accuracy=0.8 < 0.85"),
        ("balanced_accuracy < 0.75", "balanced_accuracy=0.7 < 0.75"),
        ("worst_class < 0.7", "worst_class=0.6 < 0.7"),
        ("worst_subgroup <= 0.75", "worst_subgroup=0.75 <= 0.75"),
        ("calibration_error > 0.1", "calibration_error=0.12 > 0.1"),
        ("epsilon > 1", "epsilon=3 > 1"),
    ],
)
def test_a_number_beyond_its_limit_is_named(report, text, beyond):
    assert beyond in met(report, text)


@pytest.mark.parametrize(
    "text",
    [
        "leakage.membership.auc.low > bound",
        "leakage.membership.auc > 0.63",
        "accuracy < 0.8",
        "epsilon > 3",
    ],
)
def test_a_number_within_its_limit_is_not(report, text):
    assert met(report, text) is None


def test_all_that_is_beyond_is_named_at_once(report):
    said = met(report, "accuracy < 0.9", "epsilon > 1")
    assert "accuracy=0.8" in said
    assert "epsilon=3" in said


@pytest.mark.parametrize(
    "text",
    [
        "leakage.membership_lira.auc > 0.1",  # made no line
        "leakage.membership.acu > 0.6",
        "leakage.membership.auc.lwo > 0.6",
        "leakage.membership.tpr_at_fpr_0.001 > 0.1",
        "leakage.membership.value < control",  # there is none
    ],
)
def test_a_condition_that_guards_nothing_fails(report, text):
    said = met(report, text)
    assert "so it guards nothing" in said
    assert "membership_loss.auc" in said


def test_where_nothing_is_proved_no_bound_can_be_kept(report):
    unbounded = replace(report, leakage=(line("membership_loss", "auc", 0.99),))
    assert "guards nothing" in met(unbounded, "leakage.membership.low > bound")


def test_attacks_by_query_count_on_what_is_given_away(report):
    lines = [
        replace(line("membership_loss", "auc", value), interface=interface)
        for interface, value in (("confidences", 0.8), ("labels_only", 0.55), ("top_1", 0.7))
    ]
    shown = replace(
        report, leakage=tuple(lines), guarantee=replace(report.guarantee, interface="labels_only")
    )
    assert met(shown, "leakage.membership.auc > 0.6") is None
    assert "auc.labels_only.value=0.55" in met(shown, "leakage.membership.auc > 0.5")
    assert "auc.top_1.low=0.65 > 0.6" in met(shown, "leakage.membership.auc.top_1.low > 0.6")
    assert "auc.value=0.8" in met(replace(shown, guarantee=report.guarantee), "leakage.membership.auc > 0.6")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("accuracy", "cannot be read"),
        ("accuracy = 0.5", "cannot be read"),
        ("accuracy < bound", "is no number"),
        ("leakage.membership.low > ceiling", "is no number and none of value, low"),
        ("leakage.inversion.low > 0.5", "which this run does not make; its attacks are membership_loss"),
        ("precision < 0.5", "is not measured here"),
        ("accuracy < nan", "is no number"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_training(text, why):
    with pytest.raises(ConfigError, match=r"fail_if") as error:
        criteria.parse([text, "accuracy < 0.1"], ATTACKS)
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("task", "asked", "refused"),
    [
        (Classification(classes=3), criteria.OF_CLASSES, "r2"),
        (MultiLabel(labels=3), ("mean_auroc", "auroc", "label_accuracy", "worst_class"), "accuracy"),
        (Ordinal(classes=4), (*criteria.OF_CLASSES, "quadratic_weighted_kappa"), "label_accuracy"),
        (Regression(bounds=(0, 9)), ("r2", "mean_absolute_error", "worst_subgroup", "loss"), "accuracy"),
        (Regression(bounds=(0, 9)), ("root_mean_squared_error",), "auroc"),
    ],
)
def test_each_task_has_limits_on_what_it_measures_and_on_nothing_else(task, asked, refused):
    measured = criteria.measured_by(task)
    assert len(criteria.parse([f"{name} < 0.5" for name in asked], ATTACKS, measured=measured)) == len(asked)
    with pytest.raises(ConfigError, match=f"'{refused}' in .* is not measured here; use .* {asked[0]}"):
        criteria.parse([f"{refused} < 0.5"], ATTACKS, measured=measured)


def test_of_errors_the_largest_is_the_worst(report):
    found = tuple(
        Subgroup(column="sex", name=name, records=40, value=interval(value))
        for name, value in (("f", 7.0), ("m", 5.0))
    )
    numbers = replace(
        report.utility, metric="r2", scored="mean_absolute_error", by_subgroup=found,
        more={"mean_absolute_error": interval(6.0)},
    )  # fmt: skip
    of_numbers = replace(report, utility=numbers)
    measured = criteria.measured_by(Regression(bounds=(0, 9)))
    for text, said in (
        ("worst_subgroup > 6", "worst_subgroup=7 > 6"),
        ("mean_absolute_error > 5", "mean_absolute_error=6 > 5"),
        ("r2 < 0.9", "r2=0.8 < 0.9"),
    ):
        with pytest.raises(LimitExceeded, match=said):
            criteria.check(criteria.parse([text], ATTACKS, measured=measured), of_numbers)


def test_a_limit_on_what_was_not_measured_guards_nothing(report):
    alone = replace(report, utility=replace(report.utility, by_subgroup=(), calibration=None))
    for text in ("worst_subgroup < 0.1", "calibration_error > 0.9"):
        assert "guards nothing" in met(alone, text)
