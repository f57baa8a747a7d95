"""From a configuration to the objects that it names, with everything that is wrong with them at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dptrain.assembly.build import build, factory
from dptrain.assembly.given import Given
from dptrain.assembly.network import check_network
from dptrain.assembly.records import Source
from dptrain.config import Config, Evidence
from dptrain.contracts import Access, Attack, ConfigError, Game, Mechanism, Regulariser, devices
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.privacy.plan import Rates
from dptrain.report import pdf
from dptrain.tracking import Tracking
from dptrain.training.augment import Augmentation
from dptrain.training.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The components of a run."""

    source: Source
    mechanism: Mechanism
    plain: Mechanism  # the same training without privacy: the mechanism's own `control`, or NonPrivate
    control: Mechanism | None  # `plain`; None: switched off, or the mechanism is not private itself
    attacks: dict[str, Attack]
    games: dict[str, Game]
    tracking: Tracking
    network: Callable[[], nn.Module] | None = None  # that was handed over; None: the configuration names one

    @property
    def played(self) -> dict[str, Game]:
        """The games that the attacks play."""
        names = {attack.game for attack in self.attacks.values()}
        return {name: game for name, game in self.games.items() if name in names}


def assemble(config: Config, given: Given | None = None) -> Parts:
    """Build every component that needs no data; raises one ConfigError naming all that cannot be built.

    What is `given` takes the place of what the configuration names.
    """
    problems: list[str] = []

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ConfigError as error:
            problems.append(str(error))
            return None

    settings = attempt(lambda: _settings(config))
    control_settings = settings and attempt(
        lambda: replace(
            settings,
            optimizer=_optimizer("control.optimizer", config.control.optimizer, devices.named(config.device))
            if config.control.optimizer
            else settings.optimizer,
            schedule="constant",
            warmup_steps=0,
        )
    )
    source: Any = given
    if given is None or given.splits is None:
        source = attempt(lambda: build("data", config.data))
    if given is None or given.model is None:
        attempt(lambda: check_network(config.model))
    mechanism: Any = None
    if settings is not None:
        mechanism = attempt(lambda: _mechanism(config.mechanism, settings))
    else:  # nothing can be made of it, but what is wrong with its arguments is said as well
        attempt(lambda: factory("mechanism", config.mechanism, given=("settings",)))
    tracking = attempt(lambda: build("tracking", config.tracking))
    games = {
        name: attempt(partial(_game, f"game.{name}", node, config.evidence))
        for name, node in config.game.items()
    }
    attacks = {
        name: attempt(partial(_attack, f"attack.{name}", node, tuple(games)))
        for name, node in config.attack.items()
    }
    if mechanism is not None and config.task in ("train", "plan"):  # an audit leaves out what it cannot do
        problems += _unoffered(mechanism, attacks, config).values()
    if config.report.pdf and (why := pdf.missing()) is not None:
        problems.append(f"report.pdf=true {why}")
    if problems:
        raise ConfigError("\n".join(problems))
    own = getattr(mechanism, "control", None)
    plain = NonPrivate(settings=control_settings) if own is None else own(control_settings)
    wanted = config.control.enabled and not isinstance(mechanism, NonPrivate)
    return Parts(
        source=source,
        network=given.network if given is not None and given.model is not None else None,
        mechanism=mechanism,
        plain=plain,
        control=plain if wanted else None,
        attacks=attacks,
        games=games,
        tracking=tracking,
    )


def _settings(config: Config) -> Settings:
    training, performance = config.training, config.performance
    return Settings(
        rates=Rates(
            expected_batch_size=training.expected_batch_size,
            sample_rate=training.sample_rate,
            steps=training.steps,
            epochs=training.epochs,
            sampling=training.sampling,
        ),
        optimizer=_optimizer("optimizer", config.optimizer, devices.named(config.device)),
        physical_batch_size=performance.physical_batch_size,
        schedule=training.schedule,
        warmup_steps=training.warmup_steps,
        average_decay=training.average_decay,
        evaluations=training.evaluations,
        checkpoint_seconds=performance.checkpoint_seconds,
        diagnostics=training.diagnostics,
        augmentation=Augmentation(copies=training.augmentations, shift=training.shift, flip=training.flip)
        if training.augmentations
        else None,
        feature_cache_gib=performance.feature_cache_gib,
        prefetch=performance.prefetch,
        early_stopping=training.early_stopping,
        regularisers={
            name: _regulariser(f"regulariser.{name}", each) for name, each in config.regulariser.items()
        },
    )


def _regulariser(key: str, node: dict[str, Any]) -> Regulariser:
    made: Regulariser = build(key, node)
    if not isinstance(made, Regulariser):
        raise ConfigError(
            f"{key}: `{node['_target_']}` is no regulariser; derive it from dptrain.contracts.Regulariser, "
            "and give it `of_record`, or `of_batch` where it mixes records"
        )
    return made


