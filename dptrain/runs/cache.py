"""What is computed once and kept: named by a hash of all that made it, whole, safe between processes."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from dptrain.installed import library_versions
from dptrain.runs.keyed import keyed
from dptrain.runs.saved import saved
from dptrain.storage import write_bytes

# What a training without privacy does not read of the configuration: a sweep over these shares its results.
PRIVATE_ONLY = {
    "mechanism": None,
    "privacy": ("epsilon", "advantage", "tpr_at_fpr", "noise_multiplier", "delta", "tuned_on"),
}

KINDS = ("twin", "evaluator", "shadow")


@dataclass(frozen=True)
class Cache:
    """A folder of results. They were made from the records, so each is readable by its owner only.

    A result's name is a hash of its key, which tells of records, under a secret of the folder. `seconds`
    is how long making results of each kind took this run on the clock, be it by several processes at a time;
    what is found costs nothing.
    """

    folder: Path
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))

    def __contains__(self, key: str) -> bool:
        return self.folder.exists() and self._path(key).exists()  # to look writes nothing

    def get(
        self,
        key: str,
        make: Callable[[], Mapping[str, Any]],
        *,
        keep: Callable[[], bool] = lambda: True,
        since: float | None = None,
    ) -> Mapping[str, Any]:
        """What is kept under this key; if nothing is, what `make` returns, which is kept if `keep` says so.

        Tensors, numbers, texts, and dictionaries and tuples of them. A second process that asks for the same
        waits for the first, and takes what that one made. `since` is when, by `time.perf_counter`, making it
        began, where that was before `make` is called.
        """
        path = self._path(key)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                started = time.perf_counter() if since is None else since
                made = make()
                if not keep():
                    return made
                write_bytes(saved(made), path, private=True)
                self.seconds[key.partition("_")[0]] += time.perf_counter() - started
            return torch.load(path, weights_only=True)

    def folder_of(self, key: str) -> Path:
        """The folder for what is kept in parts under this key, which need not be there."""
        return self._path(key).with_suffix("")

    def _path(self, key: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{key.partition('_')[0]}_{keyed(self.folder, key)}.pt"


def content_key(
    kind: str, values: Iterable[Any], tensors: Iterable[Tensor], recipe: Mapping[str, Any]
) -> str:
    """A name for what comes of these values and tensors, this configuration, these libraries, this source.

    `recipe` is the configuration of every part that has a say, by section. The source is that of
    the package and of the modules that the configuration names.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([*values, recipe, library_versions()], sort_keys=True, default=str).encode())
    digest.update(sources(recipe).encode())
    digest.update(fingerprint(tensors).encode())
    return f"{kind}_{digest.hexdigest()[:40]}"


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """A hash of these tensors, in this order, with their shapes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def without_privacy(recipe: Mapping[str, Any], *, own: bool = False) -> dict[str, Any]:
    """The configuration as far as a training without privacy reads it; of a mechanism's `own` also its."""
    kept: dict[str, Any] = {}
    for section, node in recipe.items():
        dropped = () if own and section == "mechanism" else PRIVATE_ONLY.get(section, ())
        if dropped is not None:
            kept[section] = {key: node[key] for key in node if key not in dropped} if dropped else node
    return kept


def sources(recipe: Mapping[str, Any]) -> str:
    """A hash of the package's source and of every other module that the configuration names."""
    named = {target for target in _targets(recipe) if not target.startswith(("dptrain.", "torch."))}
    return _hash_of_files(set().union(*map(_source_of, named))) + _package_source()


@cache  # what runs stays what it was when it was loaded
def _package_source() -> str:
    package = Path(__file__).resolve().parents[1]
    return _hash_of_files({path for path in package.rglob("*.py") if "_assets" not in path.parts})


def _hash_of_files(paths: set[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _targets(node: Any) -> Iterable[str]:
    """Every `_target_` in a configuration, however deep."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                yield str(value)
            else:
                yield from _targets(value)


def _source_of(target: str) -> set[Path]:
    """The file of a class; none of one that was typed into an interpreter."""
    module = importlib.import_module(target.rpartition(".")[0])
    file = getattr(module, "__file__", None)
    return set() if file is None else {Path(inspect.getsourcefile(module) or file)}
