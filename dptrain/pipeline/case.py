"""Cases to audit: a model that exists, what is known of its training, and which attacks can be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dptrain.assembly.components import Parts, assemble
from dptrain.config import Config, parse
from dptrain.config.rules import is_url, key_of
from dptrain.contracts import (
    PROBES,
    Access,
    Attack,
    ConfigError,
    DataError,
    Game,
    Guarantee,
    Splits,
    wants_shadows,
)
from dptrain.evaluation.assignment import Assignments
from dptrain.models import pretrained
from dptrain.models.pretrained.packaged import PACKAGE
from dptrain.models.pretrained.weights import DEFAULT
from dptrain.pipeline.selected import refuse_unselected, trial_of, with_its_epsilon
from dptrain.privacy.written import StatedGuarantee, from_json
from dptrain.redaction import redact
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.training.paid_answers import LEDGER

# What an audit may change of the configuration that a run was trained with.
CHOSEN = (
    "name",
    "attack",
    "tracking",
    "release",
    "fail_if",
    "output",
    "device",
    "performance",
    "task",
    "report",
    "sweep",
)
SERVING = ("serve", "serving")  # what whoever serves it may choose besides


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model to attack: how it was configured, what it weighs, and what is known of its training."""

    name: str
    config: Config
    weights: Path | None  # None: a service whose run is not one's own
    played: Mapping[str, Game] | None  # in its training; None: it is not one of ours
    guarantee: Guarantee | None
    url: str | None = None  # where it is served, if it is to be attacked there


def find(config: Config, overrides: tuple[str, ...], *, answers: bool = False) -> Case:
    """The case that `release` names: a run folder, a run id, or a file of weights.

    A run is audited as it was configured: raises ConfigError where anything else of it is overridden.
    `answers`: one that kept no weights will do, where it can answer without.
    """
    source = config.release.source
    assert source is not None
    if is_url(source):
        run = config.release.run
        if run is None:
            return Case(
                name=redact(source), config=config, weights=None, played=None, guarantee=None, url=source
            )
        own = replace(config, release=replace(config.release, source=run))
        return replace(find(own, overrides), url=source)
    path = Path(source)
    if path.is_file():
        return Case(name=path.name, config=config, weights=path, played=None, guarantee=None)
    own_folder = (path / runs.ORDER).is_file() or trial_of(path) is not None
    folder = path if own_folder else runs.named(source, Path(config.output))
    if folder is None:
        raise ConfigError(
            f"release={source} is no run folder, no name or id of a run under output={config.output} and no "
            "file of weights; give one of them"
        )
    name = folder.name
    if (trial := trial_of(folder)) is not None:
        folder, name = trial, f"{trial.parent.name}/{name}"  # when a trial was made is not told
    refuse_unselected(source, folder)
    _refuse_without_a_model(source, folder, answers=answers)
    _refuse_changes(source, overrides)
    trained = parse(runs.read(folder).config)
    refuse_without_beginning(source, trained.model)
    trained = replace(
        trained, game={**config.game, **trained.game}
    )  # those that came later can be played too
    report = read_json(folder / runs.REPORT)
    return Case(
        name=name,
        config=replace(
            trained,
            **{name: getattr(config, name) for name in CHOSEN},
            evidence=replace(
                trained.evidence,
                **{
                    name: getattr(config.evidence, name)
                    for name in ("confidence", "permutations")
                    if any(override.startswith(f"evidence.{name}=") for override in overrides)
                },
            ),
            control=replace(trained.control, enabled=config.control.enabled and trained.control.enabled),
        ),
        weights=folder / runs.WEIGHTS,
        played=assemble(trained).played,
        guarantee=with_its_epsilon(
            StatedGuarantee(
                stated=from_json(report.get("guarantee"), f"{folder / runs.REPORT}: guarantee"),
                tradeoff_points=_pairs(report, "tradeoff", folder),
                curve=tuple(
                    (int(step), epsilon) for step, epsilon in _pairs(report, "epsilon_by_step", folder)
                ),
            )
        ),
    )


def _pairs(report: Mapping[str, Any], name: str, folder: Path) -> list[tuple[float, float]]:
    """Pairs of numbers that a report holds; raises DataError where it does not."""
    found = report.get(name)
    if isinstance(found, list) and all(isinstance(each, list) and len(each) == 2 for each in found):
        pairs = [(first, second) for first, second in found]
        if all(isinstance(number, int | float | None) for pair in pairs for number in pair):
            return pairs
    raise DataError(
        f"{folder / runs.REPORT}: {name} are no pairs of numbers; restore the file, or train the run again"
    )