def _optimizer(key: str, node: dict[str, Any], device: torch.device) -> Callable[..., Optimizer]:
    """The optimizer, waiting for its parameters, once it has taken a step on made-up ones."""
    parameters = [nn.Parameter(torch.zeros(shape, device=device)) for shape in ((2,), (2, 2))]
    for each in parameters:
        each.grad = torch.zeros_like(each)
    with torch.random.fork_rng(devices=[]):
        tried = build(key, node, params=parameters)
        if not isinstance(tried, Optimizer):
            raise ConfigError(
                f"{key}._target_={node['_target_']} is no optimizer; name a class derived from "
                "torch.optim.Optimizer"
            )
        closure = inspect.signature(tried.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise ConfigError(
                f"{key}._target_={node['_target_']} computes gradients anew within a step, which nothing "
                "accounts for; use one that takes them as they are, such as torch.optim.SGD"
            )
        try:
            tried.step()
        except Exception as error:
            raise ConfigError(
                f"{key}: `{node['_target_']}` cannot take a step with ordinary parameters "
                f"({type(error).__name__}: {error}); change its arguments, or use torch.optim.SGD"
            ) from error
    return factory(key, node, given={"params"})


def offered(attack: Attack, mechanism: Mechanism) -> bool:
    """Whether a mechanism shows all that an attack must see of a model and of its training."""
    return attack.needs <= mechanism.offers


def unoffered(config: Config) -> dict[str, str]:
    """The attacks that need more than the mechanism offers, and why; raises ConfigError."""
    mechanism = _mechanism(config.mechanism, _settings(config))
    games = tuple(config.game)
    attacks = {name: _attack(f"attack.{name}", node, games) for name, node in config.attack.items()}
    return _unoffered(mechanism, attacks, config)


def _unoffered(mechanism: Mechanism, attacks: Mapping[str, Attack | None], config: Config) -> dict[str, str]:
    target, said = config.mechanism["_target_"], {}
    for name, attack in attacks.items():
        if attack is None or offered(attack, mechanism):
            continue
        missing = attack.needs - mechanism.offers
        withheld = getattr(mechanism, "withheld", {})
        why = "".join(f": {withheld[each]}" for each in Access if each in missing and each in withheld)
        said[name] = (
            f"attack={name} needs {_words(missing)}, which mechanism `{target}` does not offer "
            f"(it offers {_words(mechanism.offers) or 'nothing'}){why}; leave the attack out, or choose "
            "another mechanism"
        )
    return said


def _words(access: frozenset[Access]) -> str:
    return ", ".join(sorted(each.value for each in access))


def _mechanism(node: dict[str, Any], settings: Settings | None) -> Mechanism:
    mechanism: Mechanism = build("mechanism", node, settings=settings)
    offers = getattr(mechanism, "offers", None)
    if not isinstance(offers, frozenset) or not offers <= set(Access):
        raise ConfigError(
            f"mechanism: `{node['_target_']}` does not say what it offers to attacks; give it "
            "`offers: ClassVar = frozenset({Access.WEIGHTS, Access.CONFIDENCES, Access.LABELS})`, "
            "and Access.TRANSCRIPT where it shows its steps to the observers (see "
            "dptrain.contracts.Mechanism)"
        )
    return mechanism


def _game(key: str, node: dict[str, Any], evidence: Evidence) -> Game:
    game: Game = build(key, node, evidence=evidence)
    if not isinstance(game, Game):
        raise ConfigError(
            f"{key}: `{node['_target_']}` is no game; derive it from dptrain.contracts.Game, and give it "
            "`score`"
        )
    return game


def _attack(key: str, node: dict[str, Any], games: tuple[str, ...]) -> Attack:
    try:
        attack: Attack = build(key, node)
    except ConfigError as error:
        # An attack does not know what it is called here.
        raise ConfigError(str(error) if str(error).startswith(key) else f"{key}.{error}") from error
    if not isinstance(getattr(attack, "needs", None), frozenset) or not attack.needs <= set(Access):
        raise ConfigError(
            f"{key}: `{node['_target_']}` does not say what it needs; give it "
            "`needs: ClassVar = frozenset({Access.WEIGHTS})`, or others of dptrain.contracts.Access"
        )
    if getattr(attack, "game", None) not in games:
        raise ConfigError(
            f"{key}: `{node['_target_']}` has game={getattr(attack, 'game', None)}, which is no game of this "
            f"configuration; give it `game: ClassVar = NAME`, one of {', '.join(games) or 'none'}, or add "
            "yours by +game=NAME"
        )
    if Access.TRANSCRIPT in attack.needs and not hasattr(attack, "watch"):
        raise ConfigError(
            f"{key}: `{node['_target_']}` needs the transcript but has no `watch(targets)`; add it, "
            "it returns the Observer that looks on while the model trains"
        )
    return attack
