"""What does each class look like? Asked of a prediction interface that shows confidences."""

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
from dptrain.contracts import Access, ConfigError, Images, OutOfQueries, Release, Targets
from dptrain.contracts.ranges import Count, NotNegative, Positive, Share

FLOOR = 1e-6  # confidences below it say no more: rounded, cut off, or saturated
CHUNK = 128  # queries of the opening asked at once
WIDENED, WIDEST, NARROWEST = (
    1.2,
    2.0,
    0.05,
)  # the radius while answers stay equal: by this factor, in a circle


@dataclass(frozen=True, kw_only=True)
class QueryInversion(InversionByQueries):
    """Climb each class's margin by queries alone, from the declared mean to an input.

    Gradients are estimated from antithetic pairs of random inputs (natural evolution strategies;
    Ilyas et al. 2018, "Black-box adversarial attacks with limited queries and information") among
    low frequencies, which with the norm prior stand in for the smoothing that an attack on the weights
    needs. In the opening all classes start from the mean, so that every query serves all of
    them. What follows is Adam, a few pairs a step, each restart on its own. Where answers do not
    change (saturated, rounded, labels only), the pairs move apart until they do.
    """

    restarts: Count = 2  # of each class
    keep: int = 2  # of each class, the most stable
    opening: Share = 0.05  # share of the queries that serve all classes together
    jump: NotNegative = 0.8  # how far the opening leads, in typical lengths of the space
    pairs: Count = 4  # of each gradient
    radius: Positive = 0.5  # of a pair, in standard deviations of the space
    learning_rate: Positive = 0.2
    norm: NotNegative = 0.02  # weight of half the squared coordinates

    needs: ClassVar[frozenset[Access]] = frozenset({Access.CONFIDENCES})

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= self.restarts:
            raise ConfigError(f"keep={self.keep} must be from 1 to restarts={self.restarts}")

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Images:
        """Invert every class: `keep` inputs a class, the most stable first, in bounds, on the CPU."""
        space = self.space(targets)
        interface, trail = self.ask(release, targets, rng, self.queries), Trail(self.queries)
        classes = len(targets.classes)
        start = self._open(interface, space, classes, trail, rng)
        inputs = self._climb(interface, space, start, trail, rng)
        return Images(
            inputs=inputs,
            labels=torch.arange(classes).repeat_interleave(self.keep),
            trail=trail.end(interface.spent, inputs),
        )

    def _open(
        self, interface: Disguised, space: SearchSpace, classes: int, trail: Trail, rng: torch.Generator
    ) -> Tensor:
        """Where each class's climb begins: coordinates (classes, size)."""
        slope, start = torch.zeros(2, classes, space.size)
        end = int(self.opening * self.queries)
        with suppress(OutOfQueries):
            while (pairs := min(CHUNK, end - interface.spent, interface.room) // 2) >= 1:
                away = torch.randn(pairs, space.size, generator=rng)
                asked = self.radius * torch.cat([away, -away])
                ahead, behind = margins(interface.confidences(space.inputs(asked))).split(pairs)
                slope += (ahead - behind).T @ away
                steepest = slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-9)
                start = self.jump * math.sqrt(space.size) * steepest
                if trail.due(interface.spent):
                    trail.keep(interface.spent, space.inputs(start.repeat_interleave(self.keep, dim=0)))
        return start

    def _climb(
        self, interface: Disguised, space: SearchSpace, start: Tensor, trail: Trail, rng: torch.Generator
    ) -> Tensor:
        """The inputs kept of each class, (classes * keep, ...), by Adam on estimated gradients."""
        classes = len(start)
        labels = torch.arange(classes).repeat_interleave(self.restarts)
        every = torch.arange(len(labels))
        at = start.repeat_interleave(self.restarts, dim=0)
        optimizer = torch.optim.Adam([at], betas=(0.9, 0.99))
        radius = torch.full((len(labels), 1, 1), self.radius)
        stability = torch.zeros(len(labels))  # mean confidence of late pairs
        opened = interface.spent

        def best() -> Tensor:
            top = stability.view(classes, self.restarts).topk(self.keep, dim=1).indices
            return space.inputs(at[(top + self.restarts * torch.arange(classes)[:, None]).flatten()])

        with suppress(OutOfQueries):
            while pairs := min(self.pairs, interface.room // (2 * len(labels))):
                away = torch.randn(len(labels), pairs, space.size, generator=rng)
                asked = at[:, None, None] + torch.stack([radius * away, -radius * away], dim=1)
                answers = interface.confidences(space.inputs(asked.flatten(0, 2)))
                shape = (len(labels), 2, pairs, classes)
                own = margins(answers).view(shape)[every, :, :, labels]
                rise = own[:, 0] - own[:, 1]
                at.grad = self.norm * at - torch.einsum("np,nps->ns", rise, away / radius) / (2 * pairs)
                done = (interface.spent - opened) / (self.queries - opened)
                optimizer.param_groups[0]["lr"] = self.learning_rate * (1 + math.cos(math.pi * done)) / 2
                optimizer.step()
                silent = (rise == 0).all(dim=1)[:, None, None]
                radius = torch.where(silent, WIDENED * radius, 0.9 * radius + 0.1 * self.radius)
                radius = torch.where(radius > WIDEST, NARROWEST, radius)
                stability = 0.8 * stability + 0.2 * answers.view(shape)[every, :, :, labels].mean((1, 2))
                if trail.due(interface.spent):
                    trail.keep(interface.spent, best())
        return best()


def margins(confidences: Tensor) -> Tensor:
    """Log-odds of each class against all others, (N, classes), in units of the log-confidences' spread.

    They go on pulling where a confidence has saturated; the spread makes the prior weigh the same
    whether a model speaks in large logits or small ones.
    """
    logs = confidences.clamp(min=FLOOR).log()
    rest = (confidences.sum(1, keepdim=True) - confidences).clamp(min=FLOOR).log()
    return (logs - rest) / logs.std(1).mean().clamp(min=1e-6)
