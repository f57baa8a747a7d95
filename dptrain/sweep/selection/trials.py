"""A private selection: many trials in secret, of which one is released, by its score.

The number of trials is drawn once a sweep and the settings of each trial by itself, both from the
operating system. A trial is scored when its training ends, and whatever its attacks make of it; one whose
training fails has the worst score. `dptrain.privacy.selection` says what it costs.
"""

from __future__ import annotations

import json
import math
import random
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dptrain.config import parse
from dptrain.contracts import ConfigError, DptrainError, SelectionTerms
from dptrain.privacy import selection
from dptrain.runs import folder as runs
from dptrain.runs.folder import RELEASE, SELECTED
from dptrain.runs.keyed import keyed
from dptrain.storage import write_text
from dptrain.sweep import state as sweeps
from dptrain.sweep.score import kept_score, terms_of
from dptrain.sweep.selection import candidates, terms
from dptrain.training import checkpoint
from dptrain.training.answers import ANSWERS

RELEASED = (runs.WEIGHTS, "statement.json", "model_card.md")
UNPREDICTABLE = random.SystemRandom()


def begin(
    folder: Path, values: Mapping[str, Any], *, swept: Sequence[str] = (), sweeper: str = "basic"
) -> SelectionTerms:
    """The terms of a selection in this folder, its number of trials drawn unless it was before.

    `swept` are overrides with several values, `sweeper` what Hydra calls the one in charge. Raises
    ConfigError, drawing nothing, where a sweep is no private selection, or not the one begun here.
    """
    values = {**values, "device": "auto"}  # the trials may run on another machine than this
    config = parse(values)
    terms.refuse(swept, sweeper)
    noted = sweeps.read_state(folder).selection
    if noted is None:
        if config.sweep.resume is not None:
            raise ConfigError(
                f"sweep.resume={config.sweep.resume}: no number of trials was drawn there; a number drawn "
                "after looking at trials protects nothing. Start a new sweep"
            )
        fixed = terms.agree(config, values)
        with sweeps.changing(folder) as state:
            fixed["records"] = keyed(folder, fixed["records"])
            if state.selection is None:
                trials = draw_count(terms.count_of(config))
                state.selection = sweeps.Selection(**fixed, trials=trials)
            noted = state.selection
    terms.refuse_changes(noted.asked, values, f"sweep.resume={folder}")
    return terms_of(folder)


def trials(folder: str) -> str:
    """The numbers of a sweep's trials as Hydra sweeps over them: `1,2,3`."""
    noted = sweeps.read_state(Path(folder)).selection
    if noted is None:
        raise ConfigError(
            f"{folder}: no number of trials was drawn; start it with +sweep=private_selection and -m"
        )
    return ",".join(map(str, range(1, noted.trials + 1)))


def draw_count(count: selection.RunCount, uniform: Callable[[], float] = UNPREDICTABLE.random) -> int:
    """A number of trials, from the operating system's randomness unless a test brings its own."""
    return count.quantile(uniform())


def as_drawn(
    order: runs.Order, folder: Path, choose: Callable[[Sequence[Any]], Any] = secrets.choice
) -> runs.Order:
    """A trial's order with its settings drawn, and the single run's epsilon where it was searched for."""
    settings = candidates.draw_settings(parse(order.config), choose)
    single = sweeps.read_state(folder).agreed.single_epsilon
    if single is not None:
        settings["privacy.epsilon"] = single
    return replace(
        order,
        config=candidates.with_settings(order.config, settings),
        drawn=tuple(f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in settings.items()),
    )


def barred(folder: Path | None, order: runs.Order, trial: int) -> str | None:
    """Why a trial is not to be run; None where it is.

    Raises ConfigError where the selection in this folder did not ask for it.
    """
    noted = None if folder is None else sweeps.read_state(folder).selection
    if folder is None or noted is None or trial > noted.trials:
        raise ConfigError(
            f"sweep.trial={trial}: trials are numbered by +sweep=private_selection; leave it out"
        )
    terms.refuse_changes(noted.asked, order.config, f"sweep.trial={trial}")
    found = find(folder, order)
    if (why := over(folder, trial)) is not None:
        return why
    if found is not None and (found / runs.REPORT).exists():
        return None  # and what was found of it, a broken guarantee too, stays
    with sweeps.changing(folder) as state:
        state.failed = {job: failure for job, failure in state.failed.items() if _number(job) != trial}
    return None


