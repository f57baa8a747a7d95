"""What inversions of classes by queries share: a budget, where they search, and what they need to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dptrain.attacks.disguise import Disguise
from dptrain.attacks.search_space import SearchSpace
from dptrain.attacks.trials import shortened
from dptrain.contracts import ConfigError, Part, Release, Targets
from dptrain.contracts.ranges import Count, NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class InversionByQueries(Disguise):
    """A search for an input of each class, within a budget of queries.

    No record is looked at unless it is asked for (`in_range`, `decoys`): all success is the model's. Where
    the interface answers no more, the attack ends with what it has.
    """

    queries: Count = 30000  # in all
    frequencies: Count = 12  # along each side of an image
    decay: NotNegative = 0.5  # of their strength
    contrast: Positive = 1.0  # standard deviation of a pixel before it is cut, in widths of the bounds
    in_range: bool = False  # search among the directions in which the adversary's own records differ

    game: ClassVar[str] = "class_inversion"

    def check(self, targets: Targets) -> None:
        """Raise ConfigError where the adversary has no records to take directions or decoys from."""
        super().check(targets)
        own = targets.background
        if self.in_range and (len(own) < 2 or not isinstance(own.inputs, Tensor)):
            raise ConfigError(
                "in_range=true searches among the directions in which held-out records differ, and there are "
                "fewer than two; hold some out, or give false"
            )

    def trial(self, release: Release, targets: Targets, rng: torch.Generator) -> Part:
        return shortened(self, "queries", release=release, targets=targets, rng=rng)

    def space(self, targets: Targets) -> SearchSpace:
        """Where it searches."""
        return SearchSpace(
            targets=targets,
            frequencies=self.frequencies,
            decay=self.decay,
            contrast=self.contrast,
            in_range=self.in_range,
        )
