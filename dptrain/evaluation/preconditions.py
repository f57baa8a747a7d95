"""What the attacks of a run ask of the data, checked before anything is spent on a training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from dptrain.assembly.components import Parts
from dptrain.contracts import Attack, Budget, ConfigError, DptrainError, Knowledge, Records, Splits
from dptrain.evaluation.assignment import Coins
from dptrain.evaluation.stage import Stage, shown
from dptrain.tasks import task_of

# What is played for: an attack that needs none of these is after the classes.
GAMES = frozenset({Knowledge.SLOTS, Knowledge.PROBES, Knowledge.CANARIES, Knowledge.ATTRIBUTES})
OF_PROBES = frozenset({Knowledge.PROBES, Knowledge.ATTRIBUTES})
FITTED = 2  # test records that the space of class inversions is fitted to, at least


def check_records(parts: Parts, splits: Splits) -> None:
    """Raise one ConfigError for the attacks that cannot work on such inputs or labels, by name.

    Attacks on records work on one input tensor of numbers and on classes, unless they say `any_records`.
    """
    names, task = splits.train.names, task_of(splits).name
    strange = [f"inputs by name ({', '.join(names)})"] if names else []
    strange += ["inputs of whole numbers"] if splits.train.whole is True else []
    strange += [f"labels of {task}"] if splits.task is not None else []
    refused = [name for name, attack in parts.attacks.items() if not getattr(attack, "any_records", False)]
    if strange and refused:
        raise ConfigError(
            "\n".join(
                f"attack={name} works on one tensor of numbers and one class a record, and data "
                f"`{splits.name}` has {' and '.join(strange)}; leave the attack out"
                for name in refused
            )
        )


def check(parts: Parts, splits: Splits, coins: Coins, budget: Budget) -> None:
    """Raise one ConfigError for all that would keep an attack of these parts from being judged.

    `splits` and `coins` are as they will be trained on: probes, candidates and canaries assigned. An attack
    with a method `check(targets)` is asked as well; it raises ConfigError where these do not serve it.
    """
    problems = [*_of_the_data(splits)]
    if not problems:
        targets = Stage.prepare(parts.attacks, splits, coins).targets
        for name, attack in parts.attacks.items():
            problems += [
                f"attack={name}: {problem}" for problem in _of_an_attack(attack, parts, splits, coins, budget)
            ]
            if hasattr(attack, "check"):
                try:
                    attack.check(shown(targets, attack.needs))
                except ConfigError as error:
                    problems.append(f"attack.{name}.{error}")
    if problems:
        raise ConfigError("\n".join(problems))


def _of_the_data(splits: Splits) -> Iterator[str]:
    for part, records in (("holdout", splits.holdout), ("test", splits.test)):
        if not len(records):
            yield f"data `{splits.name}` has no {part} records to measure on; give the {part} split some"


def _of_an_attack(
    attack: Attack, parts: Parts, splits: Splits, coins: Coins, budget: Budget
) -> Iterator[str]:
    if not attack.needs & GAMES:
        yield from _of_class_inversion(splits)
    if attack.needs & OF_PROBES and coins.drawing is not None:
        inside = int(coins.drawing.members.sum())
        if not 0 < inside < len(coins.drawing.members):
            yield (
                f"of the {len(coins.drawing.members)} probes {inside} are trained on, so there is nothing to "
                "tell apart; raise evidence.probes, or change seed"
            )
    if Knowledge.SHADOWS in attack.needs and coins.drawing is not None:
        yield from _of_shadows(attack, parts, splits, coins, budget)


def _of_class_inversion(splits: Splits) -> Iterator[str]:
    """Inversions are held against members and held-out records of their class, in a space of test records."""
    for part, records in (("training", splits.train), ("holdout", splits.holdout)):
        counts = records.labels.bincount(minlength=splits.num_classes).tolist()
        absent = [name for name, count in zip(splits.classes, counts, strict=False) if not count]
        if absent:
            named = ", ".join(repr(name) for name in absent)
            yield (
                f"the {part} records hold none of class {named}, so class inversion cannot be judged; give "
                f"the {part} split records of every class, or leave the attack out"
            )
    if len(splits.test) < FITTED:
        yield f"{len(splits.test)} test records are too few to judge class inversion; give {FITTED} or more"


def _of_shadows(attack: Attack, parts: Parts, splits: Splits, coins: Coins, budget: Budget) -> Iterator[str]:
    """Shadow models are trained on all records but the probes, and on half of these."""
    drawing = coins.drawing
    assert drawing is not None
    known = drawing.known(splits)
    half = len(drawing.probes) // 2
    grouped = budget.unit != "record" and known.group_ids is not None
    units = (len(known.group_ids.unique()) if grouped else len(known.train)) + half  # type: ignore[union-attr]
    try:
        settings = getattr(parts.plain, "settings", None)
        if settings is not None:
            settings.rates.resolve(units)
        if getattr(attack, "private_shadows", False):
            parts.mechanism.plan(_shadowed(known, drawing.probes.take(torch.arange(half))), budget)
    except DptrainError as error:
        yield f"its shadow models, of {units} units each, cannot be trained: {error}"


def _shadowed(known: Splits, half: Records) -> Splits:
    groups = known.group_ids
    if groups is not None:
        groups = torch.cat([groups, groups.max() + 1 + torch.arange(len(half))])
    return replace(known, train=known.train.and_more(half), group_ids=groups)
