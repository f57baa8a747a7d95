"""Whether a model has learned anything, as far as its noise allowed and its test records show."""

from __future__ import annotations

import math

from dptrain.contracts import Report, Statement
from dptrain.privacy.signal import LITTLE, NOTHING


def no_better(report: Report) -> bool:
    """Whether the test records leave it open that one prediction for all of them does as well."""
    return not report.utility.accuracy.low > report.floor_accuracy


def at_floor(report: Report) -> str:
    """That the model has learned nothing that the test records show."""
    blind = "always naming the most frequent class"
    if report.utility.metric != "accuracy":
        blind = "predicting the same of all records"
    return f"{report.utility.records:,} test records do not show that the model is better than {blind}."


def noise(signal: float) -> str:
    """What the noise leaves of the gradients to learn from, where that is likely little; else nothing."""
    moved = f"over all steps it adds up to {1 / signal:.2g} times what"
    if signal < NOTHING:
        return (
            f"The noise likely leaves nothing to learn: {moved} the clipped gradients would if all of them "
            "pointed one way. Allow a larger epsilon, larger batches, more records or a smaller model."
        )
    if signal < LITTLE:
        return (
            f"The noise may leave little to learn: {moved} the clipped gradients would even if all of them "
            "pointed one way. A larger epsilon, larger batches, more records or a smaller model leave more."
        )
    return ""


def signal(statement: Statement) -> float | None:
    """All gradients together, at most, over the noise; None where no DP-SGD was trained."""
    drawn, steps = statement.randomness, statement.steps
    if not statement.noise_multiplier or drawn is None or not drawn.draws or not steps:
        return None
    assert statement.expected_batch_size is not None
    return statement.expected_batch_size * steps / (statement.noise_multiplier * math.sqrt(drawn.draws))


def of_groups(report: Report) -> str:
    """How intervals take test records that depend on each other, as those of one patient; else nothing."""
    word = report.data.get("group_word", "group")
    return {
        "known": f"Intervals hold for new {word}s: test records of one {word} may depend on each other.",
        "unknown": (
            f"Nobody says which test records are of one {word}: they are taken as independent, so that "
            "intervals of utility are too narrow."
        ),
    }.get(report.data.get("test_groups", ""), "")
