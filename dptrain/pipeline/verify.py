"""`task=verify`: whether a release is the one that its statement speaks of, and the statement holds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dptrain.config import Config, parse
from dptrain.contracts import Budget, ConfigError, DataError, Hashes, Plan, Randomness
from dptrain.contracts.rounding import rounded_up, rounded_up_to
from dptrain.privacy.guarantee import DPGuarantee, library_versions
from dptrain.privacy.plan import check_delta
from dptrain.privacy.written import from_json, part
from dptrain.report import words
from dptrain.report.document import read_json
from dptrain.report.statement import SCHEMA, VERSION
from dptrain.runs import binding
from dptrain.runs import folder as runs

STATEMENT, CARD = "statement.json", "model_card.md"
CLOSE = 1e-6  # relative: accountants of other versions round otherwise
CONSTANTS = (
    "noise_multiplier", "max_grad_norm", "sample_rate", "steps", "expected_batch_size", "clipping",
    "sampling_run",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at; `holds` is None where there was nothing to hold it against."""

    name: str
    holds: bool | None
    said: str


def run(config: Config) -> tuple[Path, list[Check]]:
    """Check the release that `release` names: the folder, and every check; raises ConfigError on none."""
    folder = find(config)
    stated = read(folder / STATEMENT)
    checks: list[Callable[[Path, Mapping[str, Any]], Iterator[Check]]] = [
        _weights, _code, _configuration, _epsilon, _delta, _words, _report, _versions,
    ]  # fmt: skip
    return folder, [found for check in checks for found in check(folder, stated)]


def find(config: Config) -> Path:
    """The folder of a release: a path, `latest`, or the name or id of a run."""
    source = str(config.release.source)
    path = Path(source)
    folder = path if path.is_dir() else runs.named(source, Path(config.output))
    if folder is None:
        raise ConfigError(
            f"release={source} is no folder and no name or id of a run under output={config.output}; give "
            f"the folder that holds {STATEMENT} and {runs.WEIGHTS}"
        )
    for needed in (STATEMENT, runs.WEIGHTS):
        if not (folder / needed).is_file():
            raise ConfigError(
                f"release={source}: {folder} has no {needed}; give the folder of a finished run, or of what "
                "was given away of it"
            )
    return folder


