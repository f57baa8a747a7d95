"""What does each class look like? Read it out of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dptrain.attacks.trials import shortened
from dptrain.contracts import Access, ConfigError, Images, Part, Release, Targets
from dptrain.contracts.ranges import Count, NotNegative, Positive

BATCH = 256  # starting points climbed at once; bounds the memory, changes no result but its random numbers


@dataclass(frozen=True, kw_only=True)
class ClassInversion:
    """Climb the released model's margin for each class, from noise to an input.

    Gradient ascent on the input (Fredrikson, Jha and Ristenpart 2015, section 5), made robust:
    many restarts at once, Adam, every gradient averaged over random movements and noise and
    smoothed less and less, total-variation and norm priors. Of all restarts of a class, those
    are kept whose confidence stands up best when they are moved about. Inputs that are not
    images are climbed with noise and the norm prior alone.

    What comes out is a property of the class, not of a record. `noise`, `learning_rate` and
    both priors count in widths of the bounds; `shift` and `blur` in sides of the image.

    `objective` loss climbs down the cross-entropy of the class instead, as published attacks do: where a
    defence saturates it, its gradient vanishes, and the margin's does not. With `draws` the model goes on
    drawing, as dropout and a bottleneck do while they train, and gradients are averaged over that too
    (Athalye, Carlini and Wagner 2018, "Obfuscated gradients", section 4.2).
    """

    restarts: Count = 4  # of each class
    keep: Count = 4  # of each class, the most stable
    steps: Count = 100
    learning_rate: Positive = 0.1
    copies: Count = 1  # movements that each gradient is averaged over
    shift: NotNegative = 0.04  # at most
    turn: NotNegative = 0.15  # radians, at most
    zoom: NotNegative = 0.1  # relative, at most
    noise: NotNegative = 0.12  # standard deviation
    blur: NotNegative = 0.05  # standard deviation of the gradient's smoothing at the start; none at the end
    total_variation: NotNegative = 0.2  # weight of the mean slope
    norm: NotNegative = 1.7  # weight of the mean squared distance from the declared mean
    trials: Count = 8  # movements that stability is judged by
    objective: Literal["margin", "loss"] = "margin"
    draws: bool = False

    needs: ClassVar[frozenset[Access]] = frozenset({Access.WEIGHTS})
    game: ClassVar[str] = "class_inversion"

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= self.restarts:
            raise ConfigError(f"keep={self.keep} must be from 1 to restarts={self.restarts}")

    def trial(self, release: Release, targets: Targets, rng: torch.Generator) -> Part:
        return shortened(self, "steps", "trials", release=release, targets=targets, rng=rng)

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Images:
        """Invert every class: `keep` inputs a class, the most stable first, in bounds, on the CPU."""
        model = release.build().train(self.draws)
        classes = len(targets.classes)
        labels = torch.arange(classes).repeat_interleave(self.restarts)
        inputs, stability = [], []
        with self._seeded(rng):
            for part in labels.split(BATCH):
                inputs.append(self._climb(model, part.to(release.device), targets, rng))
                stability.append(self._stability(model, inputs[-1], part.to(release.device), targets, rng))
        best = torch.cat(stability).view(classes, self.restarts).topk(self.keep, dim=1).indices
        chosen = (best + self.restarts * torch.arange(classes)[:, None]).flatten()
        return Images(inputs=torch.cat(inputs).cpu()[chosen], labels=labels[chosen])

    @contextmanager
    def _seeded(self, rng: torch.Generator) -> Iterator[None]:
        """What the model itself draws within follows from `rng`."""
        if not self.draws:
            yield
            return
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
            yield

    def _climb(self, model: nn.Module, labels: Tensor, targets: Targets, rng: torch.Generator) -> Tensor:
        """One input (n, ...) for each label, on the labels' device."""
        low, high = targets.bounds
        image = len(targets.shape) == 3
        mean = torch.tensor(targets.mean).view(-1, *[1] * (len(targets.shape) - 1)).expand(targets.shape)
        start = mean + self.noise * (high - low) * torch.randn(len(labels), *targets.shape, generator=rng)
        mean, inputs = mean.to(labels.device), start.clamp(low, high).to(labels.device).requires_grad_()
        optimizer = torch.optim.Adam([inputs], lr=self.learning_rate * (high - low), betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        climb = _margins if self.objective == "margin" else partial(F.cross_entropy, reduction="sum")
        for step in range(self.steps):
            moved = self._move(torch.cat([inputs] * self.copies), targets, rng)
            offset = (inputs - mean) / (high - low)
            loss = climb(model(moved), labels.repeat(self.copies)) / self.copies
            loss = loss + self.norm * offset.square().flatten(1).mean(1).sum()
            if image:
                loss = loss + self.total_variation * _mean_slope(offset)
            (gradient,) = torch.autograd.grad(loss, [inputs])
            inputs.grad = _blur(gradient, self.blur * (1 - step / self.steps)) if image else gradient
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                inputs.clamp_(low, high)
        return inputs.detach()

    @torch.no_grad()
    def _stability(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, targets: Targets, rng: torch.Generator
    ) -> Tensor:
        """Mean confidence in its class of each input under random movements: (n,), on the CPU."""
        total = torch.zeros(len(labels))
        for _ in range(self.trials):
            confidences = model(self._move(inputs, targets, rng)).softmax(-1)
            total += confidences.gather(1, labels[:, None]).squeeze(1).cpu()
        return total / self.trials

    def _move(self, inputs: Tensor, targets: Targets, rng: torch.Generator) -> Tensor:
        """Shift, turn, zoom (images only) and disturb each input at random; differentiable."""
        low, high = targets.bounds
        noise = self.noise * (high - low) * torch.randn(inputs.shape, generator=rng)
        if len(targets.shape) == 3:
            across, down, angle, zoom = torch.rand(4, len(inputs), generator=rng) * 2 - 1
            scale, angle = 1 + self.zoom * zoom, self.turn * angle
            cosine, sine = scale * angle.cos(), scale * angle.sin()
            # The grid runs from -1 to 1: a whole side is two units long.
            rows = [cosine, -sine, 2 * self.shift * across, sine, cosine, 2 * self.shift * down]
            matrix = torch.stack(rows, dim=1).view(-1, 2, 3).to(inputs.device)
            grid = F.affine_grid(matrix, list(inputs.shape), align_corners=False)
            inputs = F.grid_sample(inputs, grid, padding_mode="border", align_corners=False)
        return inputs + noise.to(inputs.device)


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative margins, summed, in units of the logits' own spread.

    The margin goes on pulling where cross-entropy has saturated; the spread makes the priors
    weigh the same whether a model speaks in large logits or, after clipping and noise, in small
    ones.
    """
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    spread = logits.detach().std(1).mean().clamp(min=1e-6)
    return (others - own).sum() / spread


def _mean_slope(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, a side, summed over images: the same at any resolution."""
    vertical = images.diff(dim=2).abs().flatten(1).mean(1) * images.shape[2]
    horizontal = images.diff(dim=3).abs().flatten(1).mean(1) * images.shape[3]
    return (vertical + horizontal).sum()


def _blur(images: Tensor, sides: float) -> Tensor:
    """Smooth by a Gaussian with this standard deviation, in sides of the image."""
    for dim in (2, 3):
        side = images.shape[dim]
        place = torch.arange(side, device=images.device, dtype=images.dtype)
        distance = (place[:, None] - place) / max(sides * side, 0.1)  # 0.1 pixels smooth nothing
        weights = (-distance.square() / 2).softmax(dim=1)
        images = (images.transpose(dim, -1) @ weights.T).transpose(dim, -1)
    return images
