"""What the attacks of a run ask of the data, checked before anything is spent on a training."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import torch

from dptrain.assembly.components import Parts
from dptrain.config import Evidence
from dptrain.config import Release as ReleaseAsked
from dptrain.contracts import Attack, Budget, ConfigError, DptrainError, Game, Splits, wants_shadows
from dptrain.evaluation.assignment import Assignments
from dptrain.evaluation.stage import Stage
from dptrain.evidence.held_out import train_on
from dptrain.tasks import task_of

OF_CLASSES = ("top_k", "temperature", "labels_only")  # forms of output
CURE = ", or leave the attack out"  # of whoever asked for it
NUMBERS = {"slots": ("slots", "candidates")}  # keys of evidence; of other assignments the one of their name


def check_records(parts: Parts, splits: Splits, asked: Collection[str] = ()) -> dict[str, str]:
    """Why attacks cannot work on such inputs or labels, by attack; `asked` as of `check`.

    Attacks on records work on one input tensor of numbers and on classes, unless they say `any_records`, or
    `any_labels`. Raises one ConfigError for those that were asked for.
    """
    names, task = splits.train.names, task_of(splits).name
    inputs = [f"inputs by name ({', '.join(names)})"] if names else []
    inputs += ["inputs of whole numbers"] if splits.train.whole is True else []
    labels = [] if splits.of_classes else [f"labels of {task}"]
    left_out = {}
    for name, attack in parts.attacks.items():
        if getattr(attack, "any_records", False):
            continue
        needed = ["one tensor of numbers"] + ["one class"] * (not getattr(attack, "any_labels", False))
        if strange := [*inputs, *(labels if len(needed) > 1 else [])]:
            left_out[name] = (
                f"works on {' and '.join(needed)} a record, and data `{splits.name}` has "
                f"{' and '.join(strange)}"
            )
    problems = [
        f"attack={name} {why}; leave the attack out" for name, why in left_out.items() if _asked(name, asked)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return {name: f"it {why}" for name, why in left_out.items()}


def _asked(name: str, asked: Collection[str]) -> bool:
    """Whether whoever started the run asked for this attack."""
    return any(key == "attack" or key.startswith(f"attack.{name}.") for key in asked)


def check_output(release: ReleaseAsked, splits: Splits) -> None:
    """Raise ConfigError where answers would be shown in forms that these labels do not have."""
    for key, name in (("output", release.output), *(("compare", each) for each in release.compare)):
        if name in OF_CLASSES and not splits.of_classes:
            raise ConfigError(
                f"release.{key}={name} is made of the probabilities of classes, and data `{splits.name}` has "
                f"labels of {task_of(splits).name}; use weights, confidences or rounded"
            )


def check(
    parts: Parts,
    splits: Splits,
    assignments: Assignments,
    budget: Budget,
    *,
    evidence: Evidence,
    asked: Collection[str],
) -> dict[str, str]:
    """Why attacks of these parts cannot be scored, by attack: those that nobody asked for are left out.

    `splits` and `assignments` are as they will be trained on. An attack with a method `check(targets)` is
    asked as well; it raises ConfigError where these do not serve it. `asked` are the keys that whoever
    started the run gave: raises one ConfigError for all that cannot be done of what is asked for there.
    """
    problems = [*_of_the_data(splits)]
    left_out: dict[str, str] = {}
    if not problems:
        problems += without_room(assignments, evidence, asked)
        stage = Stage(attacks=parts.attacks, games=parts.games, splits=splits, assignments=assignments)
        for name, attack in parts.attacks.items():
            game = stage.game(name)
            assigned = assignments.of(game)
            found = [*game.problems(splits, assigned)]
            if wants_shadows(attack) and not found:
                found += _of_shadows(attack, parts, splits, assignments, budget)
            own = []
            if hasattr(attack, "check") and (assigned is not None or not game.assignment):
                try:
                    attack.check(stage.public(name))
                except ConfigError as error:
                    own.append(f"attack.{name}.{error}")
            numbers = NUMBERS.get(game.assignment, (game.assignment,))
            if _asked(name, asked) or any(f"evidence.{key}" in asked for key in numbers):
                problems += [*(f"attack={name}: {problem}" for problem in found), *own]
            elif found or own:
                left_out[name] = "; ".join(each.removesuffix(CURE) for each in (*found, *own))
    if problems:
        raise ConfigError("\n".join(problems))
    return left_out


def without_room(assignments: Assignments, evidence: Evidence, asked: Collection[str]) -> Iterator[str]:
    """Numbers that were asked for and that there are too few held-out records for."""
    there = assignments.described()
    for key in NUMBERS["slots"]:
        wanted, used = getattr(evidence, key), getattr(there, key)
        if f"evidence.{key}" in asked and used is not None and used < wanted:
            yield (
                f"evidence.{key}={wanted} needs more held-out records than there are, which have room for "
                f"{there.slots} slots of {there.candidates} candidates; choose fewer of either, or hold out "
                "more records"
            )


def _of_the_data(splits: Splits) -> Iterator[str]:
    for part, records in (("holdout", splits.holdout), ("test", splits.test)):
        if not len(records):
            yield f"data `{splits.name}` has no {part} records to measure on; give the {part} split some"


def _of_shadows(
    attack: Attack, parts: Parts, splits: Splits, assignments: Assignments, budget: Budget
) -> Iterator[str]:
    """Shadow models are trained on all records but those that chance assigned, and on half of the probes."""
    known, probes = assignments.known(splits), assignments.probes
    half = splits.holdout.take(torch.arange(0))
    if probes is not None:
        half = probes.probes.take(torch.arange(len(probes.probes) // 2))
    grouped = budget.unit != "record" and known.group_ids is not None
    units = (len(known.group_ids.unique()) if grouped else len(known.train)) + len(half)  # type: ignore[union-attr]
    try:
        settings = getattr(parts.plain, "settings", None)
        if settings is not None:
            settings.rates.resolve(units)
        if getattr(attack, "private_shadows", False):
            shadowed = replace(known, **train_on(known, half))
            parts.mechanism.plan(shadowed, budget)
    except DptrainError as error:
        yield f"its shadow models, of {units} units each, cannot be trained: {error}"


def without(
    unfit: Collection[str], parts: Parts, played: Mapping[str, Game] | None
) -> tuple[Parts, Mapping[str, Game] | None]:
    """The parts without these attacks, and of the games those that are not theirs alone."""
    kept = {name: attack for name, attack in parts.attacks.items() if name not in unfit}
    gone = {parts.attacks[name].game for name in unfit} - {attack.game for attack in kept.values()}
    if played is not None:
        played = {name: game for name, game in played.items() if name not in gone}
    return replace(parts, attacks=kept), played