def read(path: Path) -> dict[str, Any]:
    """A statement as it was published; raises ConfigError where it is none, or one without hashes."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); give a statement that dptrain wrote") from error
    if not isinstance(document, Mapping) or document.get("$schema") != SCHEMA:
        schema = document.get("$schema") if isinstance(document, Mapping) else None
        raise ConfigError(
            f"{path}: $schema={schema} is not {SCHEMA}: statements before version {VERSION} hold no hashes; "
            "train the model again with this version"
        )
    found: dict[str, Any] = dict(document)
    try:
        part(Hashes, found.get("hashes"), "hashes")
        if found["status"] not in ("holds", "void", "none"):
            raise DataError(f"status={found['status']} is none of holds, void, none")
        mechanism = found["mechanism"]
        if found["status"] == "holds":
            proved = found["proved"]
            part(Randomness, found["randomness"], "randomness")
            numbers = [proved["epsilon"], proved["delta"], *(mechanism[name] for name in CONSTANTS[:5])]
            if not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers):
                raise DataError("a constant of the mechanism or of what is proved is no number")
    except (DataError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no whole statement ({error}); give one that dptrain wrote") from error
    return found


# ---------------------------------------------------------------------- what it is bound to


def _weights(folder: Path, stated: Mapping[str, Any]) -> Iterator[Check]:
    wanted = stated["hashes"]["weights"]
    try:
        state = torch.load(folder / runs.WEIGHTS, weights_only=True, map_location="cpu")
        found = binding.weights_digest(state)
    except Exception as error:
        yield Check(name="weights", holds=False, said=f"cannot be read ({type(error).__name__})")
        return
    yield _same("weights", found == wanted, f"{len(state)} tensors, SHA-256 {found[:12]}", "are others")


def _code(_: Path, stated: Mapping[str, Any]) -> Iterator[Check]:
    told = stated["hashes"]
    if binding.code_digest(told["model"], told["modules"]) != told["code"]:
        yield Check(
            name="code", holds=False, said="the modules' digests are not those that `code` is made of"
        )
        return
    if not told["modules"]:
        yield Check(name="code", holds=None, said=f"{told['model']} is of an installed package")
    for name, found in binding.present_code(told["modules"]).items():
        if found is None:
            said = "cannot be found; run from the folder that holds it, or give PYTHONPATH"
            yield Check(name=f"code {name}", holds=False, said=said)
        else:
            yield _same(f"code {name}", found == told["modules"][name], f"SHA-256 {found[:12]}", "is changed")


def _configuration(folder: Path, stated: Mapping[str, Any]) -> Iterator[Check]:
    told = stated["hashes"]
    if binding.config_digest(told["sections"]) != told["config"]:
        said = "the sections' digests are not those that `config` is made of"
        yield Check(name="configuration", holds=False, said=said)
    elif not (folder / runs.ORDER).is_file():
        yield Check(name="configuration", holds=None, said=f"{runs.ORDER} was not given away")
    else:
        try:
            order = runs.read(folder)
            if (why := runs.earlier(order)) is not None:
                yield Check(name="configuration", holds=None, said=why)
                return
            asked = {**order.config, "device": "auto"}
            now = binding.config_digests(parse(asked, complete=False))
        except (ConfigError, KeyError, ValueError, TypeError) as error:
            first = (str(error).splitlines() or [""])[0]
            yield Check(name="configuration", holds=False, said=f"{runs.ORDER} cannot be read: {first}")
            return
        other = sorted(
            name for name in {*now, *told["sections"]} if now.get(name) != told["sections"].get(name)
        )
        said = f"SHA-256 {told['config'][:12]}, {runs.ORDER}"
        yield _same("configuration", not other, said, f"{', '.join(other)} is changed in {runs.ORDER}")


# ---------------------------------------------------------------------- what it promises


def guarantee_of(stated: Mapping[str, Any]) -> DPGuarantee:
    """What the constants in a statement prove, computed anew."""
    mechanism = stated["mechanism"]
    batch, rate = mechanism["expected_batch_size"], mechanism["sample_rate"]
    plan = Plan(
        units=stated["units"] or math.ceil(batch / rate),
        sample_rate=rate,
        steps=mechanism["steps"],
        expected_batch_size=batch,
        max_grad_norm=mechanism["max_grad_norm"],
        noise_multiplier=mechanism["noise_multiplier"],
        clipping=mechanism["clipping"],
        sampling=mechanism["sampling_run"],
        adjacency=stated["adjacency"],
    )
    budget = Budget(
        epsilon=None,
        delta=stated["proved"]["delta"],
        noise_multiplier=plan.noise_multiplier,
        unit=stated["unit"],
        adjacency=plan.adjacency,
        units_public=stated["units_public"],
    )
    return DPGuarantee(
        plan=plan, budget=budget, randomness=part(Randomness, stated["randomness"], "randomness")
    )


def _epsilon(_: Path, stated: Mapping[str, Any]) -> Iterator[Check]:
    if stated["status"] != "holds":
        yield Check(name="epsilon", holds=None, said=f"nothing is proved (status: {stated['status']})")
        return
    if stated["search"]["selection"] is not None:
        said = "of a private selection, whose candidates are with the team: not computed anew"
        yield Check(name="epsilon", holds=None, said=said)
        return
    proved = stated["proved"]
    try:
        again = guarantee_of(stated)
        epsilon = again.epsilon()
        rates = [
            (each["fpr"], each["tpr"], again.membership_tpr(each["fpr"])) for each in proved["tpr_at_fpr"]
        ]
    except (ConfigError, KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        yield Check(name="epsilon", holds=False, said=f"cannot be computed anew: {error}")
        return
    constants = ", ".join(
        f"{name} {stated['mechanism'][name]:.6g}" for name in CONSTANTS[:1] + CONSTANTS[2:4]
    )
    said = f"{rounded_up_to(epsilon, 6)}, of {constants}"
    yield _same(
        "epsilon",
        _close(proved["epsilon"], epsilon),
        said,
        f"stated {proved['epsilon']:.6g}; computed {said}",
    )
    for fpr, told, found in rates:
        name = f"true positives at {words.percent(fpr)}"
        said = words.percent_at_most(found)
        yield _same(name, _close(told, found), said, f"stated {told:.6g}; computed {said}")


def _close(told: float, found: float) -> bool:
    return math.isclose(told, found, rel_tol=CLOSE, abs_tol=1e-12)


def _delta(_: Path, stated: Mapping[str, Any]) -> Iterator[Check]:
    if stated["status"] != "holds":
        return
    delta, mechanism = stated["proved"]["delta"], stated["mechanism"]
    units = stated["units"] or mechanism["expected_batch_size"] / mechanism["sample_rate"]
    try:
        check_delta(delta, units, stated["unit"])
    except ConfigError as error:
        yield Check(name="delta", holds=False, said=str(error))
    else:
        said = f"{words.delta(delta)} for {units:,.0f} {stated['unit']}s, below 1 / {units:,.0f}"
        yield Check(name="delta", holds=delta > 0.0, said=said)


def _words(folder: Path, stated: Mapping[str, Any]) -> Iterator[Check]:
    """Whether no number in words is smaller than the one that is proved."""
    if stated["status"] != "holds":
        return
    proved, sentence = stated["proved"], stated["sentence"]
    epsilons = [float(number) for number in re.findall(r"exp\((\d+(?:\.\d+)?)\)", sentence)]
    exact = rounded_up(proved["epsilon"], 2)
    told = f"exp({exact})"
    holds = bool(epsilons) and min(epsilons) >= proved["epsilon"] and told in sentence
    if stated["search"]["selection"] is None:
        holds = holds and sentence.startswith(guarantee_of(stated).statement().sentence)
    yield _same(
        "rounding", holds, f"{told} in words", f"the sentence does not say {told} and what follows from it"
    )
    card = folder / CARD
    if card.is_file():
        text = card.read_text(encoding="utf-8")
        wanted = f"ε = {exact} at δ = {words.delta(proved['delta'])}, per {stated['unit']}"
        yield _same("model card", wanted in text, wanted, f"does not say: {wanted}")


def _report(folder: Path, stated: Mapping[str, Any]) -> Iterator[Check]:
    """Whether the statement says what the run's own report says."""
    path = folder / runs.REPORT
    if not path.is_file():
        return
    try:
        own = from_json(read_json(path).get("guarantee"), f"{path.name}: guarantee")
    except (DataError, ValueError) as error:
        yield Check(name="report", holds=False, said=str(error))
        return
    pairs: dict[str, tuple[Any, Any]] = {
        name: (stated["mechanism"][name], getattr(own, name)) for name in (*CONSTANTS, "sampling_assumed")
    }
    pairs |= {
        name: (stated[name], getattr(own, name)) for name in ("unit", "adjacency", "date", "units_public")
    }
    pairs["hashes"] = (part(Hashes, stated["hashes"], "hashes"), own.hashes)
    if own.selection is None and not own.void and own.private:
        proved = stated["proved"] or {}
        pairs |= {name: (proved.get(name), getattr(own, name)) for name in ("epsilon", "delta")}
    pairs["status"] = (stated["status"], "void" if own.void else "holds" if own.private else "none")
    other = [name for name, (one, two) in pairs.items() if one != two]
    yield _same(
        "report", not other, f"{path.name} says the same", f"{path.name} says otherwise of {', '.join(other)}"
    )


def _versions(_: Path, stated: Mapping[str, Any]) -> Iterator[Check]:
    told, now = stated["code"]["versions"], library_versions()
    other = [f"{name} {told.get(name)}, here {now[name]}" for name in now if told.get(name) != now[name]]
    said = f"other libraries than then: {'; '.join(other)}" if other else "the libraries are those of then"
    yield Check(name="versions", holds=None if other else True, said=said)


def _same(name: str, holds: bool, said: str, otherwise: str) -> Check:
    return Check(name=name, holds=holds, said=said if holds else otherwise)
