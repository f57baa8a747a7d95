"""Shadow models: trained as the target was, on halves of the probes, and kept for whoever asks again."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.contracts import (
    Access,
    Budget,
    Context,
    Mechanism,
    Progress,
    Ranks,
    Records,
    Release,
    Shadow,
    Splits,
)
from dptrain.evidence.held_out import train_on
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.runs.cache import Cache, content_key, fingerprint, without_privacy


@dataclass(frozen=True, kw_only=True)
class ShadowTrainer:
    """The adversary's own trainings: on every record that they know, and on half of the probes each.

    All begin with the weights that the target's training began with. Those are public in the sense that no
    guarantee hides them; from a start of its own, a network ends where it agrees less with the target than
    any record could make it.

    Models are kept in `cache`, under records, halves, initial weights, and the `recipe`: the
    configuration of every part that has a say.
    """

    mechanism: Mechanism
    plain: Mechanism  # the same training without privacy
    model: nn.Module
    known: Splits  # the training records without the probes, and without what was planted
    probes: Records
    budget: Budget
    context: Context
    recipe: Mapping[str, Any]
    cache: Cache
    show: Callable[[str], AbstractContextManager[Progress]]
    ranks: Ranks | None = None  # that train several at a time

    @property
    def records(self) -> Records:
        """The training records that the adversary knows."""
        return self.known.train

    @property
    def at_once(self) -> bool:
        """Whether a training without privacy solves one equation, so that hundreds of them take little."""
        return bool(getattr(self.plain, "at_once", False))

    def train(self, count: int, *, private: bool) -> tuple[Shadow, ...]:
        """As many shadow models as asked for, rounded up to pairs; those that are kept cost nothing."""
        asked = self._asked(count, private=private)
        missing = self._unkept(asked)
        if not missing:
            return tuple(self._shadow(members, number, key, private, None) for number, members, key in asked)
        title = f"{len(missing)} shadow models{'' if private else ', not private'}"
        with self.show(title) as progress:
            self._train_together(asked, missing, private, progress)
            return tuple(
                self._shadow(
                    members,
                    number,
                    key,
                    private,
                    _share(progress, missing.index(number), len(missing)) if number in missing else None,
                )
                for number, members, key in asked
            )

    def _train_together(
        self, asked: Sequence[tuple[int, Tensor, str]], missing: Sequence[int], private: bool, show: Progress
    ) -> None:
        """Train those that are missing, one by each process at a time, and keep their weights."""
        if self.ranks is None or Access.WEIGHTS not in self._mechanism(private).offers:
            return
        waiting = [each for each in asked if each[0] in missing]
        # Neither the cache nor whoever shows progress goes to other processes.
        train = partial(_weights_of, replace(self, ranks=None, show=_nowhere), private)
        began = time.perf_counter()
        trained = self.ranks.each(train, [(number, members) for number, members, _ in waiting])
        for done, ((_, _, key), weights) in enumerate(zip(waiting, trained, strict=True), 1):
            self.cache.get(key, partial(dict, weights), since=began)
            began = time.perf_counter()  # those of a round are done at the same time
            show(done=done, total=len(waiting), epsilon=math.inf)

    def missing(self, count: int, *, private: bool) -> list[int]:
        """The numbers of those, of as many as asked for, that are not kept."""
        return self._unkept(self._asked(count, private=private))

    def _unkept(self, asked: Iterable[tuple[int, Tensor, str]]) -> list[int]:
        return [number for number, _, key in asked if key not in self.cache]

    def _asked(self, count: int, *, private: bool) -> list[tuple[int, Tensor, str]]:
        """Number, members and key of each; to make the keys takes a look at all records."""
        return [
            (number, members, self._key(members, number, private)) for number, members in self._halves(count)
        ]

    def _halves(self, count: int) -> Iterator[tuple[int, Tensor]]:
        """Random halves of the probes, each followed by its complement."""
        for pair in range(-(-count // 2)):
            order = torch.randperm(len(self.probes), generator=self.context.streams.seeded(f"shadow/{pair}"))
            members = order < len(self.probes) // 2
            yield 2 * pair, members
            yield 2 * pair + 1, ~members

    def _shadow(
        self, members: Tensor, number: int, key: str, private: bool, progress: Progress | None
    ) -> Shadow:
        if Access.WEIGHTS not in self._mechanism(private).offers:  # what cannot be kept is trained anew
            return Shadow(release=self._train(members, number, private, progress), members=members)

        def weights_of() -> Mapping[str, Tensor]:
            weights = self._train(members, number, private, progress).weights
            assert weights is not None
            return weights

        weights = self.cache.get(key, weights_of)
        release = Release(
            architecture=lambda: copy.deepcopy(self.model),
            weights=weights,
            device=self.context.device,
            task=self.known.task,
        )
        return Shadow(release=release, members=members)

    def _train(self, members: Tensor, number: int, private: bool, progress: Progress | None) -> Release:
        half = self.probes.take(members.nonzero().squeeze(1))
        splits = replace(self.known, **train_on(self.known, half))
        # Draws of its own: the target's are secret, and a deterministic run must not repeat them.
        streams = replace(self.context.streams, seed=self.context.streams.seed + 1 + number)
        context = replace(self.context, streams=streams, progress=progress)
        release, _ = self._mechanism(private).fit(copy.deepcopy(self.model), splits, self.budget, context)
        return release

    def _mechanism(self, private: bool) -> Mechanism:
        return self.mechanism if private else self.plain

    def _key(self, members: Tensor, number: int, private: bool) -> str:
        """A hash of all that makes this model what it is."""
        private = self._mechanism(private) is not self.plain
        streams, known = self.context.streams, self.known
        values = (number, private, streams.seed, self.context.arithmetic, known.class_prior, self._records)
        values += () if known.task is None else (repr(known.task),)  # type: ignore[assignment]
        return content_key(
            "shadow",
            values,
            [members, *self.model.state_dict().values()],
            self.recipe
            if private
            else without_privacy(self.recipe, own=not isinstance(self.plain, NonPrivate)),
        )

    @cached_property
    def _records(self) -> str:
        """A hash of the records that every shadow model has in common."""
        known, probes = self.known, self.probes
        groups = [] if known.group_ids is None else [known.group_ids]
        public = known.public.hashed().hexdigest() if known.public is not None and known.public_seen else ""
        return (
            known.train.hashed().hexdigest() + public + fingerprint([probes.inputs, probes.labels, *groups])
        )


@contextmanager
def _nowhere(_: str) -> Iterator[Progress]:
    """Nobody is shown how far a training is."""

    def silent(*, done: int, total: int, epsilon: float) -> None: ...

    yield silent


def _weights_of(trainer: ShadowTrainer, private: bool, asked: tuple[int, Tensor]) -> Mapping[str, Tensor]:
    """The weights of one shadow model, trained in whichever process this is."""
    number, members = asked
    weights = trainer._train(members, number, private, None).weights
    assert weights is not None, "what offers weights has them"
    return weights


def _share(progress: Progress, done: int, total: int) -> Progress:
    """Progress through one of several trainings as progress through all of them."""

    def report(*, done: int, total: int, epsilon: float, before: int = done, all_of: int = total) -> None:
        progress(done=before * total + done, total=all_of * total, epsilon=epsilon)

    return report
