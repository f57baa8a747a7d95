"""Are inversions recognised? By the evaluator's margins for their class, beside those of untrained models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dptrain.contracts import Guarantee, Images, Interval, Leakage, Splits
from dptrain.contracts.rounding import rounded_up_to
from dptrain.evaluation.games.class_inversion.evaluator import Evaluator
from dptrain.evidence.intervals import detection_limit, permutation_p_value, proportion
from dptrain.evidence.verdict import NO_CONTROL, RESISTED, TOO_WEAK, UNBOUNDED, reading

ROUNDING = 1e-9  # by which statistics that are equal may differ


def recognised(
    released: Images,
    control: Images | None,
    untrained: Sequence[Images],
    splits: Splits,
    evaluator: Evaluator,
    guarantee: Guarantee,
    rng: torch.Generator,
    *,
    means: Tensor,
    confidence: float,
    permutations: int,
) -> Leakage:
    """Share of inversions that the evaluator assigns to their class, and whether that is more than luck.

    The restarts of one class climb the same function and end alike, right or wrong together, and so
    do the classes of one model: an untrained model has all of a class right by luck. So the unit of the
    test is a model. Null hypothesis: the release knows its classes no better than `untrained` models do,
    which are exchangeable with it, and what a model calls its classes is a matter of chance, so that
    any order of the names is as likely as any other (unless the untrained models themselves know the names
    better than chance: then these stay). The statistic is the evaluator's margin for the intended class,
    in the mean over classes. `means` (classes, ...) are the classes' mean records.
    """
    classes = splits.num_classes
    blind = 1 / classes
    shares = [share(evaluator, images) for images in untrained]
    floor = max(blind, sum(shares) / max(1, len(shares)))
    drawn = _drawn([margins(evaluator, images, classes) for images in untrained])
    level = 1 - confidence
    by_chance = not drawn or p_value_of_names(drawn, rng, permutations=permutations) > level

    def test(images: Images) -> float:
        table = margins(evaluator, images, classes)
        if by_chance:
            return p_value(table, drawn, rng, permutations=permutations)
        return permutation_p_value(float(_own(table)) - ROUNDING, torch.stack([_own(each) for each in drawn]))

    def interval(images: Images) -> Interval:
        return proportion(share(evaluator, images) * classes, classes, confidence)

    least = 1 / (1 + len(drawn))
    if by_chance:
        least = least_p_value(classes, len(drawn), permutations=permutations)
    p, control_p = test(released), None if control is None else test(control)
    word = reading(
        above_floor=p <= level,
        control_above_floor=None if control_p is None else control_p <= level,
        bounded=False,
    )
    mean_images = Images(inputs=means, labels=torch.arange(classes))
    details = {
        "images": float(len(released.labels)),
        "untrained_accuracy": floor if not shares else sum(shares) / len(shares),
        "mean_image_accuracy": share(evaluator, mean_images),
        "evaluator_test_accuracy": evaluator.accuracy,
        "p_value": p,
        "least_p_value": least,
    }
    if control_p is not None:
        details["control_p_value"] = control_p
    return Leakage(
        attack="class_inversion",
        metric="evaluator_accuracy",
        value=interval(released),
        floor=floor,
        control=None if control is None else interval(control),
        bound=None,
        detection_limit=most_certified(classes, least, confidence),
        verdict=_explained(word, p, least, level, models=len(drawn)),
        trials=classes,
        confidence=confidence,
        notes=(
            "decided by the evaluator's margins, beside those of "
            f"{len(drawn)} untrained models and all names of classes; exact interval, one trial a class: the "
            f"restarts of a class hang together. No bound: {_epsilon(guarantee)} limits what is learned of "
            "a record, not of a class"
        ),
        details=details,
    )


def most_certified(classes: int, least: float, confidence: float) -> float:
    """The most that so few classes can show: all of them, where a p-value can become small enough."""
    return 1.0 if least <= 1 - confidence else detection_limit(classes, confidence)


def share(evaluator: Evaluator, images: Images) -> float:
    """Share of the images that the evaluator assigns to their class."""
    return float((evaluator.classify(images.inputs) == images.labels).double().mean())


def margins(evaluator: Evaluator, images: Images, classes: int) -> Tensor:
    """The evaluator's mean log-odds of each class (columns) over the inversions of each (rows), float64."""
    odds = evaluator.log_odds(images.inputs).double()
    table = torch.zeros(classes, classes, dtype=torch.float64).index_add_(0, images.labels, odds)
    return table / images.labels.bincount(minlength=classes)[:, None]


