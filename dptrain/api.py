"""The Python API: train, audit and compare from a program or a notebook, as the command line does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from torch import nn

from dptrain.assembly.given import Given
from dptrain.assembly.left_out import without_what_does_not_apply
from dptrain.cli import launched, process
from dptrain.cli.explain import explained
from dptrain.cli.files import folder as files_of
from dptrain.cli.hydra import plain, refuse_read_first, register
from dptrain.comparison.compare import CONFIDENCE
from dptrain.comparison.compare import compare as compare_runs
from dptrain.comparison.gather import Selection
from dptrain.config import Config, parse
from dptrain.contracts import ConfigError, DptrainError, Forecast, Splits
from dptrain.pipeline import audit as audit_run
from dptrain.pipeline import plan as forecasting
from dptrain.pipeline import train
from dptrain.pipeline.predictor import open_predictor
from dptrain.redaction import redact
from dptrain.report.console import Console
from dptrain.report.notebook import ComparisonView, ReportView
from dptrain.runs import folder as runs
from dptrain.sweep.study import study_of
from dptrain.training.paid_answers import Predictor


def run(
    recipe: str = "quickstart",
    *overrides: str,
    model: nn.Module | None = None,
    data: Splits | None = None,
    config_dir: str | Path | None = None,
    **settings: Any,
) -> ReportView:
    """Train with differential privacy, attack the model, and report.

    `recipe` and `overrides` are words of the command line; `settings` are the same by section, as in
    `privacy={"epsilon": 3}`. `model` and `data` take the place of what the recipe names; a run with such
    objects cannot be resumed. Raises DptrainError where the command line exits with 2, 3 or 4.
    """
    given = Given(model=model, splits=data)
    order = _order(recipe, [*overrides, *_words(settings)], config_dir, given)
    config = parse(order.config)
    if config.task != "train" or config.resume is not None:
        raise ConfigError("dptrain.run trains a new model; use dptrain.audit, or the command line to resume")
    with _new_folder(config, order.recipe) as folder:
        study = study_of(config, order, folder)
        with launched.together(config.performance) as ranks:
            return ReportView(train.run(config, order, folder, study, Console(), given=given, ranks=ranks))


@contextmanager
def ranks(**performance: Any) -> Iterator[bool]:
    """Within, the processes that a launcher started beside this one are one run; whether this is the first.

    For programs under torchrun, srun or Ray Train. The first calls `run`; all others compute with it, and are
    within once it is done. `performance` are keys of that section that all need to know: `rank_seconds`,
    `private_network`, `threads`.

        with dptrain.ranks() as first:
            if first:
                dptrain.run("quickstart")
    """
    words = [f"performance.{key}={value}" for key, value in performance.items()]
    with launched.joined(words, os.environ) as code:
        yield code is None
    if code:
        raise DptrainError("the first rank is gone, or cannot be reached")


def plan(
    recipe: str = "quickstart",
    *overrides: str,
    model: nn.Module | None = None,
    data: Splits | None = None,
    config_dir: str | Path | None = None,
    **settings: Any,
) -> Forecast:
    """What such a run would promise, cost and be able to show, told on the console and returned.

    Takes what `run` takes; nothing is trained, and nothing written.
    """
    given = Given(model=model, splits=data)
    order = _order(recipe, ["task=plan", *overrides, *_words(settings)], config_dir, given)
    config, console = parse(order.config), Console()
    process.settle(config.performance.threads)
    forecast = forecasting.plan(config, order.recipe, console, asked=order.asked, given=given)
    console.forecast(forecast)
    return forecast


def audit(
    release: str | Path, *overrides: str, config_dir: str | Path | None = None, **settings: Any
) -> ReportView:
    """Attack a model that exists: a run folder, a run's id, `latest`, or a file of weights."""
    words = ["task=audit", f"release.source={release}", *overrides, *_words(settings)]
    order = _order("quickstart", words, config_dir)
    config = parse(order.config)
    with _new_folder(config, "audit") as folder:
        return ReportView(audit_run.run(config, order, folder, Console()))


