"""`task=serve`: a model that exists behind an interface that limits, records, refuses and notices."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dptrain.assembly.build import build
from dptrain.assembly.components import Parts, assemble
from dptrain.assembly.model import make_model
from dptrain.assembly.records import load_splits
from dptrain.assembly.values import given_away, given_output, make_streams
from dptrain.config import Config, parse
from dptrain.config.rules import key_of
from dptrain.contracts import Access, ConfigError, Splits
from dptrain.contracts.trees import leaves
from dptrain.evidence.verdict import BROKEN
from dptrain.pipeline.case import Case, find
from dptrain.pipeline.served import Answers, column_names, image_form
from dptrain.pipeline.weights import load
from dptrain.report.document import read_json
from dptrain.runs import binding
from dptrain.runs import folder as runs
from dptrain.serving.guard import Guard, Started, Surroundings
from dptrain.serving.keys import Keys, server_secret
from dptrain.serving.model import ServedModel
from dptrain.serving.server import is_loopback
from dptrain.serving.service import Bounds, Service
from dptrain.serving.store import Store
from dptrain.tasks import task_of

STATEMENT, CARD = "statement.json", "model_card.md"
UNPROVED = "Nothing is proved: it is not known how this model was trained."
OWN_KEYS = ("serve", "serving")  # what serving may choose of a run, besides what an audit may


def make_service(config: Config, overrides: tuple[str, ...] = ()) -> Service:
    """The service that a configuration describes, ready to answer; raises ConfigError."""
    _refuse_open_doors(config)
    case = find(config, tuple(each for each in overrides if key_of(each).split(".")[0] not in OWN_KEYS))
    case = replace(case, config=_as_released(case, config))
    parts = assemble(case.config)
    splits = load_splits(parts.source, make_streams(case.config))
    model = served_model(case, parts, splits)
    folder = serving_folder(config)
    store = Store(folder, config.serve.store, durable=config.serve.durable)
    secret = server_secret(folder)
    surroundings = Surroundings(
        store=store,
        model=model.digest,
        classes=len(model.names),
        forms=model.forms,
        folder=folder,
        secret=secret,
        calibration=partial(normal_inputs, config.serve.calibration, splits),
        answer=model.predict,
    )
    return Service(
        model=model,
        guards=start_guards(config, surroundings),
        store=store,
        keys=Keys(store, secret) if config.serve.keys else None,
        bounds=Bounds(
            body_bytes=config.serve.body_bytes,
            body_seconds=config.serve.body_seconds,
            records=config.serve.records,
            waiting=config.serve.waiting,
        ),
        secret=secret,
        prior=_prior(model, splits),
    )


def serving_folder(config: Config) -> Path:
    """Where a service keeps its secret and its database."""
    return Path(config.serve.folder or Path(config.output) / "serving")


def served_model(case: Case, parts: Parts, splits: Splits) -> ServedModel:
    """The release of a case behind its output limit; refused where it is not what its statement speaks of."""
    config = case.config
    architecture = make_model(
        config,
        None if case.played is None else parts.mechanism,
        splits,
        make_streams(config),
        parts.network,
    )
    assert case.weights is not None
    release, _ = load(case.weights, architecture, torch.device("cpu"), splits.task)
    assert release.weights is not None
    digest = binding.weights_digest(release.weights)
    statement: dict[str, Any] = {"status": "unknown", "sentence": UNPROVED}
    card = f"# {case.name}\n\n{UNPROVED}\n"
    if case.played is not None:
        folder = case.weights.parent
        _refuse_unfit(case, folder, digest)
        statement = json.loads((folder / STATEMENT).read_text(encoding="utf-8"))
        card = (folder / CARD).read_text(encoding="utf-8")
    task = task_of(splits)
    return ServedModel(
        title=config.name or case.name,
        answers=Answers(release.build().float(), task, given_output(config.release)),
        names=column_names(task, splits.classes),
        forms=splits.forms,
        raw=splits.raw or image_form(splits),
        statement=statement,
        card=card,
        digest=digest,
        output=given_away(config.release, frozenset({Access.CONFIDENCES, Access.LABELS})),
        task=task.name,
    )


def start_guards(config: Config, surroundings: Surroundings) -> dict[str, Started]:
    """The guards of the configuration at work, in their order; raises one ConfigError for all of them."""
    started, problems = {}, []
    for name, node in config.serving.items():
        try:
            guard: Guard = build(f"serving.{name}", node)
            if not hasattr(guard, "start"):
                raise ConfigError(
                    f"serving.{name}: `{node['_target_']}` has no `start(surroundings)`; give it one that "
                    "returns a dptrain.serving.guard.Started"
                )
            started[name] = guard.start(surroundings)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return started


def normal_inputs(named: str | None, splits: Splits) -> Tensor:
    """Inputs (N, width) of normal traffic that thresholds are calibrated on; raises ConfigError.

    Held-out people are people too: what is refused tells of them, outside of what is proved.
    """
    if named == "held_out":
        records = splits.test
    elif named == "public":
        if splits.public is None:
            raise ConfigError(
                f"serve.calibration=public: data `{splits.name}` declares no public records; give "
                "serve.calibration=held_out, of which refusals then tell, or a .npz file with `inputs`"
            )
        records = splits.public
    elif named is None:
        raise ConfigError(
            "serve.calibration=null: a guard that notices unusual queries needs to know normal ones; give "
            "public, held_out, or a .npz file with `inputs` (N, ...)"
        )
    else:
        return _from_file(Path(named), splits)
    flat = [one.reshape(len(records), -1).float() for one in leaves(records.inputs)]
    return torch.cat(flat, dim=1)


def _from_file(path: Path, splits: Splits) -> Tensor:
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)["inputs"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"serve.calibration={path} cannot be read ({type(error).__name__}); give public, held_out, or a "
            ".npz file with `inputs` (N, ...)"
        ) from None
    if found.shape[1:] != tuple(splits.shape) or found.dtype.kind not in "fiu":
        raise ConfigError(
            f"serve.calibration={path} holds inputs of shape {found.shape[1:]}; those of this model have "
            f"{tuple(splits.shape)}"
        )
    return torch.from_numpy(found).float().reshape(len(found), -1)


def _as_released(case: Case, config: Config) -> Config:
    """The configuration of a case, with the output limit that its release was stated with."""
    if case.played is None:
        return case.config
    assert case.weights is not None
    before = parse(runs.read(case.weights.parent).config, complete=False).release
    if before.output in ("weights", "confidences"):
        return case.config
    chosen = config.release
    same = ("output", "top_k", "digits", "temperature")
    if chosen.output != "weights" and any(getattr(chosen, n) != getattr(before, n) for n in same):
        raise ConfigError(
            f"release.output={chosen.output}: this release was stated with release.output={before.output}, "
            "and is served so; leave it out"
        )
    kept = {name: getattr(before, name) for name in same}
    return replace(case.config, release=replace(chosen, **kept))


def _refuse_unfit(case: Case, folder: Path, digest: str) -> None:
    """Raise ConfigError where weights and statement do not belong together, or an attack broke the proof."""
    try:
        stated = json.loads((folder / STATEMENT).read_text(encoding="utf-8"))
        (folder / CARD).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"release={case.name}: {folder} has no {STATEMENT} and {CARD} that can be read "
            f"({type(error).__name__}); give the folder of a finished run"
        ) from None
    if (wanted := (stated.get("hashes") or {}).get("weights")) != digest:
        raise ConfigError(
            f"release={case.name}: {runs.WEIGHTS} are not the weights that {STATEMENT} speaks of (SHA-256 "
            f"{digest[:12]}, stated {str(wanted)[:12]}); give the folder as the run left it"
        )
    lines = read_json(folder / runs.REPORT).get("leakage", [])
    if any(str(line.get("verdict")).startswith(BROKEN) for line in lines):
        raise ConfigError(
            f"release={case.name}: an attack measured more than its statement allows; it must not be served"
        )


def _refuse_open_doors(config: Config) -> None:
    if not config.serve.keys and not is_loopback(config.serve.host):
        raise ConfigError(
            f"serve.keys=false with serve.host={config.serve.host}: anyone who reaches it could ask; set "
            "serve.keys=true, or listen on 127.0.0.1"
        )


def _prior(model: ServedModel, splits: Splits) -> Tensor:
    """What a coarse answer is: declared class frequencies, or all classes alike; zeros of other tasks."""
    if splits.class_prior is not None and len(splits.class_prior) == len(model.names):
        return torch.tensor(splits.class_prior)
    if splits.of_classes and model.names:
        return torch.full((len(model.names),), 1 / len(model.names))
    return torch.zeros(task_of(splits).outputs)
