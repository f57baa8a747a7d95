"""Shadow models: trained as the target was, on halves of the probes, kept by a hash of all that made them."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dptrain
from dptrain.attack_stage import reinitialise
from dptrain.contracts import Budget, Context, Mechanism, Progress, Records, Release, Shadow, Splits, Streams
from dptrain.privacy.guarantee import library_versions

# What a training without privacy does not read: a sweep over these shares its shadow models.
PRIVATE_ONLY = {"mechanism": None, "privacy": ("epsilon", "noise_multiplier", "delta")}


@dataclass(frozen=True, kw_only=True)
class ShadowTrainer:
    """The adversary's own trainings: on every record but the probes, and on half of the probes each.

    Models are kept in `folder` under a hash of what made them: records, halves, initial weights,
    the `recipe` (the configuration of every part that has a say), library versions, and the
    source of the package and of the modules that the configuration names. A change of any of these is
    another name.
    """

    mechanism: Mechanism
    plain: Mechanism  # the same training without privacy
    model: nn.Module
    known: Splits  # the training records without the probes
    probes: Records
    budget: Budget
    context: Context
    recipe: Mapping[str, Any]
    folder: Path
    show: Callable[[str], AbstractContextManager[Progress]]

    def train(self, count: int, *, private: bool) -> tuple[Shadow, ...]:
        """As many shadow models as asked for, rounded up to pairs; those that are kept cost nothing."""
        halves = list(self._halves(count))
        name = "shadow models" if private else "shadow models, not private"
        paths = [self.folder / f"{self._key(members, number, private)}.pt" for number, members in halves]
        missing = sum(not path.exists() for path in paths)
        if missing:
            with self.show(f"{missing} {name}") as progress:
                done = 0
                for (number, members), path in zip(halves, paths, strict=True):
                    if not path.exists():
                        done += 1
                        _keep(self._train(members, number, private, _share(progress, done, missing)), path)
        return tuple(
            Shadow(release=self._release(path), members=members)
            for (_, members), path in zip(halves, paths, strict=True)
        )

    def _halves(self, count: int) -> Iterator[tuple[int, Tensor]]:
        """Random halves of the probes, each followed by its complement."""
        for pair in range(-(-count // 2)):
            order = torch.randperm(len(self.probes), generator=self.context.streams.seeded(f"shadow/{pair}"))
            members = order < len(self.probes) // 2
            yield 2 * pair, members
            yield 2 * pair + 1, ~members

    def _initial(self, number: int) -> nn.Module:
        """The target's architecture with the weights that this shadow starts from."""
        seed = self.context.streams.seeded(f"shadow weights/{number}").initial_seed()
        return reinitialise(copy.deepcopy(self.model), seed)

    def _train(self, members: Tensor, number: int, private: bool, progress: Progress) -> Mapping[str, Tensor]:
        half = self.probes.take(members.nonzero().squeeze(1))
        groups = self.known.group_ids
        if groups is not None:
            groups = torch.cat([groups, groups.max() + 1 + torch.arange(len(half))])
        splits = replace(self.known, train=self.known.train.and_more(half), group_ids=groups)
        # Draws of its own: the target's are secret, and a deterministic run must not repeat them.
        streams = Streams(self.context.streams.seed + 1 + number, self.context.streams.deterministic)
        context = replace(self.context, streams=streams, progress=progress)
        release, _ = self._mechanism(private).fit(self._initial(number), splits, self.budget, context)
        return release.weights

    def _mechanism(self, private: bool) -> Mechanism:
        return self.mechanism if private else self.plain

    def _release(self, path: Path) -> Release:
        return Release(
            architecture=lambda: copy.deepcopy(self.model),
            weights=torch.load(path, weights_only=True),
            device=self.context.device,
        )

    def _key(self, members: Tensor, number: int, private: bool) -> str:
        """A hash of all that makes this model what it is."""
        digest = hashlib.sha256()
        private = self._mechanism(private) is not self.plain
        recipe = dict(self.recipe) if private else _without_privacy(self.recipe)
        context = self.context
        told = (recipe, number, private, context.streams.seed, str(context.dtype), self.known.class_prior)
        digest.update(json.dumps([*told, library_versions()], sort_keys=True, default=str).encode())
        digest.update(_sources(self.recipe).encode())
        train, probes = self.known.train, self.probes
        initial = self._initial(number).state_dict().values()
        groups = [] if self.known.group_ids is None else [self.known.group_ids]
        for tensor in (train.inputs, train.labels, probes.inputs, probes.labels, members, *groups, *initial):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:40]


def _without_privacy(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as far as a training without privacy reads it."""
    kept: dict[str, Any] = {}
    for section, node in recipe.items():
        dropped = PRIVATE_ONLY.get(section, ())
        if dropped is not None:
            kept[section] = {key: node[key] for key in node if key not in dropped} if dropped else node
    return kept


def _share(progress: Progress, done: int, total: int) -> Progress:
    """Progress through one of several trainings as progress through all of them."""

    def report(*, done: int, total: int, epsilon: float, before: int = done - 1, all_of: int = total) -> None:
        progress(done=before * total + done, total=all_of * total, epsilon=epsilon)

    return report


def _keep(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write the weights whole or not at all, for their owner's eyes only: they were made from the records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        torch.save(dict(weights), file)
    draft.replace(path)


def _sources(recipe: Mapping[str, Any]) -> str:
    """A hash of the package's source and of every other module that the configuration names."""
    files = {path for path in Path(dptrain.__file__).parent.rglob("*.py") if "_assets" not in path.parts}
    for node in recipe.values():
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if target and not target.startswith(("dptrain.", "torch.")):
            files.add(_source_of(target))
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _source_of(target: str) -> Path:
    module = __import__(target.rpartition(".")[0], fromlist=["_"])
    return Path(inspect.getsourcefile(module) or module.__name__)