@contextmanager
def serve(
    release: str | Path, *overrides: str, config_dir: str | Path | None = None, **settings: Any
) -> Iterator[str]:
    """Answer requests with a model that exists, from a thread of this process; yields the service's URL.

    It listens on this machine alone unless told otherwise. Keys are made by `python -m dptrain.cli.keys`.

        with dptrain.serve("latest", "serve.port=0") as url:
            ...
    """
    from dptrain.cli import serve as serving  # with what only services need

    words = ["task=serve", f"release.source={release}", *overrides, *_words(settings)]
    order = _order("quickstart", words, config_dir)
    config = parse(order.config)
    with serving.serving(config, order) as url:
        yield url


def predictor(run: str | Path) -> Predictor:
    """What answers people from a run with mechanism=private_prediction: `labels(inputs)`, `left`.

    Each other input is paid for once, on the disk before its answer is given; after the last that is paid for
    it raises OutOfQueries.
    """
    if not isinstance(run, str | Path):
        raise ConfigError(f"predictor({run!r}): give the path of a run's folder")
    return open_predictor(Path(run))


def compare(*folders: str | Path, confidence: float = CONFIDENCE) -> ComparisonView:
    """What runs in these folders say together: points that differ in more than the seed, with intervals."""
    for folder in folders:
        if not isinstance(folder, str | Path):
            raise ConfigError(f"compare({folder!r}): give the paths of folders")
    if not (isinstance(confidence, int | float) and 0.5 <= confidence < 1):
        raise ConfigError(f"confidence={confidence} must be at least 0.5 and below 1")
    found = compare_runs(
        Selection(folders=tuple(map(Path, folders))), confidence=confidence, command="dptrain.compare"
    )
    return ComparisonView(found)


def _order(
    recipe: str, words: Sequence[str], config_dir: str | Path | None, given: Given | None = None
) -> runs.Order:
    """What `python -m dptrain recipe=... words` asks for."""
    for word in (recipe, *words):
        if not isinstance(word, str):
            raise ConfigError(
                f"{word!r} is no override; give words such as 'privacy.epsilon=3', or privacy=..."
            )
    if config_dir is not None and not (isinstance(config_dir, str | Path) and Path(config_dir).is_dir()):
        raise ConfigError(
            f"config_dir={config_dir} is no folder; give one with groups such as model/mine.yaml"
        )
    register()
    refuse_read_first([] if config_dir is None else [config_dir])
    extra = [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"]
    asked = [*extra, f"recipe={recipe}", *words]
    try:
        with initialize_config_dir(str(files_of("conf")), version_base="1.3"):
            config = compose("config", overrides=asked)
    except Exception as error:
        why = redact(explained(error, asked, files_of("conf")))
        raise ConfigError(why) from None  # Hydra's own text may hold a secret
    values = plain(config, asked) | (given.nodes() if given else {})
    order = runs.without_secrets(runs.Order(recipe=recipe, overrides=tuple(words), config=values))
    applicable, left_out = without_what_does_not_apply(order.config, order.asked)
    for sentence in left_out:
        Console().note("left out", sentence)
    return replace(order, config=applicable)


@contextmanager
def _new_folder(config: Config, name: str) -> Iterator[Path]:
    """A new run folder, for this process alone; gone again if nothing was begun in it."""
    launched.refuse_one_of_several(os.environ)
    folder = runs.new_folder(Path(config.output), name)
    try:
        with runs.alone(folder):
            process.settle(config.performance.threads, processes=config.performance.processes)
            yield folder
    finally:
        runs.discard(folder)


def _words(settings: Mapping[str, Any], above: str = "") -> list[str]:
    """Nested settings as overrides: `{"privacy": {"epsilon": 3}}` is `privacy.epsilon=3`.

    >>> _words({"privacy": {"epsilon": 3, "delta": None}, "attack": ["lira"], "seed": 1})
    ['privacy.epsilon=3', 'privacy.delta=null', 'attack=[lira]', 'seed=1']
    """
    words = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            words += _words(value, f"{above}{key}.")
        else:
            words.append(f"{above}{key}={_text(value)}")
    return words


def _text(value: Any) -> str:
    """A value in Hydra's grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    return str(value)
