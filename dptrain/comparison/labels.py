"""What points are called: the fewest settings that tell them apart, the budget first."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dptrain.comparison.gather import Found
from dptrain.contracts.rounding import rounded_up_to

CLASS = re.compile(r"(\w+\.)+[A-Z]\w*")
BUDGET = ("privacy.epsilon", "privacy.noise_multiplier")


@dataclass(frozen=True, kw_only=True)
class Label:
    """The name of a point, `ε = 3, model = wide`, and the part of it that is not the budget."""

    text: str
    series: str


def label(runs: Sequence[Found]) -> list[Label]:
    """One label for each of these runs, which stand for points: no two alike.

    A setting is named if it tells runs apart that those named before it do not: what was overridden
    comes first, what follows from it is left out.
    """
    budgets = [budget(run) for run in runs]
    overridden = list(dict.fromkeys(key for run in runs for key in run.overrides))
    settings = sorted({key for run in runs for key in run.settings}, key=lambda key: (key.count("."), key))
    named: list[str] = []
    names = list(budgets)
    for key in ("recipe", *overridden, *settings):
        if key in BUDGET or key.startswith("privacy.delta"):
            continue
        finer = [f"{so_far}\n{_value(run, key)}" for so_far, run in zip(names, runs, strict=True)]
        if len(set(finer)) > len(set(names)):
            named.append(key)
            names = finer
    labels, used = [], {}  # type: list[Label], dict[str, int]
    for run, spent in zip(runs, budgets, strict=True):
        series = ", ".join(f"{_short(key, named)} = {_value(run, key)}" for key in named)
        text = f"{spent}, {series}" if series else spent
        used[text] = used.get(text, 0) + 1
        labels.append(Label(text=text if used[text] == 1 else f"{text} ({used[text]})", series=series))
    return labels


def budget(run: Found) -> str:
    """What was spent, as a name: the epsilon asked for, or else the epsilon proved."""
    proved = run.guarantee.epsilon
    if math.isinf(proved):
        return "not private"
    asked = run.settings.get("privacy.epsilon", "None")
    text = f"ε = {rounded_up_to(proved, 3)}" if asked == "None" else f"ε = {asked}"
    return f"{text} (void)" if run.guarantee.void else text


def _value(run: Found, key: str) -> str:
    """A setting; one that is a class as it was asked for, by its file's name, or else by the class's."""
    setting, asked = run.settings.get(key), run.overrides.get(key)
    if setting and CLASS.fullmatch(setting):
        return asked or setting.rpartition(".")[2]
    return setting or asked or "as in the recipe"


def _short(key: str, named: Sequence[str]) -> str:
    """The last part of a dotted key, where it says enough."""
    last = key.rpartition(".")[2]
    alike = [other for other in named if other.rpartition(".")[2] == last]
    return last if len(alike) == 1 and not last.startswith("_") else key