def of_the_run(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """What is left of these of a run, its interface aside."""
    return tuple(each for each in overrides if key_of(each).split(".")[0] not in SERVING)


def _refuse_without_a_model(source: str, folder: Path, *, answers: bool) -> None:
    """Raise ConfigError where a run folder holds no model that could be attacked again, and say why."""
    if runs.read(folder).config.get("task") == "audit":
        raise ConfigError(
            f"release={source}: {folder} is an audit itself and holds no model; give a training's folder"
        )
    runs.refuse_earlier(f"release={source}", runs.read(folder))
    runs.refuse_given(f"release={source}", runs.read(folder))
    if not (folder / runs.REPORT).is_file():
        raise ConfigError(
            f"release={source}: {folder} has no {runs.REPORT}; finish the run first (resume={folder})"
        )
    if not (folder / runs.WEIGHTS).is_file() and not (answers and (folder / LEDGER).is_file()):
        raise ConfigError(
            f"release={source}: {folder} has no {runs.WEIGHTS}: its mechanism releases no weights, or "
            "they were removed, and nothing else is kept that an attack could ask; train it again with the "
            "attacks among attack=[...], or take one whose mechanism releases weights"
        )


def refuse_without_beginning(source: str, model: Mapping[str, Any]) -> None:
    """Raise ConfigError where the file is gone whose weights a run's pre-trained network began with."""
    weights = model.get("weights")
    ours = str(model.get("_target_")).startswith(f"{pretrained.__name__}.")
    if ours and weights not in (None, DEFAULT, PACKAGE) and not Path(weights).expanduser().is_file():
        raise ConfigError(
            f"release={source}: the run's model cannot be built again without model.weights={weights}, which "
            f"is no file in {Path.cwd()}; put it there again, or start where the run was started"
        )


def _refuse_changes(source: str, overrides: tuple[str, ...]) -> None:
    """Raise ConfigError where anything of a run but the attack on it is chosen anew."""
    allowed = (*CHOSEN, "evidence.confidence", "evidence.permutations", "evidence.shadows", "control.enabled")
    others = [
        override
        for override in overrides
        if key_of(override) != "game"
        and not any(key_of(override) == name or key_of(override).startswith(f"{name}.") for name in allowed)
    ]
    if others:
        raise ConfigError(
            f"release={source} is audited as it was trained; leave out {' '.join(others)}, or train another "
            f"model with it. What can be chosen: {', '.join(allowed)}"
        )


def possible(parts: Parts, case: Case, *, asked: bool) -> dict[str, Attack]:
    """The attacks that can be made now; raises ConfigError where one that was asked for cannot be.

    Nobody kept the noisy gradients of a finished training, and slots, probes and canaries must have
    been put into it.
    """
    played = None if case.played is None else {game.assignment for game in case.played.values()}
    there = {"", *({PROBES} if played is None else played)}
    problems, kept = [], {}
    for name, attack in parts.attacks.items():
        missing = {each.value for each in attack.needs & {Access.TRANSCRIPT}}
        missing |= {parts.games[attack.game].assignment} - there
        if case.played is not None:
            missing |= {each.value for each in attack.needs - parts.mechanism.offers}
        elif wants_shadows(attack):  # nobody knows how it was trained
            if getattr(attack, "shadows_needed", True):
                missing.add("shadows")
            else:
                attack = replace(attack, shadows=0)  # type: ignore[type-var]
        if (case.url is not None or case.config.release.serve) and Access.WEIGHTS in attack.needs:
            missing.add("weights")  # which no service shows
        if missing:
            what = ", ".join(sorted(missing))
            problems.append(
                f"attack={name} needs {what}, which {case.name} does not have; leave it out, "
                "or train with it among the attacks"
            )
        else:
            kept[name] = attack
    if problems and (asked or not kept):
        raise ConfigError("\n".join(problems))
    return kept


def refuse_other_records(case: Case, assignments: Assignments, splits: Splits) -> None:
    if case.played is None:
        return
    assert case.weights is not None
    same = runs.same_records(case.weights.parent, assignments.fingerprint(splits))
    if case.played and same is None:
        raise ConfigError(
            f"release={case.name} does not tell which records and random assignment it was trained with, so "
            "no attack on single records could be judged; train it again with this version"
        )
    if same is False:
        raise ConfigError(
            f"release={case.name} was trained on other records, or another random assignment, than are found "
            "now: the data or the version of dptrain has changed; audit it with those it was trained with"
        )
