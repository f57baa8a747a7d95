"""Which runs there are: from folders and from MLflow, with what each was asked for and what it reports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dptrain import tracking
from dptrain.config import RENAMED
from dptrain.contracts import DataError, DptrainError, Statement
from dptrain.privacy.written import from_json, plan_from_json, plan_of
from dptrain.redaction import redacted
from dptrain.report.comparison.points import Missing
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.runs.comparable import not_comparable
from dptrain.sweep import state as sweeps
from dptrain.sweep.cost import Remembered
from dptrain.tracking import Tracked, flatten

# What a run may differ in without being another experiment: where it ran, and where it was put.
BOOKKEEPING = (
    "name", "seed", "output", "resume", "performance", "device", "fail_if", "task", "tracking", "sweep",
    "report", "serve", "serving",
)  # fmt: skip
ATTACK_SEED = "release.seed"
AREAS = {"": "auroc", "_low": "low/auroc", "_high": "high/auroc"}  # what MLflow calls the AUROC and its ends
FIELDS = ("low", "high", "floor", "control", "bound")  # before a leakage metric's name, in MLflow
INTERFACES = ("top_k", "rounded", "temperature", "labels_only")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Runs to compare: every one below the folders, and those that MLflow finds in any of the ways given."""

    folders: tuple[Path, ...] = ()
    uri: str | None = None
    experiment: str = "dptrain"
    parents: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)  # all of them at once
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Found:
    """A finished run: its settings as text by dotted key, what was overridden, and its report."""

    name: str
    seed: int
    settings: Mapping[str, str]  # without bookkeeping
    overrides: Mapping[str, str]
    report: Mapping[str, Any]  # the shape of report.json; parts may be missing where MLflow had no report
    guarantee: Statement
    run_id: str | None = None


def gather(selection: Selection) -> tuple[list[Found], list[Missing]]:
    """The finished runs, each once, and what was asked for but cannot be compared; raises on none at all."""
    found: list[Found] = []
    missing: list[Missing] = []
    for each in (*_in_folders(selection.folders), *_in_mlflow(selection)):
        if isinstance(each, Missing):
            missing.append(each)
        elif not any(_same(each, other) for other in found):
            found.append(each)
    if not found:
        where = [str(folder) for folder in selection.folders]
        where += ["MLflow"] if selection.parents or selection.tags or selection.ids else []
        listed = "".join(f"\n{each.name}: {each.why}" for each in missing)
        raise DataError(f"no finished run in {', '.join(where) or 'nothing'}; name a sweep's folder{listed}")
    return found, missing


def _same(one: Found, other: Found) -> bool:
    """Whether two are one run, met in its folder and in MLflow."""
    if one.run_id is not None and one.run_id == other.run_id:
        released = {_weights(each.guarantee) for each in (one, other)} - {None}
        if len(released) < 2:  # of a folder that was copied before its end there may be another model
            return True
    folder = one.report.get("folder")
    return folder is not None and Path(folder).resolve() == Path(other.report.get("folder") or "").resolve()


def _weights(statement: Statement) -> str | None:
    """The digest of the weights that a statement is bound to."""
    return None if statement.hashes is None else statement.hashes.weights


def remembered(folders: Sequence[Path]) -> list[Remembered]:
    """What trainings of sweeps below these folders spend of which no statement here tells a plan."""
    found = []
    for sweep in sorted({path.parent for top in folders for path in top.glob(f"**/{sweeps.STATE}")}):
        limited = sweeps.read_state(sweep).id
        for name, spent in sweeps.trainings(sweep).items():
            stated = sweeps.reported(sweep / name)
            told = stated is not None and (limited is not None or plan_of(stated) is not None)
            if spent is not None and not told:
                one = Remembered(
                    sweep=limited,
                    plan=plan_from_json(spent.plan),
                    draws=spent.draws,
                    unit=spent.unit,
                    reported=stated is not None,
                )
                found.append(one)
    return found


# ---------------------------------------------------------------------- folders


