"""Hydra: where its files are, what it is told, and its callbacks before and after a sweep."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from dptrain.cli import explain, launched, process, start
from dptrain.cli.files import folder, read_first
from dptrain.config import defaults
from dptrain.redaction import withheld
from dptrain.storage import unwritable

if TYPE_CHECKING:
    from dptrain.runs.folder import Order


# Here and not in register(), because worker processes of a launcher import this module alone.
OmegaConf.register_new_resolver(
    "sweep_folder", lambda fresh, resumed: resumed or fresh, replace=True, use_cache=True
)


def _trials(folder: str) -> str:
    from dptrain.sweep.selection import trials  # which imports much

    return trials.trials(folder)


OmegaConf.register_new_resolver("private_trials", _trials, replace=True)


def _ending_the_sweep(callback: Callable[..., None]) -> Callable[..., None]:
    """A callback whose failure ends the sweep: Hydra would make a warning of it, and exit with 0."""

    def called(self: Callback, config: DictConfig, **others: Any) -> None:
        try:
            callback(self, config, **others)
        except Exception as error:
            if isinstance(error, OSError) and (why := unwritable(error)) is not None:
                start.refuse(f"{why}; free space there, make it writable, or set output to another folder")
            from dptrain.contracts import DptrainError  # which imports PyTorch

            if isinstance(error, DptrainError):
                start.refuse(str(error))
            traceback.print_exc()
            sys.exit(1)

    return called


class SweepStart(Callback):
    """Hydra's callback for what must be settled before any job of a sweep begins."""

    folder: ClassVar[Path | None] = None  # of the sweep under way in this process, to say how it goes on

    @_ending_the_sweep
    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        from dptrain.cli import multirun
        from dptrain.sweep import state as sweeps  # which know what follows, and import much

        _withhold(config)
        # As they were written: the number of trials, which one of them may ask for, is not drawn yet.
        written: Any = OmegaConf.to_container(config.hydra)
        params = (written.get("sweeper") or {}).get("params") or {}
        start.refuse_renamed(f"{key}={value}" for key, value in params.items())
        process.threads_each(config.hydra.launcher, config.performance.processes)
        multirun.refuse_no_sweep(OmegaConf.select(config, "sweep.resume"))
        if config.sweep.candidates:
            multirun.begin_selection(
                Path(config.hydra.sweep.dir),
                plain(_asked(config)),
                swept=_swept(config.hydra.overrides.task),
                sweeper=config.hydra.runtime.choices["hydra/sweeper"],
            )
        elif config.hydra.runtime.choices["hydra/sweeper"] != "basic":
            direction = OmegaConf.select(config, "hydra.sweeper.direction")
            multirun.begin_search(
                Path(config.hydra.sweep.dir), config.sweep, getattr(direction, "name", direction)
            )
        else:
            with suppress(HydraException, ValueError):  # which the sweeper, asked next, explains by itself
                if not (asked := _jobs(config.hydra)):
                    start.refuse("-m: one of the words gives no value to sweep over; give some")
                sweeps.expect(Path(config.hydra.sweep.dir), asked)
        SweepStart.folder = Path(config.hydra.sweep.dir)  # now that there is something to go on with


def _withhold(config: DictConfig) -> None:
    """Take secrets out of what Hydra is about to write down as the configuration of a sweep, in place."""
    raw = OmegaConf.to_container(_asked(config))
    before, after = dict(_leaves(raw)), dict(_leaves(withheld(raw)))
    with read_write(config), open_dict(config):
        for key in (key for key in before if before[key] != after[key]):
            OmegaConf.update(config, key, after[key])


def _asked(config: DictConfig) -> DictConfig:
    """The configuration without Hydra's own part."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The texts of nested mappings and lists, by dotted key."""
    if isinstance(node, dict):
        for name, item in node.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for place, item in enumerate(node):
            yield from _leaves(item, f"{key}.{place}")
    elif isinstance(node, str):
        yield key, node


def _swept(overrides: Iterable[str]) -> tuple[str, ...]:
    """Those overrides that give several values, or say which trials there are."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    named = (each for each in parsed if each.is_sweep_override() or each.key_or_group == "sweep.trial")
    return tuple(each.input_line or each.key_or_group for each in named)


def _jobs(hydra: DictConfig) -> list[list[str]]:
    """The overrides of each job that Hydra's own sweeper is about to run."""
    words = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides([*words, *hydra.overrides.task]), None)
    return jobs


class SweepEnd(Callback):
    """Hydra's callback for what is left to do when every job of a sweep is done."""

    @_ending_the_sweep
    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        from dptrain.cli import multirun  # which knows what follows, and imports much

        multirun.conclude(Path(config.hydra.sweep.dir), plain(config.tracking))


def register() -> None:
    """Tell Hydra the defaults and the recipes."""
    store = ConfigStore.instance()
    if {"--help", "-h"} & set(sys.argv[1:]):
        # Hydra copies the whole store for each group that its help lists, which takes four seconds.
        store.__deepcopy__ = lambda _: store  # type: ignore[attr-defined]
    store.store(name="defaults", node=defaults())
    for path in sorted(folder("recipes").glob("*.yaml")):
        store.store(group="recipe", name=path.stem, package="_global_", node=OmegaConf.load(path))


def order(config: DictConfig) -> tuple[Order, Path | None]:
    """What Hydra was asked for, and the folder of the sweep that it is part of, if any."""
    from dptrain.contracts import ConfigError  # with PyTorch, for which `--cfg job` does not wait
    from dptrain.runs.folder import Order

    asked = HydraConfig.get()
    sweeping = asked.mode == RunMode.MULTIRUN
    try:
        refuse_read_first(each.path for each in asked.runtime.config_sources if each.schema == "file")
        values = plain(config, asked.overrides.task, complete=config.task != "schema")
    except ConfigError as error:
        start.refuse(str(error))
    if sweeping and values["performance"]["threads"] is None:
        # What submitit asks a scheduler for, and what nothing holds its local jobs to.
        processes = values["performance"]["processes"]
        values["performance"]["threads"] = process.threads_each(asked.launcher, processes)
    return (
        Order(
            recipe=asked.runtime.choices["recipe"],
            overrides=tuple(asked.overrides.task),
            config=values,
            sweep=sweeping,
            started_by=launched.job(os.environ),
        ),
        Path(asked.sweep.dir) if sweeping else None,
    )


def refuse_read_first(folders: Iterable[str | Path]) -> None:
    """Raises ConfigError where a folder has a file that would be taken for used and is not."""
    from dptrain.contracts import ConfigError  # as above

    for each in folders:
        if names := read_first(Path(each)):
            raise ConfigError(
                f"{Path(each) / names[0]} is never read: dptrain has a {names[0]} of its own, which is found "
                "first; give yours another name"
            )


def plain(config: DictConfig, words: Sequence[str] = (), *, complete: bool = True) -> dict[str, Any]:
    """The values that these words ask for; `~` at the start of one is the home folder.

    Raises ConfigError where it must be `complete` and has gaps, or refers to what is not there.
    """
    from dptrain.contracts import ConfigError  # as above

    try:
        missing = sorted({re.sub(r"(\[\d+\])+$", "", key) for key in OmegaConf.missing_keys(config)})
        values = _at_home(OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(explain.explained(error, words, folder("conf"))) from error
    if complete and missing:
        raise ConfigError("\n".join(f"{key}=??? must be given; add {key}=..." for key in missing))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _at_home(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _at_home(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_at_home(value) for value in node]
    return f"{Path.home()}{node[1:]}" if isinstance(node, str) and node.startswith("~/") else node
