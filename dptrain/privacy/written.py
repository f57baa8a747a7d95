"""A privacy statement, and a plan, as JSON and back, and the guarantee that such a statement gives."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from dptrain.contracts import DataError, Plan, Statement
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.banded import BandedPlan
from dptrain.privacy.gaussian import gaussian_mu
from dptrain.privacy.guarantee import ByTradeoff
from dptrain.privacy.moments import MomentsPlan
from dptrain.privacy.perturbed_minimum import MinimumPlan
from dptrain.privacy.perturbed_objective import ObjectivePlan
from dptrain.privacy.preconditioned import PreconditionedPlan
from dptrain.privacy.votes import QueriesPlan, VotesPlan

_PLANS = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (
        BandedPlan,
        MinimumPlan,
        MomentsPlan,
        ObjectivePlan,
        PreconditionedPlan,
        QueriesPlan,
        VotesPlan,
    )
}
VERSION = 2  # 1 had `mu`, and `decided_by_coins` for the assignment


def to_json(value: Any) -> Any:
    """A statement, or a part of one, as plain JSON values; a number that is not finite becomes None."""
    if is_dataclass(value):
        content = {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
        if isinstance(value, Statement):
            if not value.plan:
                del content["plan"]
            return {"version": VERSION, "void": value.void, **content}
        return content
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_json(values: Any, where: str = "guarantee") -> Statement:
    """The statement that `to_json` wrote, of an older version too; raises DataError naming what is wrong.

    Fields that an older version did not know take their defaults.
    """
    if not isinstance(values, Mapping):
        raise DataError(f"{where} is no privacy statement but {type(values).__name__}; train the run again")
    version = values.get("version", 1)
    if not isinstance(version, int) or version > VERSION:
        raise DataError(f"{where}.version={version} is newer than this dptrain knows ({VERSION}); update it")
    known = dict(values)
    if version < VERSION:
        known = _updated(known)
    if known.get("epsilon", 0) is None:
        known["epsilon"] = math.inf
    sweep = known.get("sweep")
    if isinstance(sweep, Mapping) and sweep.get("epsilon_together", 0) is None:
        known["sweep"] = {**sweep, "epsilon_together": math.inf}
    statement: Statement = part(Statement, known, where)
    return statement


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The constants of a plan; of any but DP-SGD's with its `kind`, the full name of its class."""
    kind, values = type(plan), asdict(plan)  # type: ignore[call-overload]
    named = {} if kind is DPSGDPlan else {"kind": f"{kind.__module__}.{kind.__qualname__}"}
    return {**named, **values}


def plan_from_json(values: Mapping[str, Any]) -> Plan | None:
    """The plan that `plan_to_json` wrote; None where it is of a kind that nothing here has imported.

    A file is not to say what is imported, nor to call anything but a dataclass with a plan's methods.
    """
    constants = dict(values)
    named = constants.pop("kind", None)
    if named is None:
        return _made(DPSGDPlan, constants)
    module, _, name = str(named).rpartition(".")
    kind = _PLANS.get(named) or getattr(sys.modules.get(module), name, None)
    if not (
        isinstance(kind, type) and is_dataclass(kind) and hasattr(kind, "loss") and hasattr(kind, "describe")
    ):
        return None
    return _made(kind, constants)


# What a constant may be; one that is missing would be taken for what costs least.
_SIZES = {"units", "sample_rate", "steps", "expected_batch_size", "max_grad_norm", "noise_multiplier"}
_WORDS = {"adjacency": ("add_remove", "replace_one"), "sampling": ("poisson", "shuffle")}


def _made(kind: Any, constants: Mapping[str, Any]) -> Plan:
    """A plan of these constants; raises DataError where they are not what such a plan is made of."""
    names = {each.name for each in fields(kind)}
    for name, words in _WORDS.items():
        if name in names and constants.get(name) not in words:
            raise _no_plan(name)
    for name in _SIZES & constants.keys():
        value = constants[name]
        if not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
            raise _no_plan(name)
    try:
        plan: Plan = kind(**constants)
    except (TypeError, ValueError, AssertionError) as error:
        raise _no_plan(type(error).__name__) from error
    return plan


def _no_plan(name: str) -> DataError:
    return DataError(
        f"plan.{name} is missing, or is not what this version writes: damaged, or of another version; "
        "train the run again"
    )