def _in_folders(folders: Sequence[Path]) -> Iterator[Found | Missing]:
    for top in folders:
        if not top.is_dir():
            raise DataError(f"{top} is no folder; give a run's folder, or one that holds runs")
        marks = [*top.glob(f"**/{runs.REPORT}"), *top.glob(f"**/{runs.ORDER}")]
        for folder in sorted({path.parent for path in marks}):
            yield _in_folder(folder)
        for notes in sorted(top.glob(f"**/{sweeps.STATE}")):
            for job, why in sweeps.never_begun(notes.parent).items():
                yield Missing(name=job, why=why)


def _in_folder(folder: Path) -> Found | Missing:
    order: dict[str, Any] = {}
    if (folder / runs.ORDER).is_file():
        try:
            order = redacted(runs.read_state(folder).model_dump(exclude_unset=True))
        except DptrainError as error:
            return Missing(name=folder.name, why=str(error))
    if not (folder / runs.REPORT).is_file():
        why = order.get("error") or order.get("failed") or "it was stopped or failed; it has no report.json"
        return Missing(name=folder.name, why=f"unfinished: {why}")
    try:
        report = {**redacted(read_json(folder / runs.REPORT)), "folder": str(folder)}
    except DataError as error:
        return Missing(name=folder.name, why=f"its report.json cannot be read: {error}")
    if (why := not_comparable(report)) is not None:
        return Missing(name=folder.name, why=f"its report.json cannot be read: {why}")
    served = (report.get("guarding") or {}).get("guards") is not None
    if order.get("config", {}).get("task", "train") != "train" and not served:
        return Missing(name=folder.name, why="an audit of a model that exists is no training")
    overrides = _overrides(order["overrides"] if order else str(report.get("reproduce")).split()[3:])
    config = order.get("config") or {**overrides, "recipe": report["recipe"]}
    return _found(folder.name, report, flatten(config), overrides, order.get("tracked_as"))


def _found(
    name: str,
    report: Mapping[str, Any],
    config: Mapping[str, Any],
    overrides: Mapping[str, str],
    run_id: str | None,
) -> Found | Missing:
    try:
        guarantee = from_json(report.get("guarantee"))
    except DataError as error:
        return Missing(name=name, why=f"its report.json cannot be read: {error}")
    served = bool(report.get("guarding"))
    settings = _listed(
        {
            key: _text(value)
            for key, value in config.items()
            if value is not None and not _is_bookkeeping(key, served=served)
        }
    )
    settings.setdefault("recipe", report["recipe"])
    return Found(
        name=name,
        seed=int(_seed(config, overrides, served=served)),
        settings=settings,
        overrides={
            key: _text(value) for key, value in overrides.items() if not _is_bookkeeping(key, served=served)
        },
        report=report,
        guarantee=guarantee,
        run_id=run_id,
    )


def _overrides(words: Sequence[str]) -> dict[str, str]:
    """Overrides as key and value, without Hydra's marks for adding and forcing."""
    pairs = (word.lstrip("+~").partition("=") for word in words if not word.startswith("hydra."))
    return {key: value for key, equals, value in pairs if equals}