def over(folder: Path, trial: int) -> str | None:
    """Why nothing more is to come of a trial, however it is asked for; None where something may."""
    if trial in failures(folder):
        return "its training failed before; that is its result, and it is not tried again"
    found = _trials(folder).get(trial)
    if (folder / SELECTED).exists() and (found is None or kept_score(found[0]) is None):
        return "the selection was made without it, and is over"
    return None


# ---------------------------------------------------------------------- the end


def conclude(folder: Path) -> dict[str, Any] | None:
    """Select the best trial and put aside what may be released of it; None where there was none to select.

    Scores are those that were kept when each training ended, so that neither what its attacks came to nor
    a sweep that goes on changes them. A training that failed has the worst score and is not tried again:
    how it ends depends on the records, so failing is one of its outcomes, and trying again would be a
    run that was not drawn. What failed before it began is missing, until `sweep.resume` tries it
    again. Of trials that score alike the first is taken, which favours none, for all are drawn
    alike. Raises DptrainError where trials are missing.
    """
    noted = sweeps.read_state(folder).agreed
    agreed = noted.terms
    there = _trials(folder)
    scores: dict[int, float] = {}
    missing = []
    failed = failures(folder)
    for trial in range(1, noted.trials + 1):
        kept = kept_score(there[trial][0]) if trial in there else None
        if kept is not None:
            scores[trial] = kept
        elif trial in failed:
            # The theorem needs this outcome to be as private as any other. It is where the training fails by
            # its noisy weights, which diverged, or by the machine, and not by what a single record holds.
            scores[trial] = -math.inf
        else:
            missing.append(trial)
    if missing:
        raise DptrainError(
            f"{len(missing)} of the trials are missing, so none is selected; go on with the same command and "
            f"sweep.resume={folder}"
        )
    best = max(scores, key=scores.__getitem__, default=None)
    if best is None or scores[best] == -math.inf:
        write_text(json.dumps({"trial": None, **agreed}, indent=1), folder / SELECTED)
        return None
    path, order = there[best]
    chosen = {
        "trial": path.name,
        "settings": list(order.drawn),
        "scored": -scores[best] if agreed["score"].endswith(".loss") else scores[best],
        "release": RELEASE,
        **agreed,
    }
    (folder / RELEASE).mkdir(exist_ok=True)
    for name in filter(lambda name: (path / name).exists(), RELEASED):
        shutil.copyfile(path / name, folder / RELEASE / name)
    write_text(json.dumps(chosen, indent=1), folder / SELECTED)
    return chosen


def find(folder: Path, order: runs.Order) -> Path | None:
    """The folder of the trial of this number, finished or not, however it is asked for; None: never begun."""
    found = _trials(folder).get(order.config["sweep"]["trial"])
    return None if found is None else found[0]


def failures(folder: Path) -> set[int]:
    """The numbers of the trials whose training had begun, and had not ended, when they failed.

    So has one whose folder is gone: who takes it away may have looked at what it came to.
    """
    there = {trial: path for trial, (path, _) in _trials(folder).items()}
    noted = sweeps.read_state(folder)
    failed = {_number(job) for job in noted.failed}
    gone = {each.trial for each in noted.trainings.values() if each is not None and each.trial is not None}
    return {
        trial for trial in failed & there.keys() if _began(there[trial]) and kept_score(there[trial]) is None
    } | (gone - there.keys())


def _began(path: Path) -> bool:
    """Whether a step was paid for; before that, no training record has had a say in anything."""
    return any((path / each).exists() for each in (runs.WEIGHTS, ANSWERS)) or checkpoint.paid(path) > 0


def _number(job: str) -> int:
    """The trial that a job's words ask for; 0 for none."""
    numbers = [word.partition("=")[2] for word in job.split() if word.startswith("sweep.trial=")]
    return int(numbers[0]) if numbers else 0


def _trials(folder: Path) -> dict[int, tuple[Path, runs.Order]]:
    return {order.config["sweep"]["trial"]: (path, order) for path, order in sweeps.jobs(folder)}