def _updated(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of version 1 under today's names."""
    if values.get("void") and values.get("void_reason") is None:
        values["void_reason"] = "it is not known why"
    recorded = values.pop("decided_by_coins", None)
    if isinstance(recorded, Mapping):
        values["assignment"] = {**recorded, "slots": recorded.get("planted_records")}
    return values


def part(kind: Any, values: Any, where: str) -> Any:
    """A dataclass of a statement from plain values; fields that are not known are left out.

    Raises DataError, naming the field, where one is missing or has another type.
    """
    if not isinstance(values, Mapping):
        raise _wrong(where, values, "an object")
    hints = _hints(kind)
    made: dict[str, Any] = {}
    for each in fields(kind):
        if each.name in values:
            made[each.name] = _read(hints[each.name], values[each.name], f"{where}.{each.name}")
        elif each.default is MISSING and each.default_factory is MISSING:
            raise DataError(
                f"{where}.{each.name} is missing: another version of dptrain wrote it, or it is damaged; "
                "train the run again"
            )
    return kind(**made)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(hint: Any, value: Any, where: str) -> Any:
    """A value of this type; numbers may be whole where a fraction is meant."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        (hint,) = (each for each in inner if each is not type(None))
        return _read(hint, value, where)
    if is_dataclass(hint):
        return part(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(where, value, "a list")
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) != len(value):
            raise _wrong(where, value, f"a list of {len(kinds)}")
        return tuple(
            _read(kind, each, f"{where}[{at}]")
            for at, (kind, each) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is not None:  # a mapping by name
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "an object")
        return {
            str(key): item if inner[1] is Any else _read(inner[1], item, f"{where}.{key}")
            for key, item in value.items()
        }
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _wrong(where, value, {str: "a text", bool: "true or false"}.get(hint, "a number"))
    return value


def _wrong(where: str, value: Any, wanted: str) -> DataError:
    shown = repr(value)
    return DataError(
        f"{where}={shown if len(shown) < 60 else shown[:57] + '...'} is not {wanted}: another version of "
        "dptrain wrote it, or it is damaged; train the run again"
    )


@dataclass(frozen=True, kw_only=True)
class StatedGuarantee(ByTradeoff):
    """What a finished run proved, read back from its report.

    `tradeoff` is (false-positive rate, most true positives), increasing; between its points the
    curve, being concave, lies below the lines through its neighbours, and those are what is used: the
    bounds are never lower than the ones proved.
    """

    stated: Statement
    tradeoff_points: Sequence[tuple[float, float]]
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def delta(self) -> float:
        return self.stated.delta

    @property
    def mu(self) -> float:
        """A guess for planning, from epsilon and delta; infinite where nothing is proved."""
        return math.inf if math.isinf(self.stated.epsilon) else gaussian_mu(self.stated.epsilon, self.delta)

    def epsilon(self, delta: float | None = None) -> float:
        """The stated epsilon; raises ValueError for any delta but the stated one."""
        if delta is not None and delta != self.delta:
            raise ValueError(f"delta={delta} was not stated; the run states epsilon at delta={self.delta}")
        return self.stated.epsilon

    def membership_tpr(self, fpr: float) -> float:
        """The most true positives at this rate, rounded up to the lines that enclose a concave curve."""
        rates, most = (np.asarray(column, dtype=float) for column in zip(*self.tradeoff_points, strict=True))
        at = int(np.searchsorted(rates, fpr))  # the first point at or above
        if at == len(rates):
            return 1.0
        if rates[at] == fpr or at == 0:
            return float(most[at])
        ceiling = float(most[at])
        if at >= 2:  # the line through the two points below
            slope = (most[at - 1] - most[at - 2]) / (rates[at - 1] - rates[at - 2])
            ceiling = min(ceiling, float(most[at - 1] + slope * (fpr - rates[at - 1])))
        return min(1.0, ceiling)

    def statement(self) -> Statement:
        return self.stated


def plan_of(statement: Statement) -> DPSGDPlan | None:
    """DP-SGD's plan, as a statement describes it; None where it does not, or not in full."""
    stated = {
        key: getattr(statement, key)
        for key in (
            "units", "sample_rate", "steps", "expected_batch_size", "max_grad_norm", "noise_multiplier",
            "clipping", "adjacency",
        )
    }  # fmt: skip
    sampling = statement.sampling_run
    if sampling is None or None in stated.values():
        return None
    return DPSGDPlan(**stated, sampling=sampling)
