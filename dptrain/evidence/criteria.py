"""`fail_if`: conditions that end a run with an error, so that a team's CI can attack its own model."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from dptrain.contracts import ConfigError, Leakage, LimitExceeded, Report, Task, Utility
from dptrain.contracts.rounding import rounded_up_to
from dptrain.evidence.verdict import NOT_SHOWN

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
FIELDS = ("value", "low", "high", "floor", "control", "bound")
STATED = ("epsilon", "delta", "membership.bound")
OF_CLASSES = (
    "accuracy", "balanced_accuracy", "auroc", "loss", "calibration_error", "worst_class", "worst_subgroup",
)  # fmt: skip
OPEN = "confidences"
EXAMPLE = '"leakage.membership.low > bound" or "accuracy < 0.8"'

_SHAPE = re.compile(r"^\s*([\w.]+)\s*(>=|<=|>|<)\s*([\w.+-]+)\s*$")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What must not be: a quantity of the report on the wrong side of a number or of another quantity.

    `leakage.NAME[.METRIC][.FIELD]` stands for every leakage line whose attack is called NAME, or
    begins with it; the field is `value` where none is named. `membership.bound` is the most true
    positives of any membership test at 1 % false positives; `worst_class` and `worst_subgroup` are what
    the model reaches on the one that it does worst on. All else is what the task measures, by its name.
    """

    text: str
    quantity: str
    compare: str
    limit: str

    @classmethod
    def parse(
        cls,
        text: str,
        attacks: Collection[str],
        *,
        measured: Collection[str] = OF_CLASSES,
        key: str = "fail_if",
    ) -> Condition:
        """Read a condition; raises ConfigError where it cannot be read or names nothing of this run.

        `measured` is what is measured of the model; `key` is what errors name: where the condition was
        written.

        >>> Condition.parse("leakage.membership.low > bound", ["membership_loss"]).limit
        'bound'
        """
        found = _SHAPE.match(text)
        if found is None:
            raise ConfigError(f"{key}: {text!r} cannot be read; write it like {EXAMPLE}")
        condition = cls(text=text.strip(), quantity=found[1], compare=found[2], limit=found[3])
        head, _, rest = condition.quantity.partition(".")
        limits = FIELDS if head == "leakage" else ()
        if not (_is_number(condition.limit) or condition.limit in limits):
            raise ConfigError(
                f"{key}: {condition.limit!r} in {text!r} is no number"
                + (f" and none of {', '.join(FIELDS)}" if limits else "")
                + f"; write it like {EXAMPLE}"
            )
        if head == "leakage":
            attack = rest.partition(".")[0]
            if not any(named(name, attack) for name in attacks):
                raise ConfigError(
                    f"{key}: {text!r} is about the attack {attack!r}, which this run does not make; its "
                    f"attacks are {', '.join(attacks) or 'none'}"
                )
        elif condition.quantity not in (*measured, *STATED):
            raise ConfigError(
                f"{key}: {condition.quantity!r} in {text!r} is not measured here; use "
                f"leakage.ATTACK.METRIC.FIELD or one of {', '.join((*measured, *STATED))}"
            )
        return condition

    def met(self, report: Report) -> Iterator[str]:
        """Where the report meets the condition, or cannot be compared with it, one sentence each."""
        compared = 0
        for name, why in self._unknown(report):
            compared += 1
            yield f"{name} is not known: {why} (fail_if: {self.text})"
        for name, value, limit in self._compared(report):
            if value is None or limit is None or math.isnan(value):
                continue
            compared += 1
            if OPERATORS[self.compare](value, limit):
                said = (
                    rounded_up_to(value, 4)
                    if name == "epsilon" or name.endswith(".bound")
                    else f"{value:.4g}"
                )
                known = f"{limit:.4g}" if _is_number(self.limit) else f"{self.limit}={limit:.4g}"
                yield f"{name}={said} {self.compare} {known} (fail_if: {self.text})"
        if not compared:
            there = ", ".join(sorted({_full_name(line) for line in report.leakage})) or "none"
            yield (
                f"fail_if: {self.text} could not be compared with anything, so it guards nothing; this run's "
                f"leakage lines are {there}"
            )

    def _unknown(self, report: Report) -> Iterator[tuple[str, str]]:
        """What the condition is about and nobody measured, and why: not run, or not shown the training."""
        if not self.quantity.startswith("leakage."):
            return
        attack, metric, _ = self.parts()
        for each in report.not_run:
            if named(each.attack, attack) and (
                each.interface in _given_away(report) or metric.endswith(f".{each.interface}")
            ):
                yield f"leakage.{each.attack}", f"the attack was not run: {each.reason}"
        for line in report.leakage:
            if self._means(line, report) and line.verdict.startswith(NOT_SHOWN):
                yield f"leakage.{_full_name(line)}", line.verdict

    def _means(self, line: Leakage, report: Report) -> bool:
        """Whether the condition is about this line."""
        attack, metric, _ = self.parts()
        asked = metric == f"{line.metric}.{line.interface}"
        meant = asked or (metric in ("", line.metric) and line.interface in _given_away(report))
        return named(line.attack, attack) and meant

    def _compared(self, report: Report) -> Iterator[tuple[str, float | None, float | None]]:
        if not self.quantity.startswith("leakage."):
            yield self.quantity, _plain(report, self.quantity), float(self.limit)
            return
        _, _, field = self.parts()
        for line in report.leakage:
            if self._means(line, report) and not line.verdict.startswith(NOT_SHOWN):
                limit = float(self.limit) if _is_number(self.limit) else _field(line, self.limit)
                yield f"leakage.{_full_name(line)}.{field}", _field(line, field), limit

    def parts(self) -> tuple[str, str, str]:
        """Attack, metric (may be empty) and field of a quantity that begins with `leakage.`."""
        attack, *rest = self.quantity.split(".")[1:]
        field = rest.pop() if rest and rest[-1] in FIELDS else "value"
        return attack, ".".join(rest), field


