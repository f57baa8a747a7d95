"""From a configuration to the objects that it names, with everything that is wrong with them at once."""

from __future__ import annotations

import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from dptrain.assets import build, factory
from dptrain.config import Config, Release
from dptrain.contracts import (
    ACCESS,
    Attack,
    ConfigError,
    DataError,
    DptrainError,
    Knowledge,
    Mechanism,
    Output,
    Splits,
    Streams,
)
from dptrain.data.accepted import check_splits
from dptrain.models.normalise import Normalise
from dptrain.models.output import make_output
from dptrain.privacy.plan import Rates
from dptrain.report import pdf
from dptrain.tracking import MLflow, NoTracking
from dptrain.training.augment import Augmentation
from dptrain.training.mechanisms import NonPrivate
from dptrain.training.settings import Settings


class Source(Protocol):
    """Where records come from."""

    def load(self, rng: torch.Generator) -> Splits: ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The components of a run."""

    source: Source
    mechanism: Mechanism
    plain: Mechanism  # the same training without privacy
    twin: Mechanism | None  # `plain`; None: switched off, or the mechanism is not private itself
    attacks: dict[str, Attack]
    tracking: MLflow | NoTracking

    @property
    def needs(self) -> frozenset[Knowledge]:
        """What the attacks together must be given."""
        return frozenset().union(*(attack.needs for attack in self.attacks.values()))


def assemble(config: Config) -> Parts:
    """Build every component that needs no data; raises one ConfigError naming all that cannot be built."""
    problems: list[str] = []

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ConfigError as error:
            problems.append(str(error))
            return None

    settings = attempt(lambda: _settings(config))
    twin_settings = settings and attempt(
        lambda: replace(
            settings,
            optimizer=factory("control.optimizer", config.control.optimizer or config.optimizer),
            schedule="constant",
            warmup_steps=0,
        )
    )
    source = attempt(lambda: build("data", config.data))
    mechanism = attempt(lambda: _mechanism(config.mechanism, settings))
    tracking = attempt(lambda: build("tracking", config.tracking))
    attacks = {
        name: attempt(partial(_attack, f"attack.{name}", node)) for name, node in config.attack.items()
    }
    if mechanism is not None and config.task == "train":  # an audit leaves out what it cannot do
        problems += [
            _unoffered(name, attack, mechanism, config.mechanism["_target_"])
            for name, attack in attacks.items()
            if attack is not None and not offered(attack, mechanism)
        ]
    if config.report.pdf and (why := pdf.missing()) is not None:
        problems.append(f"report.pdf=true {why}")
    if problems:
        raise ConfigError("\n".join(problems))
    plain = NonPrivate(settings=twin_settings)
    wanted = config.control.enabled and not isinstance(mechanism, NonPrivate)
    return Parts(
        source=source,
        mechanism=mechanism,
        plain=plain,
        twin=plain if wanted else None,
        attacks=attacks,
        tracking=tracking,
    )


def load_splits(source: Source, streams: Streams) -> Splits:
    """The records of a source; raises DataError where they are not as the contract has them.

    Sources of ours have looked at each value themselves, as they read it.
    """
    kind = type(source)
    ours = kind.__module__.startswith("dptrain.data.")
    try:
        splits = source.load(streams.seeded("data"))
    except (DptrainError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        if ours:
            raise
        # Its text may quote a record: the user finds it with the place.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"data: `{kind.__module__}.{kind.__qualname__}`.load failed ({type(error).__name__} at "
            f"{Path(frame.filename).name}:{frame.lineno}); correct it, or its arguments beside data._target_"
        ) from error
    return check_splits(splits, source=f"{kind.__module__}.{kind.__qualname__}", values=not ours)


def make_model(config: Config, mechanism: Mechanism | None, splits: Splits, streams: Streams) -> nn.Module:
    """The model with its seeded initial weights, behind the normalisation that the data declare.

    It comes as the mechanism can train it (None: as it is, for nobody trains it), and has been
    tried on two blank inputs.
    """
    with torch.random.fork_rng():
        torch.manual_seed(streams.seeded("model").initial_seed())
        network = build("model", config.model, shape=splits.shape, num_classes=splits.num_classes)
    model = nn.Sequential(OrderedDict(normalise=Normalise(splits.mean, splits.std), network=network))
    try:
        with torch.no_grad():
            made = tuple(model(torch.zeros(2, *splits.shape)).shape)
    except Exception as error:
        raise ConfigError(
            f"model: `{config.model['_target_']}` cannot take inputs of shape {splits.shape} "
            f"({type(error).__name__}: {error}); choose a model for this data, or change model's arguments"
        ) from error
    if made != (2, splits.num_classes):
        raise ConfigError(
            f"model: `{config.model['_target_']}` returns shape {made} for two inputs; it must return logits "
            f"(2, {splits.num_classes}), one a class of data `{splits.name}`"
        )
    return model if mechanism is None else mechanism.prepare(model, splits)


def make_outputs(release: Release) -> tuple[Output | None, ...]:
    """The interfaces that attacks by query meet: confidences as they are, then those asked for."""
    names = dict.fromkeys([release.output, *release.compare])
    asked = [
        make_output(name, top_k=release.top_k, digits=release.digits, temperature=release.temperature)
        for name in names
        if name not in ("weights", "confidences")
    ]
    return (None, *asked)


def given_away(release: Release) -> str:
    """The name of the interface that is given away, as leakage lines call it; `weights` where all is."""
    output = make_output(
        release.output, top_k=release.top_k, digits=release.digits, temperature=release.temperature
    )
    return "weights" if output is None else output.name


def _settings(config: Config) -> Settings:
    training = config.training
    return Settings(
        rates=Rates(
            expected_batch_size=training.expected_batch_size,
            sample_rate=training.sample_rate,
            steps=training.steps,
            epochs=training.epochs,
            sampling=training.sampling,
        ),
        optimizer=factory("optimizer", config.optimizer),
        physical_batch_size=training.physical_batch_size,
        schedule=training.schedule,
        warmup_steps=training.warmup_steps,
        average_decay=training.average_decay,
        evaluations=training.evaluations,
        checkpoint_seconds=training.checkpoint_seconds,
        diagnostics=training.diagnostics,
        augmentation=Augmentation(copies=training.augmentations, shift=training.shift, flip=training.flip)
        if training.augmentations
        else None,
        feature_cache_gib=training.feature_cache_gib,
        prefetch=training.prefetch,
    )


def offered(attack: Attack, mechanism: Mechanism) -> bool:
    """Whether a mechanism shows all that an attack must see of a model and of its training."""
    return attack.needs & ACCESS <= mechanism.offers


def _unoffered(name: str, attack: Attack, mechanism: Mechanism, target: str) -> str:
    missing = _words((attack.needs & ACCESS) - mechanism.offers)
    return (
        f"attack={name} needs {missing}, which mechanism `{target}` does not offer (it offers "
        f"{_words(mechanism.offers) or 'nothing'}); leave the attack out, or choose another mechanism"
    )


def _words(knowledge: frozenset[Knowledge]) -> str:
    return ", ".join(sorted(each.value for each in knowledge))


def _mechanism(node: dict[str, Any], settings: Settings | None) -> Mechanism:
    mechanism: Mechanism = build("mechanism", node, settings=settings)
    offers = getattr(mechanism, "offers", None)
    if not isinstance(offers, frozenset) or not offers <= ACCESS:
        raise ConfigError(
            f"mechanism: `{node['_target_']}` does not say what it offers to attacks; give it "
            "`offers: ClassVar = frozenset({Knowledge.WEIGHTS, Knowledge.CONFIDENCES, Knowledge.LABELS})`, "
            "and Knowledge.TRANSCRIPT where it shows its steps to the observers (see "
            "dptrain.contracts.Mechanism)"
        )
    return mechanism


def _attack(key: str, node: dict[str, Any]) -> Attack:
    try:
        attack: Attack = build(key, node)
    except ConfigError as error:
        # An attack does not know what it is called here.
        raise ConfigError(str(error) if str(error).startswith(key) else f"{key}.{error}") from error
    known = set(Knowledge)
    if not isinstance(getattr(attack, "needs", None), frozenset) or not attack.needs <= known:
        raise ConfigError(
            f"{key}: `{node['_target_']}` does not say what it needs; give it "
            "`needs: ClassVar = frozenset({Knowledge.WEIGHTS})`, or others of dptrain.contracts.Knowledge"
        )
    if Knowledge.TRANSCRIPT in attack.needs and not hasattr(attack, "watch"):
        raise ConfigError(
            f"{key}: `{node['_target_']}` needs the transcript but has no `watch(targets)`; add it, "
            "it returns the Observer that looks on while the model trains"
        )
    return attack