def _listed(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings with lists whole again: `channels.0` and `channels.1` as `channels = [8, 16]`."""
    items: dict[str, list[tuple[int, str]]] = {}
    others: dict[str, str] = {}
    for key, value in settings.items():
        name, _, last = key.rpartition(".")
        if last.isdigit():
            items.setdefault(name, []).append((int(last), value))
        else:
            others[key] = value
    if not items:
        return others
    lists = {name: f"[{', '.join(value for _, value in sorted(found))}]" for name, found in items.items()}
    return _listed({**others, **lists})


def _seed(config: Mapping[str, Any], overrides: Mapping[str, str], *, served: bool) -> Any:
    """What all was drawn by: of a service that was attacked, what the attacks drew."""
    drawn = config.get(ATTACK_SEED) if served else None
    found = config.get("seed", overrides.get("seed", 0)) if drawn is None else drawn
    return found if str(found).lstrip("-").isdigit() else 0


def _is_bookkeeping(key: str, *, served: bool = False) -> bool:
    """Whether runs may differ in this; services differ in their guards, and not in what attacks drew."""
    if served and (key == ATTACK_SEED or key.partition(".")[0] == "serving"):
        return key == ATTACK_SEED
    return key.partition(".")[0] in BOOKKEEPING or key in RENAMED


def _text(value: Any) -> str:
    """A value as text, numbers alike however they were written: 3 and 3.0."""
    try:
        return f"{float(value):g}" if not isinstance(value, bool) else str(value)
    except (TypeError, ValueError):
        return str(value)


# ---------------------------------------------------------------------- MLflow


def _in_mlflow(selection: Selection) -> Iterator[Found | Missing]:
    if not (selection.parents or selection.tags or selection.ids):
        return
    for run in tracking.read_runs(
        selection.uri, selection.experiment, parents=selection.parents, tags=selection.tags, ids=selection.ids
    ):
        if run.status != "FINISHED":
            why = run.tags.get("error") or {"RUNNING": "it is running, or was killed"}.get(run.status, "")
            yield Missing(name=run.name, why=f"{run.status.lower()}{': ' if why else ''}{why}")
        elif run.params.get("task", "train") != "train":
            yield Missing(name=run.name, why="an audit of a model that exists is no training")
        else:
            yield _tracked(run)


def _tracked(run: Tracked) -> Found | Missing:
    report = redacted(run.report) if run.report is not None else from_metrics(run)
    if report is None:
        return Missing(name=run.name, why="MLflow holds neither its report nor its accuracy and guarantee")
    words = report.get("reproduce", "").split()[3:]
    found = _found(run.name, report, run.params, _overrides(words), run.run_id)
    folder = run.tags.get("folder")
    if folder is None or isinstance(found, Missing):
        return found
    return replace(found, report={**report, "folder": folder})


def from_metrics(run: Tracked) -> dict[str, Any] | None:
    """As much of a report as metrics, parameters and tags hold; None where they do not hold the essence.

    There is no trade-off curve and no plan among them; of older runs no interval of the utility either.
    """
    metrics, tags = run.metrics, run.tags
    metric = tags.get("metric", "accuracy")  # as runs that were made before it was a tag have it
    if metric not in metrics or "guarantee" not in tags:
        return None
    control = {"accuracy": metrics.get(f"control/{metric}"), "auroc": metrics.get("control/auroc")}
    return {
        "recipe": tags.get("recipe", ""),
        "data": {"name": tags.get("data", ""), "source": tags.get("data.source", "")},
        "utility": {
            "accuracy": metrics[metric],
            "accuracy_low": metrics.get(f"low/{metric}"),
            "accuracy_high": metrics.get(f"high/{metric}"),
            **{f"auroc{end}": metrics.get(name) for end, name in AREAS.items()},
            "metric": metric,
        },
        "control": None if control["accuracy"] is None else control,
        "floor_accuracy": metrics.get(f"floor/{metric}"),
        "guarantee": {
            "private": "guarantee/epsilon" in metrics,
            "void": tags["guarantee"] == "void",
            "void_reason": "MLflow does not say why" if tags["guarantee"] == "void" else None,
            "epsilon": metrics.get("guarantee/epsilon"),
            "delta": metrics.get("guarantee/delta"),
            "noise_multiplier": metrics.get("guarantee/noise_multiplier"),
            "unit": tags.get("unit", ""),
            "adjacency": run.params.get("privacy.adjacency", ""),
            "sentence": "Read from MLflow's metrics: the statement in full is in the run's own report.",
        },
        "leakage": _lines(metrics),
        "reproduce": "",
    }


def _lines(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """Leakage lines from metrics called `FIELD/ATTACK.METRIC[.INTERFACE]`; `attack/` stands before values."""
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    shape = re.compile(rf"(attack|{'|'.join(FIELDS)})/([^.]+)\.(.+?)(?:\.({'|'.join(INTERFACES)}))?$")
    for name, value in metrics.items():
        if part := shape.match(name):
            which = "value" if part[1] == "attack" else part[1]
            attack, metric, interface = part[2], part[3], part[4] or ""
            line = lines.setdefault(
                (attack, metric, interface), {"attack": attack, "metric": metric, "interface": interface}
            )
            line[which] = value
    empty = {**dict.fromkeys(FIELDS), "verdict": ""}
    return [{**empty, **line} for line in lines.values() if "value" in line]
