"""What a private selection released: the one trial of it that may be served, verified or audited."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from dptrain.contracts import ConfigError
from dptrain.privacy.written import StatedGuarantee
from dptrain.report import selection as said
from dptrain.runs import folder as runs
from dptrain.runs.folder import RELEASE, SELECTED


def trial_of(folder: Path) -> Path | None:
    """The trial whose release this folder, `selected/` of a sweep, holds; None where it is no such folder.

    Raises ConfigError where the trial is gone.
    """
    sweep = folder.resolve().parent
    if folder.resolve().name != RELEASE or not (sweep / SELECTED).is_file():
        return None
    name = _selected(folder, sweep).get("trial")
    if not isinstance(name, str) or not (sweep / name / runs.ORDER).is_file():
        raise ConfigError(
            f"release={folder}: {sweep / SELECTED} names trial={name}, which is no run folder in {sweep}; "
            "restore it"
        )
    return sweep / name


def is_trial(folder: Path) -> bool:
    """Whether this is the folder of a private selection's trial."""
    return (folder / runs.ORDER).is_file() and runs.trial_of(runs.read(folder)) is not None


def refuse_unselected(source: str, folder: Path) -> None:
    """Raise ConfigError where this is a trial of a private selection that did not select it."""
    if not is_trial(folder):
        return
    sweep = folder.resolve().parent
    if not (sweep / SELECTED).is_file():
        raise ConfigError(
            f"release={source}: {folder} is a trial of a private selection, and {sweep} has no {SELECTED} "
            f"that says which was selected; finish the sweep (the same command and sweep.resume={sweep}), "
            f"and give its folder {RELEASE}"
        )
    name = _selected(folder, sweep).get("trial")
    if name is None:
        raise ConfigError(
            f"release={source}: {folder} is a trial of a private selection that selected none of them; its "
            "guarantee allows nothing of it to be shown. Give another release"
        )
    if name != folder.resolve().name:
        raise ConfigError(
            f"release={source}: {folder} is a trial that its private selection did not select, and must not "
            f"leave the team; give release={sweep / RELEASE}"
        )


def with_its_epsilon(guarantee: StatedGuarantee) -> StatedGuarantee:
    """The guarantee of a selected trial: the selection's, in place of its own; others as they are.

    Between the rates of a trial's trade-off curve what the selection's epsilon and delta allow is concave,
    too.
    """
    stated = said.released(guarantee.stated)
    if stated is guarantee.stated:
        return guarantee
    factor, delta = math.exp(stated.epsilon), stated.delta
    points = [
        (rate, min(1.0, delta + factor * rate, 1.0 - max(0.0, 1.0 - delta - rate) / factor))
        for rate, _ in guarantee.tradeoff_points
    ]
    return replace(guarantee, stated=stated, tradeoff_points=points, curve=())


def _selected(folder: Path, sweep: Path) -> dict[str, Any]:
    """What a sweep wrote of its selection."""
    try:
        found = json.loads((sweep / SELECTED).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"release={folder}: {sweep / SELECTED} cannot be read ({type(error).__name__}); restore it"
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(f"release={folder}: {sweep / SELECTED} is no JSON object; restore it")
    return found
