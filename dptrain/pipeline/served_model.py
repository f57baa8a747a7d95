"""What `task=serve` answers with: the release of a run, or of weights of one's own, as it was stated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dptrain.assembly.components import Parts
from dptrain.assembly.model import make_model
from dptrain.assembly.values import given_away, given_output, make_streams
from dptrain.config import Config, parse
from dptrain.contracts import Access, ConfigError, Splits
from dptrain.evidence.verdict import BROKEN
from dptrain.pipeline.case import Case
from dptrain.pipeline.predictor import predictor_of
from dptrain.pipeline.served import Answers, PaidFor, column_names, image_form
from dptrain.pipeline.weights import load
from dptrain.report.document import read_json
from dptrain.runs import binding
from dptrain.runs import folder as runs
from dptrain.serving.model import ServedModel
from dptrain.tasks import task_of
from dptrain.training.paid_answers import LEDGER, PaidAnswers

STATEMENT, CARD = "statement.json", "model_card.md"
UNPROVED = "Nothing is proved: it is not known how this model was trained."


def served_model(case: Case, parts: Parts, splits: Splits, replica: Path | None = None) -> ServedModel:
    """The release of a case behind its output limit; refused where it is not what its statement speaks of.

    Where answers are paid for, `replica` is a folder in which they are in place of the run's.
    """
    config = case.config
    if case.weights is not None and (case.weights.parent / LEDGER).is_file():
        return paid_model(case, splits, replica)
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
        statement, card = _documents(case, folder)
        _refuse_unfit(case, statement, digest)
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


def paid_model(case: Case, splits: Splits, replica: Path | None = None) -> ServedModel:
    """What a run with mechanism=private_prediction answers: each answer is paid for before it is given."""
    assert case.weights is not None
    folder = case.weights.parent
    statement, card = _documents(case, folder)
    people = PaidAnswers(folder)
    paid = people if replica is None else people.replica(replica)
    predictor = predictor_of(folder, case.config, splits, paid)
    task = task_of(splits)
    return ServedModel(
        title=case.config.name or case.name,
        answers=PaidFor(predictor),
        names=column_names(task, splits.classes),
        forms=splits.forms,
        raw=splits.raw or image_form(splits),
        statement=statement,
        card=card,
        digest=sha256((folder / STATEMENT).read_bytes()).hexdigest(),  # that of teachers would tell of them
        output=given_away(case.config.release, frozenset({Access.CONFIDENCES, Access.LABELS})),
        task=task.name,
        most=people.most,
        left=lambda: predictor.left,
    )


def as_released(case: Case, config: Config) -> Config:
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


def _documents(case: Case, folder: Path) -> tuple[dict[str, Any], str]:
    """Statement and card of a run; raises ConfigError where they are gone, or an attack broke the proof."""
    try:
        stated = json.loads((folder / STATEMENT).read_text(encoding="utf-8"))
        card = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"release={case.name}: {folder} has no {STATEMENT} and {CARD} that can be read "
            f"({type(error).__name__}); give the folder of a finished run"
        ) from None
    lines = read_json(folder / runs.REPORT).get("leakage", [])
    if any(str(line.get("verdict")).startswith(BROKEN) for line in lines):
        raise ConfigError(
            f"release={case.name}: an attack measured more than its statement allows; it must not be served"
        )
    return stated, card


def _refuse_unfit(case: Case, stated: Mapping[str, Any], digest: str) -> None:
    """Raise ConfigError where weights and statement do not belong together."""
    if (wanted := (stated.get("hashes") or {}).get("weights")) != digest:
        raise ConfigError(
            f"release={case.name}: {runs.WEIGHTS} are not the weights that {STATEMENT} speaks of (SHA-256 "
            f"{digest[:12]}, stated {str(wanted)[:12]}); give the folder as the run left it"
        )


def prior_of(model: ServedModel, splits: Splits) -> Tensor:
    """What a coarse answer is: declared class frequencies, or all classes alike; zeros of other tasks."""
    if splits.class_prior is not None and len(splits.class_prior) == len(model.names):
        return torch.tensor(splits.class_prior)
    if splits.of_classes and model.names:
        return torch.full((len(model.names),), 1 / len(model.names))
    return torch.zeros(task_of(splits).outputs)
