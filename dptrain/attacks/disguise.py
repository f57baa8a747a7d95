"""How an attacker who asks a service looks like people who do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dptrain.contracts import ConfigError, Queries, Release, Targets
from dptrain.contracts.ranges import NotNegative, Rate
from dptrain.contracts.trees import Inputs, by_name, count

ROUNDING = 1e-9  # of a share of a whole number


@dataclass(frozen=True, kw_only=True)
class Disguise:
    """Small random changes of what is asked, and records of one's own that are asked about in between.

    The changes keep inputs from being near-duplicates of each other; decoys have sessions look like those of
    people, and are queries like all others: the budget pays for them.
    """

    jitter: NotNegative = 0.0  # standard deviation, in widths of the bounds
    decoys: Rate = 0.0  # share of the queries

    def check(self, targets: Targets) -> None:
        """Raise ConfigError where there are no records to ask about in between."""
        if self.decoys and not len(targets.background):
            raise ConfigError(
                f"decoys={self.decoys:g} are drawn of held-out records, and there are none; hold some out, "
                "or give 0"
            )

    def ask(
        self, release: Release, targets: Targets, rng: torch.Generator, budget: int | None = None
    ) -> Disguised:
        """The prediction interface, asked so."""
        return Disguised(release.queries(budget), self, targets, rng)


class Disguised:
    """A prediction interface that is asked in disguise: every decoy is counted as spent."""

    def __init__(self, queries: Queries, disguise: Disguise, targets: Targets, rng: torch.Generator) -> None:
        self._queries, self._disguise, self._targets, self._rng = queries, disguise, targets, rng
        self._own = 0  # queries that are no decoys

    @property
    def spent(self) -> int:
        """How many inputs were asked about, decoys too."""
        return self._queries.spent

    @property
    def room(self) -> int:
        """How many inputs of its own an attack may still ask about, with a budget."""
        budget = self._queries.budget
        assert budget is not None, "there is room for any number without a budget"
        return math.floor(budget * (1 - self._disguise.decoys) + ROUNDING) - self._own

    def confidences(self, inputs: Inputs) -> Tensor:
        """Class probabilities as the interface shows them, (N, classes), on the CPU."""
        return self._asked(self._queries.confidences, inputs)

    def labels(self, inputs: Inputs) -> Tensor:
        """The class that the interface names for each input: (N,) int64, on the CPU."""
        return self._asked(self._queries.labels, inputs)

    def _asked(self, interface: Callable[[Inputs], Tensor], inputs: Inputs) -> Tensor:
        asked, share = count(inputs), self._disguise.decoys
        inputs = self._jittered(inputs)
        self._own += asked
        if not share:
            return interface(inputs)
        decoys = math.ceil(self._own / (1 - share) - ROUNDING) - self.spent - asked
        chosen = torch.randint(len(self._targets.background), (decoys,), generator=self._rng)
        others = self._targets.background.take(chosen).inputs
        order = torch.randperm(asked + decoys, generator=self._rng)  # of all, its own coming first
        answers = interface(by_name(lambda own, other: torch.cat([own, other])[order], inputs, others))
        return answers[order.argsort()[:asked]]

    def _jittered(self, inputs: Inputs) -> Inputs:
        size = self._disguise.jitter
        if not size:
            return inputs
        low, high = self._targets.bounds

        def moved(one: Tensor) -> Tensor:
            if not one.is_floating_point():
                return one
            away = torch.randn(one.shape, generator=self._rng).to(one)
            return (one + size * (high - low) * away).clamp(low, high)

        return by_name(moved, inputs)
