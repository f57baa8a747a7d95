"""A finished run with mechanism=private_prediction, opened to answer people."""

from __future__ import annotations

from pathlib import Path

from dptrain.assembly.components import assemble
from dptrain.assembly.model import make_model
from dptrain.assembly.records import load_splits
from dptrain.assembly.values import given_output, make_context, make_streams
from dptrain.config import Config, parse
from dptrain.contracts import BrokenGuarantee, ConfigError, Splits
from dptrain.evidence.verdict import BROKEN
from dptrain.mechanisms.private_prediction import PrivatePrediction
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.training.ensemble import Ensemble
from dptrain.training.paid_answers import PaidAnswers, Predictor
from dptrain.training.seen import Seen


def open_predictor(folder: Path) -> Predictor:
    """What answers people from this run folder; raises DptrainError where nothing may be answered from it."""
    if not (folder / runs.REPORT).exists():
        raise ConfigError(
            f"{folder}: no finished run; name the folder of one with mechanism=private_prediction"
        )
    order = runs.read(folder)
    runs.refuse_earlier(f"{folder}", order)
    runs.refuse_given(f"{folder}", order)
    config = parse(order.config)
    parts = assemble(config)
    if not isinstance(parts.mechanism, PrivatePrediction):
        raise ConfigError(
            f"{folder}: its mechanism is {config.mechanism['_target_']}, which needs no predictor; name a "
            "run with mechanism=private_prediction"
        )
    if any(line["verdict"].startswith(BROKEN) for line in read_json(folder / runs.REPORT)["leakage"]):
        raise BrokenGuarantee(
            f"{folder}: an attack went beyond its guarantee, so that nothing is answered from it"
        )
    return predictor_of(folder, config, load_splits(parts.source, make_streams(config)), PaidAnswers(folder))


def predictor_of(folder: Path, config: Config, splits: Splits, paid: PaidAnswers) -> Predictor:
    """The same of a run whose configuration and records are at hand, paid for by the run or by a replica."""
    streams, context = make_streams(config), make_context(config)
    model = make_model(config, None, splits, streams).to(context.device, context.dtype).eval()
    seen = Seen.of_model(model, context)
    return Predictor(
        Ensemble.load(folder, made_by=seen.made_by),
        seen,
        paid,
        shape=splits.shape,
        output=given_output(config.release),
    )
