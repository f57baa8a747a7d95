"""What does each class look like? Asked of a prediction interface that names classes only."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dptrain.attacks.disguise import Disguised
from dptrain.attacks.inversion_by_queries import InversionByQueries
from dptrain.attacks.search_space import SearchSpace, Trail
from dptrain.contracts import Access, Images, OutOfQueries, Release, Targets
from dptrain.contracts.ranges import Count, NotNegative, Positive, Share

CHUNK = 256  # random inputs asked about at once, in search of each class
SIZES = (0.05, 2.0)  # of the random inputs, in standard deviations of the space
SMALLEST = 0.05  # radius of a sphere, in typical lengths of the space


@dataclass(frozen=True, kw_only=True)
class LabelInversion(InversionByQueries):
    """Move away from the borders of each class, by the names of classes alone.

    Boundary repulsion (Kahla et al. 2022, "Label-only model inversion attacks via boundary
    repulsion", section 3), among low frequencies in place of a generator's latent space: points on a
    sphere around an input of the class are asked about, the input moves away from those named
    otherwise, and the sphere grows once all are named alike. Inputs to start from are drawn
    around the declared mean and those found already, at every size; a class that no draw was named as
    stays the mean.
    """

    keep: Count = 2  # of each class, each from a start of its own where as many were found
    search: Share = 0.2  # at most, share of the queries spent on finding an input of each class
    points: Count = 16  # on each sphere
    radius: Positive = 0.2  # at the start, in typical lengths of the space
    growth: Positive = 1.1  # of the radius once all points are named alike
    step: Positive = 0.25  # in radii
    longest: Positive = 1.0  # of coordinates, in typical lengths of the space
    decay: NotNegative = 1.0  # of the strength of frequencies

    needs: ClassVar[frozenset[Access]] = frozenset({Access.LABELS})

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Images:
        """Invert every class: `keep` inputs a class, the largest sphere first, in bounds, on the CPU."""
        space = self.space(targets)
        interface, trail = self.ask(release, targets, rng, self.queries), Trail(self.queries)
        labels = torch.arange(len(targets.classes)).repeat_interleave(self.keep)
        start, found = self._search(interface, space, labels, trail, rng)
        inputs = self._repel(interface, space, start, found, labels, trail, rng)
        return Images(inputs=inputs, labels=labels, trail=trail.end(interface.spent, inputs))

    def _search(
        self, interface: Disguised, space: SearchSpace, labels: Tensor, trail: Trail, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Coordinates (n, size) named as each label, zeros where none were found; which were found (n,)."""
        at, found = torch.zeros(len(labels), space.size), torch.zeros(len(labels), dtype=torch.bool)
        end = int(self.search * self.queries)
        low, high = SIZES
        with suppress(OutOfQueries):
            while not found.all() and (count := min(CHUNK, end - interface.spent, interface.room)) > 0:
                size = low * (high / low) ** torch.rand(count, 1, generator=rng)
                around = at[torch.randint(len(at), (count,), generator=rng)]
                drawn = around + size * torch.randn(count, space.size, generator=rng)
                named = interface.labels(space.inputs(drawn))
                for place in (~found).nonzero().flatten().tolist():
                    hits = (named == labels[place]).nonzero().flatten()
                    if len(hits):
                        at[place], found[place] = drawn[hits[0]], True
                        named[hits[0]] = -1  # the next start of this class is another one
                if trail.due(interface.spent):
                    trail.keep(interface.spent, space.inputs(at))
        return at, found

    def _repel(
        self,
        interface: Disguised,
        space: SearchSpace,
        at: Tensor,
        found: Tensor,
        labels: Tensor,
        trail: Trail,
        rng: torch.Generator,
    ) -> Tensor:
        """Inputs (n, ...) moved into their classes, those with the larger spheres first within a class."""
        length = math.sqrt(space.size)
        radius = torch.full((len(labels),), self.radius)
        live = found.nonzero().flatten()
        at = at.clone()

        def ordered() -> Tensor:
            best = radius.where(found, 0.0).view(-1, self.keep).argsort(dim=1, descending=True)
            return space.inputs(at[(best + torch.arange(0, len(labels), self.keep)[:, None]).flatten()])

        with suppress(OutOfQueries):
            while len(live) and (points := min(self.points, interface.room // len(live))) > 1:
                away = torch.randn(len(live), points, space.size, generator=rng)
                away = away / away.norm(dim=2, keepdim=True)
                asked = at[live, None] + length * radius[live, None, None] * away
                named = interface.labels(space.inputs(asked.flatten(0, 1))).view(len(live), points)
                same = named == labels[live, None]
                # Directions relative to their mean name a way even where nearly all points are named
                # otherwise.
                weights = same.float() - same.float().mean(1, keepdim=True)
                push = torch.einsum("np,nps->ns", weights, away)
                push = push / push.norm(dim=1, keepdim=True).clamp(min=1e-9)
                moved = at[live] + self.step * length * radius[live, None] * push
                at[live] = moved * (self.longest * length / moved.norm(dim=1, keepdim=True)).clamp(max=1.0)
                share = same.float().mean(1)
                radius[live] *= torch.where(
                    share == 1, self.growth, torch.where(share < 0.5, 1 / self.growth, 1.0)
                )
                radius.clamp_(SMALLEST, 1.0)
                if trail.due(interface.spent):
                    trail.keep(interface.spent, ordered())
        return ordered()