def parse(
    texts: Sequence[str],
    attacks: Collection[str],
    *,
    measured: Collection[str] = OF_CLASSES,
    key: str = "fail_if",
) -> tuple[Condition, ...]:
    """All conditions; raises one ConfigError for all that are wrong."""
    conditions, problems = [], []
    for text in texts:
        try:
            conditions.append(Condition.parse(text, attacks, measured=measured, key=key))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return tuple(conditions)


def measured_by(task: Task) -> tuple[str, ...]:
    """What a task measures, by the names that conditions call it, as it does of records that are made up."""
    rng = torch.Generator().manual_seed(0)
    labels, outputs = task.made_up(64, rng), torch.randn(64, *task.outputs, generator=rng)
    found = _measured(task.utility([(task.predict(outputs), labels)], confidence=0.95))
    # Whether there are subgroups is the data's to say.
    return tuple(name for name, value in found.items() if name == "worst_subgroup" or not math.isnan(value))


def check(conditions: Sequence[Condition], report: Report) -> None:
    """Raise LimitExceeded, naming every number that is beyond its limit."""
    met = [sentence for condition in conditions for sentence in condition.met(report)]
    if met:
        raise LimitExceeded(
            "\n".join(met)
            + f"\nthe run is complete ({report.folder}); lower privacy.epsilon, or move the limit"
        )


def _given_away(report: Report) -> set[str]:
    """The interfaces that a condition is about where it names none."""
    return {"", (report.guarantee.interface or OPEN).replace("weights", OPEN)}


def _full_name(line: Leakage) -> str:
    """Attack, metric and, where it is not the open one, interface."""
    parts = [line.attack, line.metric, *([line.interface] if line.interface not in ("", OPEN) else [])]
    return ".".join(parts)


def compared(conditions: Sequence[Condition], attacks: Collection[str]) -> list[str]:
    """The attacks whose lines are compared with something, without which it cannot be."""
    wanted = [each.parts()[0] for each in conditions if each.quantity.startswith("leakage.")]
    return [name for name in attacks if any(named(name, each) for each in wanted)]


def named(name: str, wanted: str) -> bool:
    """Whether an attack called `name` is meant by `wanted`: the whole name, or words that it begins with."""
    return name == wanted or name.startswith(f"{wanted}_")


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _plain(report: Report, name: str) -> float:
    if name in ("epsilon", "delta"):
        return float(getattr(report.guarantee, name))
    if name == "membership.bound":
        return float(report.guarantee.tpr_at_fpr["0.01"])
    return _measured(report.utility)[name]


def _measured(utility: Utility) -> dict[str, float]:
    """What is measured of a model, by the names that conditions call it; NaN: not of this one."""
    worst = max if utility.scores_are_errors else min
    return {
        utility.metric: utility.accuracy.value,
        "auroc": utility.auroc.value,
        "loss": utility.loss,
        **{name: each.value for name, each in utility.more.items()},
        "calibration_error": math.nan if utility.calibration is None else utility.calibration.error.value,
        "worst_class": min((each.value for each in utility.by_class.values()), default=math.nan),
        "worst_subgroup": worst((each.value.value for each in utility.by_subgroup), default=math.nan),
    }


def _field(line: Leakage, field: str) -> float | None:
    if field in ("value", "low", "high"):
        return float(getattr(line.value, field))
    if field == "control":
        return None if line.control is None else line.control.value
    value = getattr(line, field)
    return None if value is None else float(value)
