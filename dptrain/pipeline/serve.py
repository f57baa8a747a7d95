"""`task=serve`: a model that exists behind an interface that limits, records, refuses and notices."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dptrain.assembly.build import build
from dptrain.assembly.components import assemble
from dptrain.assembly.records import load_splits
from dptrain.assembly.values import make_streams
from dptrain.config import Config
from dptrain.contracts import ConfigError, Splits
from dptrain.contracts.trees import leaves
from dptrain.pipeline.case import find, of_the_run
from dptrain.pipeline.served_model import as_released, prior_of, served_model
from dptrain.serving.forms import shaped
from dptrain.serving.guard import Guard, Started, Surroundings
from dptrain.serving.keys import Keys, server_secret
from dptrain.serving.metrics import Metrics
from dptrain.serving.recording import Recording
from dptrain.serving.server import is_loopback
from dptrain.serving.service import Bounds, Service
from dptrain.serving.store import Store


def make_service(
    config: Config,
    overrides: tuple[str, ...] = (),
    *,
    counters: Path | None = None,
    clock: Callable[[], float] = time.time,
    replica: Path | None = None,
) -> Service:
    """The service that a configuration describes, ready to answer; raises ConfigError.

    `counters`: a folder in which several workers count together. `clock` tells the date, in seconds.
    `replica`: a folder in which answers are paid for that whoever audits asks for, where they are.
    """
    _refuse_open_doors(config)
    case = find(config, of_the_run(overrides), answers=True)
    case = replace(case, config=as_released(case, config))
    parts = assemble(case.config)
    splits = load_splits(parts.source, make_streams(case.config))
    model = served_model(case, parts, splits, replica)
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
        answer=(lambda rows: model.predict(shaped(rows, model.forms)))
        if model.left is None
        else _refuse_to_pay,
        workers=config.serve.workers,
    )
    return Service(
        model=model,
        guards=start_guards(config, surroundings),
        store=store,
        keys=Keys(store, secret, clock) if config.serve.keys else None,
        bounds=Bounds(
            body_bytes=config.serve.body_bytes,
            body_seconds=config.serve.body_seconds,
            records=config.serve.records,
            waiting=config.serve.waiting,
            transit_bytes=config.serve.transit_bytes,
        ),
        secret=secret,
        prior=prior_of(model, splits),
        metrics=Metrics(counters),
        clock=clock,
    )


def serving_folder(config: Config) -> Path:
    """Where a service keeps its secret and its database."""
    return Path(config.serve.folder or Path(config.output) / "serving")


def _refuse_to_pay(_: Tensor) -> Tensor:
    raise ConfigError(
        "serving: a guard asks the model about normal inputs before anyone else does, and each answer of "
        "this release is paid for; leave `detection` out: serving=[rates,record,budget]"
    )


def start_guards(config: Config, surroundings: Surroundings) -> dict[str, Started]:
    """The guards of the configuration at work, in their order; raises one ConfigError for all of them."""
    built: dict[str, Guard] = {}
    started: dict[str, Started] = {}
    problems = []
    for name, node in config.serving.items():
        try:
            built[name] = build(f"serving.{name}", node)
            if not hasattr(built[name], "start"):
                raise ConfigError(
                    f"serving.{name}: `{node['_target_']}` has no `start(surroundings)`; give it one that "
                    "returns a dptrain.serving.guard.Started"
                )
        except ConfigError as error:
            problems.append(str(error))
    for place, (name, guard) in enumerate(built.items()):
        recorded = any(isinstance(each, Recording) for each in [*built.values()][place:])
        try:
            if hasattr(guard, "start"):
                started[name] = guard.start(replace(surroundings, recorded=recorded))
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
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = archive["inputs"]
    except Exception as error:  # of whatever is no such file, or half of one
        raise ConfigError(
            f"serve.calibration={path} cannot be read ({type(error).__name__}); give public, held_out, or a "
            ".npz file with `inputs` (N, ...)"
        ) from None
    if not found.ndim or found.shape[1:] != tuple(splits.shape) or found.dtype.kind not in "fiu":
        raise ConfigError(
            f"serve.calibration={path} holds inputs of shape {found.shape[1:]}; those of this model have "
            f"{tuple(splits.shape)}"
        )
    low, high = (np.float32(bound) for bound in splits.bounds)
    with np.errstate(over="ignore"):  # beyond float32 it is infinite, and so out of bounds
        inputs = found.astype(np.float32)
    if not (len(inputs) and np.isfinite(inputs).all() and inputs.min() >= low and inputs.max() <= high):
        raise ConfigError(
            f"serve.calibration={path} holds no inputs, or some that are not within {low:g} to {high:g}; "
            "give such as the model is asked about"
        )
    return torch.from_numpy(inputs).reshape(len(inputs), -1)


def _refuse_open_doors(config: Config) -> None:
    if not config.serve.keys and not is_loopback(config.serve.host):
        raise ConfigError(
            f"serve.keys=false with serve.host={config.serve.host}: anyone who reaches it could ask; set "
            "serve.keys=true, or listen on 127.0.0.1"
        )
