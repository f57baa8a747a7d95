"""`task=verify`: whether a release is the one that its statement speaks of, and the statement holds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from dptrain.config import Config, parse
from dptrain.contracts import Budget, ConfigError, DataError, Hashes, Statement
from dptrain.contracts.rounding import rounded_up, rounded_up_to
from dptrain.installed import library_versions
from dptrain.pipeline.selected import is_trial, refuse_unselected, trial_of
from dptrain.privacy.guarantee import OS_SEEDED, DPGuarantee
from dptrain.privacy.plan import check_delta
from dptrain.privacy.written import from_json, plan_of
from dptrain.report import words
from dptrain.report.document import read_json
from dptrain.report.statement import CONSTANTS, Published, read_statement
from dptrain.report.statement_schema import SCHEMA, VERSION
from dptrain.runs import binding
from dptrain.runs import folder as runs

STATEMENT, CARD = "statement.json", "model_card.md"
CLOSE = 1e-6  # relative: accountants of other versions round otherwise


class Check(NamedTuple):
    """One thing that was looked at; `holds` is None where there was nothing to hold it against."""

    name: str
    holds: bool | None
    said: str


def run(config: Config) -> tuple[Path, list[Check]]:
    """Check the release that `release` names: the folder, and every check; raises ConfigError on none."""
    folder = find(config)
    refuse_unselected(str(config.release.source), folder)
    published = read(folder / STATEMENT)
    if _hashes(published).weights is not None and not (folder / runs.WEIGHTS).is_file():
        raise ConfigError(
            f"release={config.release.source}: {folder} has no {runs.WEIGHTS}; give the folder of a finished "
            "run, or of what was given away of it"
        )
    checks: list[Callable[[Path, Published], Iterator[Check]]] = [
        _weights, _code, _configuration, _epsilon, _delta, _words, _report, _selection, _versions,
    ]  # fmt: skip
    return folder, [found for check in checks for found in check(folder, published)]


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
    if not (folder / STATEMENT).is_file():
        raise ConfigError(
            f"release={source}: {folder} has no {STATEMENT}; give the folder of a finished run, or of what "
            "was given away of it"
        )
    return folder


def read(path: Path) -> Published:
    """A statement as it was published; raises ConfigError where it is none, or one without hashes."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); give a statement that dptrain wrote") from error
    if not isinstance(document, Mapping) or document.get("$schema") != SCHEMA:
        schema = document.get("$schema") if isinstance(document, Mapping) else None
        raise ConfigError(
            f"{path}: $schema={schema} is not {SCHEMA}: statements before version {VERSION} hold no hashes; "
            "train the model again with this version"
        )
    try:
        return read_statement(document)
    except (DataError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no whole statement ({error}); give one that dptrain wrote") from error


# ---------------------------------------------------------------------- what it is bound to


def _hashes(published: Published) -> Hashes:
    hashes = published.stated.hashes
    assert hashes is not None  # as `read_statement` has seen
    return hashes


def _weights(folder: Path, published: Published) -> Iterator[Check]:
    wanted = _hashes(published).weights
    if wanted is None:
        yield Check("weights", None, "none are released")
        return
    try:
        state = torch.load(folder / runs.WEIGHTS, weights_only=True, map_location="cpu")
        found = binding.weights_digest(state)
    except Exception as error:  # of a damaged file torch.load raises whatever reading it came to
        yield Check("weights", False, f"cannot be read ({type(error).__name__})")
        return
    yield _same("weights", found == wanted, f"{len(state)} tensors, SHA-256 {found[:12]}", "are others")


def _code(_: Path, published: Published) -> Iterator[Check]:
    recorded = _hashes(published)
    if recorded.model is None:
        yield Check("code", None, "no model is released")
        return
    if binding.code_digest(recorded.model, recorded.modules) != recorded.code:
        yield Check("code", False, "the modules' digests are not those that `code` is made of")
        return
    if not recorded.modules:
        yield Check("code", None, f"{recorded.model} is of an installed package")
    for name, found in binding.present_code(recorded.modules).items():
        if found is None:
            said = "cannot be found; run from the folder that holds it, or give PYTHONPATH"
            yield Check(f"code {name}", False, said)
        else:
            yield _same(
                f"code {name}", found == recorded.modules[name], f"SHA-256 {found[:12]}", "is changed"
            )


def _configuration(folder: Path, published: Published) -> Iterator[Check]:
    recorded = _hashes(published)
    if binding.config_digest(recorded.sections) != recorded.config:
        yield Check("configuration", False, "the sections' digests are not those that `config` is made of")
    elif not (folder / runs.ORDER).is_file():
        yield Check("configuration", None, f"{runs.ORDER} was not given away")
    else:
        try:
            order = runs.read(folder)
            if (why := runs.earlier(order)) is not None:
                yield Check("configuration", None, why)
                return
            asked = {**order.config, "device": "auto"}
            now = binding.config_digests(parse(asked, complete=False))
        except (ConfigError, KeyError, ValueError, TypeError) as error:
            first = (str(error).splitlines() or [""])[0]
            yield Check("configuration", False, f"{runs.ORDER} cannot be read: {first}")
            return
        other = sorted(
            name for name in {*now, *recorded.sections} if now.get(name) != recorded.sections.get(name)
        )
        said = f"SHA-256 {str(recorded.config)[:12]}, {runs.ORDER}"
        yield _same("configuration", not other, said, f"{', '.join(other)} is changed in {runs.ORDER}")


# ---------------------------------------------------------------------- what it promises


def guarantee_of(stated: Statement) -> DPGuarantee | None:
    """What the constants in a statement prove, computed anew; None where they are not DP-SGD's."""
    units = stated.units
    if units is None and stated.expected_batch_size and stated.sample_rate:
        units = math.ceil(stated.expected_batch_size / stated.sample_rate)
    plan = plan_of(replace(stated, units=units))
    if plan is None:
        return None
    budget = Budget(
        epsilon=None,
        delta=stated.delta,
        noise_multiplier=plan.noise_multiplier,
        unit=stated.unit,
        adjacency=plan.adjacency,
        units_public=stated.units_public,
    )
    return DPGuarantee(plan=plan, budget=budget, randomness=stated.randomness or OS_SEEDED)


def _epsilon(_: Path, published: Published) -> Iterator[Check]:
    stated = published.stated
    if published.status != "holds":
        yield Check("epsilon", None, f"nothing is proved (status: {published.status})")
        return
    if published.selected:
        why = "of a private selection, whose candidates are with the team: not computed anew"
        yield Check("epsilon", None, why)
        return
    if stated.plan:
        yield Check("epsilon", None, "of a mechanism with constants of its own: not computed anew")
        return
    try:
        again = guarantee_of(stated)
        if again is None:
            raise DataError("a constant of the mechanism is missing")
        epsilon = again.epsilon()
        recorded = [(float(fpr), tpr) for fpr, tpr in stated.tpr_at_fpr.items()]
        rates = [(fpr, tpr, again.membership_tpr(fpr)) for fpr, tpr in recorded]
    except (ConfigError, DataError, KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        yield Check("epsilon", False, f"cannot be computed anew: {error}")
        return
    constants = ", ".join(
        f"{name} {getattr(stated, name):.6g}" for name in ("noise_multiplier", "sample_rate", "steps")
    )
    said = f"{rounded_up_to(epsilon, 6)}, of {constants}"
    yield _same(
        "epsilon", _close(stated.epsilon, epsilon), said, f"stated {stated.epsilon:.6g}; computed {said}"
    )
    for fpr, tpr, found in rates:
        name = f"true positives at {words.percent(fpr)}"
        said = words.percent_at_most(found)
        yield _same(name, _close(tpr, found), said, f"stated {tpr:.6g}; computed {said}")


def _close(recorded: float, found: float) -> bool:
    return math.isclose(recorded, found, rel_tol=CLOSE, abs_tol=1e-12)


def _delta(_: Path, published: Published) -> Iterator[Check]:
    stated = published.stated
    units: float | None = stated.units
    if published.status != "holds":
        return
    if units is None and stated.expected_batch_size and stated.sample_rate:
        units = stated.expected_batch_size / stated.sample_rate
    if units is None:
        yield Check("delta", None, f"the number of {stated.unit}s is secret")
        return
    try:
        check_delta(stated.delta, units, stated.unit)
    except ConfigError as error:
        yield Check("delta", False, str(error))
    else:
        said = f"{words.delta(stated.delta)} for {units:,.0f} {stated.unit}s, below 1 / {units:,.0f}"
        yield Check("delta", stated.delta > 0.0, said)


def _words(folder: Path, published: Published) -> Iterator[Check]:
    """Whether no number in words is smaller than the one that is proved."""
    stated = published.stated
    if published.status != "holds":
        return
    epsilons = [float(number) for number in re.findall(r"exp\((\d+(?:\.\d+)?)\)", stated.sentence)]
    exact = rounded_up(stated.epsilon, 2)
    recorded = f"exp({exact})"
    holds = bool(epsilons) and min(epsilons) >= stated.epsilon and recorded in stated.sentence
    if not published.selected and (again := guarantee_of(stated)) is not None:
        holds = holds and stated.sentence.startswith(again.statement().sentence)
    yield _same(
        "rounding",
        holds,
        f"{recorded} in words",
        f"the sentence does not say {recorded} and what follows from it",
    )
    card = folder / CARD
    if card.is_file():
        text = card.read_text(encoding="utf-8")
        wanted = f"ε = {exact} at δ = {words.delta(stated.delta)}, per {stated.unit}"
        yield _same("model card", wanted in text, wanted, f"does not say: {wanted}")


def _report(folder: Path, published: Published) -> Iterator[Check]:
    """Whether the statement says what the run's own report says."""
    path, stated = folder / runs.REPORT, published.stated
    if not path.is_file():
        return
    try:
        own = from_json(read_json(path).get("guarantee"), f"{path.name}: guarantee")
    except (DataError, ValueError) as error:
        yield Check("report", False, str(error))
        return
    names = [*CONSTANTS, "plan", "unit", "adjacency", "date", "units_public", "hashes"]
    if own.selection is None and not own.void and own.private:
        names += ["epsilon", "delta"]
    other = [name for name in names if getattr(stated, name) != getattr(own, name)]
    if published.status != ("void" if own.void else "holds" if own.private else "none"):
        other.append("status")
    yield _same(
        "report", not other, f"{path.name} says the same", f"{path.name} says otherwise of {', '.join(other)}"
    )


def _selection(folder: Path, published: Published) -> Iterator[Check]:
    """Whether what was selected is the release of the trial that its selection names."""
    if not published.selected:
        return
    if (trial := trial_of(folder)) is None and not is_trial(folder):
        yield Check("selection", None, "its trials are with the team: that it was selected is not checked")
        return
    trial = folder if trial is None else trial
    own = _hashes(read(trial / STATEMENT))
    yield _same(
        "selection",
        own.weights == _hashes(published).weights,
        f"the trial that was selected is {trial.name}",
        f"the weights are not those of {trial.name}, which was selected",
    )


def _versions(_: Path, published: Published) -> Iterator[Check]:
    recorded, now = published.stated.versions, library_versions()
    other = [
        f"{name} {recorded.get(name)}, here {now[name]}" for name in now if recorded.get(name) != now[name]
    ]
    said = f"other libraries than then: {'; '.join(other)}" if other else "the libraries are those of then"
    yield Check("versions", None if other else True, said)


def _same(name: str, holds: bool, said: str, otherwise: str) -> Check:
    return Check(name, holds, said if holds else otherwise)