def p_value(tested: Tensor, untrained: Sequence[Tensor], rng: torch.Generator, *, permutations: int) -> float:
    """How improbable so large a sum of margins is among these models, their classes named in any order.

    Of all models and orders, the observed one among them, or of so many drawn at random if these are fewer.
    """
    tables = torch.stack([tested, *untrained])  # (models, classes, classes)
    classes, observed = len(tested), float(_own(tested)) - ROUNDING
    if _outcomes(classes, len(untrained)) <= permutations + 1:
        every = torch.cat([_summed(tables, torch.tensor(order)) for order in _orders(classes)])
        return float((every >= observed).double().mean())
    model = torch.randint(len(tables), (permutations,), generator=rng)
    order = torch.rand(permutations, classes, generator=rng).argsort(1)
    shuffled = tables[model[:, None], torch.arange(classes), order].sum(1)
    return permutation_p_value(observed, shuffled)


def p_value_of_names(tables: Sequence[Tensor], rng: torch.Generator, *, permutations: int) -> float:
    """How improbable it is that models whose classes have names by chance have as large margins together."""
    stacked = torch.stack(list(tables))  # (models, classes, classes)
    models, classes = stacked.shape[:2]
    order = torch.rand(permutations, models, classes, generator=rng).argsort(2)
    shuffled = stacked[torch.arange(models)[:, None], torch.arange(classes), order].sum((1, 2))
    return permutation_p_value(float(sum(map(_own, tables))) - ROUNDING, shuffled)


def least_p_value(classes: int, untrained: int, *, permutations: int) -> float:
    """The smallest p-value that there can be."""
    return 1 / min(_outcomes(classes, untrained), permutations + 1)


def _own(table: Tensor) -> Tensor:
    """Sum of the margins for the intended classes."""
    return table.diagonal().sum()


def _outcomes(classes: int, untrained: int) -> int:
    return (1 + untrained) * math.factorial(classes)


def _orders(classes: int) -> Iterator[tuple[int, ...]]:
    return itertools.permutations(range(classes))


def _summed(tables: Tensor, order: Tensor) -> Tensor:
    """Sum of margins of each model, its classes named in this order: (models,)."""
    return tables[:, torch.arange(len(order)), order].sum(1)


def _drawn(tables: list[Tensor]) -> list[Tensor]:
    """The untrained models that are draws of chance: none of them, where some are one and the same.

    What shows no weights is compared with an interface to which all classes are alike, as often as is asked
    for; only the names of its own classes can then be exchanged.
    """
    alike = any(torch.equal(one, other) for one, other in itertools.combinations(tables, 2))
    return [] if alike else tables


def _explained(word: str, p: float, least: float, level: float, *, models: int) -> str:
    """The verdict in full."""
    if word == TOO_WEAK and least > level:
        return f"{TOO_WEAK}: with so few classes and {models} untrained models p is {least:.2g} at best"
    alike = f"recognised no better than those of untrained models (p = {p:.2g})"
    return {
        UNBOUNDED: (
            f"{UNBOUNDED}; recovers what the class looks like (a property of the population, not of a "
            f"record; p = {p:.2g})"
        ),
        RESISTED: f"resisted: {alike}, the control's better",
        TOO_WEAK: f"{TOO_WEAK}: {alike}, nor are the control's",
        NO_CONTROL: f"{alike}, no control",
    }[word]


def _epsilon(guarantee: Guarantee) -> str:
    return f"epsilon = {rounded_up_to(guarantee.epsilon(), 3)} at delta = {rounded_up_to(guarantee.delta, 1)}"
