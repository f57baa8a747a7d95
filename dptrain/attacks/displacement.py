"""How far single records moved the weights of a training: displacements, held against records' gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from dptrain.contracts import Records, Release

LEAST = 1e-30  # stands for a length of zero


class Trained:
    """The part of a model that is trained, with weights at which records' gradients are wanted.

    That is the smallest module through which the trained parameters act: what stands in front of it,
    such as frozen features, is computed for all records at once.
    """

    def __init__(self, release: Release, weights: Mapping[str, Tensor], like: Tensor) -> None:
        self.release = release
        whole = release.blank().to(release.device).eval()
        self.names = [name for name, parameter in whole.named_parameters() if parameter.requires_grad]
        whole.load_state_dict(dict(weights))
        self.whole, self.part = whole, _smallest(whole, like[:1].to(release.device))
        (place,) = [name for name, module in whole.named_modules() if module is self.part]
        self._prefix = f"{place}." if place else ""

    @property
    def size(self) -> int:
        """How many numbers are trained."""
        return sum(value.numel() for name, value in self.whole.named_parameters() if name in self.names)

    def flat(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The trained numbers of these weights of the whole: (size,) float32, on the model's device."""
        parts = [weights[name].flatten().float() for name in self.names]
        return torch.cat(parts).to(self.release.device)

    def gradients(self, records: Records, *, at_once: int) -> Iterator[Tensor]:
        """The gradient of each record's loss, (n, size) float32, so many records at a time."""
        for seen, labels in self._parts(records, at_once):
            rows = _of_each(partial(grad(self._loss), self._own(self.whole.state_dict())), seen, labels)
            yield torch.cat([each.flatten(1) for each in rows.values()], dim=1).float()

    def pull(self, models: Sequence[Mapping[str, Tensor]], records: Records, *, at_once: int) -> Tensor:
        """The summed gradient of these records' losses at each model's weights: (models, size) float32."""
        total = torch.zeros(len(models), self.size, device=self.release.device)
        for seen, labels in self._parts(records, at_once):
            for place, weights in enumerate(models):
                each = grad(self._losses)(self._own(weights), seen, labels)
                total[place] += torch.cat([one.flatten() for one in each.values()]).float()
        return total

    def _own(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The trained ones of these weights of the whole, by their names in the part."""
        device = self.release.device
        return {name.removeprefix(self._prefix): weights[name].detach().to(device) for name in self.names}

    def _losses(self, weights: Mapping[str, Tensor], seen: Tensor, labels: Tensor) -> Tensor:
        """The summed loss of the part with these weights."""
        return self.release.losses(functional_call(self.part, dict(weights), (seen,)), labels).sum()

    def _loss(self, weights: Mapping[str, Tensor], seen: Tensor, label: Tensor) -> Tensor:
        return self._losses(weights, seen[None], label[None])

    def _parts(self, records: Records, at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What the part sees of the records, and their labels, so many at a time."""
        for inputs, labels in zip(records.inputs.split(at_once), records.labels.split(at_once), strict=True):
            yield self._in_front(inputs.to(self.release.device)), labels.to(self.release.device)

    @torch.no_grad()
    def _in_front(self, inputs: Tensor) -> Tensor:
        """What the trained part is given for these inputs."""
        return inputs if self.part is self.whole else _passing(self.whole, inputs)[self.part][0]


def _of_each(of_one: Callable[..., dict[str, Tensor]], *batch: Tensor) -> dict[str, Tensor]:
    """What a function makes of each row of a batch: at once, or where that cannot be, one after another."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # said of some layers, which work
        try:
            return vmap(of_one)(*batch)
        except RuntimeError:
            each = [of_one(*one) for one in zip(*batch, strict=True)]
            return {name: torch.stack([one[name] for one in each]) for name in each[0]}


@torch.no_grad()
def _passing(model: nn.Module, inputs: Tensor) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """What each module is given and returns that takes one tensor and returns one, for these inputs."""
    passed: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, given: tuple[object, ...], returned: object) -> None:
        if len(given) == 1 and isinstance(given[0], Tensor) and isinstance(returned, Tensor):
            passed[module] = given[0], returned

    hooks = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return passed


def _smallest(model: nn.Module, one: Tensor) -> nn.Module:
    """The smallest module that holds every trained parameter and whose outputs are the model's own."""
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    passed, found = _passing(model, one), model
    for module in model.modules():  # outer ones first
        if module in passed and trained <= set(module.parameters()):
            same = passed[module][1].shape == passed[model][1].shape
            if same and torch.equal(passed[module][1], passed[model][1]):
                found = module
    return found


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Gradients g of some records, as far as scores need them."""

    squares: Tensor  # (n,) of g with itself
    with_known: Tensor  # (n, m) of g with each known record's
    along: Tensor  # (n, displacements) of g with each displacement

    @classmethod
    def of(cls, gradients: Iterator[Tensor], known: Tensor, displacements: Tensor) -> Rows:
        """Products with the gradients of `known` records (m, size) and with displacements (d, size)."""
        parts = [
            (rows.square().sum(1).double(), (rows @ known.T).double(), (rows @ displacements.T).double())
            for rows in gradients
        ]
        squares, with_known, along = (torch.cat(each) for each in zip(*parts, strict=True))
        return cls(squares=squares, with_known=with_known, along=along)


@dataclass(frozen=True, kw_only=True)
class Directions:
    """How far displacements reach along records' gradients, where what known records do is discounted.

    A training samples its known records a random number of times, so a displacement between two trainings
    holds random multiples of their gradients, with covariance F, the sum of g g' over them. A record
    that one of the two lacks is best seen in the metric of (F + ridge)^-1: its score is the component
    of the displacement against its gradient, in standard deviations.
    """

    kernel: Tensor  # (m, m) products of known gradients
    along: Tensor  # (m, displacements) of theirs with each displacement
    unit: float  # mean diagonal of F: ridges are multiples of it

    @classmethod
    def of(cls, known: Tensor, displacements: Tensor) -> Directions:
        kernel = (known @ known.T).double()
        return cls(
            kernel=kernel,
            along=(known @ displacements.T).double(),
            unit=max(float(kernel.trace()) / known.shape[1], LEAST),
        )

    def scores(self, rows: Rows, ridge: float) -> Tensor:
        """(n, displacements): the larger, the more a displacement speaks for the record."""
        size = ridge * self.unit
        factor = torch.linalg.cholesky(self.kernel + size * torch.eye(len(self.kernel)).to(self.kernel))
        seen = torch.cholesky_solve(self.along, factor)
        solved = torch.cholesky_solve(rows.with_known.T, factor).T
        length = rows.squares - (solved * rows.with_known).sum(1)
        reached = rows.along - rows.with_known @ seen
        return -reached / (length.clamp(min=LEAST).sqrt() * size**0.5)[:, None]


@dataclass(frozen=True, kw_only=True)
class View:
    """Displacements of models, and the part whose gradients at a point are held against them.

    The first displacement is the release's from the mean of the shadow models, the others are those of
    pairs of shadow models from each other.
    """

    trained: Trained
    displacements: Tensor  # (1 + pairs, size)
    usual: float  # ridge where nothing tells which is best

    @classmethod
    def of_path(cls, release: Release, shadows: Sequence[Mapping[str, Tensor]], like: Tensor) -> View:
        """Of weights, beside gradients half-way: at the end, those of records known by heart are nothing."""
        reference = mean_of(shadows)
        trained = Trained(release, mean_of([release.blank().state_dict(), reference]), like)
        ends = torch.stack([trained.flat(each) for each in (release.weights or {}, reference, *shadows)])
        return cls(trained=trained, displacements=_differences(ends), usual=0.1)

    @classmethod
    def of_optimum(
        cls, release: Release, shadows: Sequence[Mapping[str, Tensor]], known: Records, like: Tensor
    ) -> View:
        """Of the pull of known records, which at a minimum is what all others hold against it."""
        reference = mean_of(shadows)
        trained = Trained(release, reference, like)
        ends = trained.pull((release.weights or {}, reference, *shadows), known, at_once=len(known))
        return cls(trained=trained, displacements=_differences(ends), usual=1000.0)


def mean_of(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several models' weights, in single precision."""
    return {name: torch.stack([each[name].float().cpu() for each in models]).mean(0) for name in models[0]}


def _differences(ends: Tensor) -> Tensor:
    """Release less reference, and pairs of the others: (1 + pairs, size) of (2 + shadows, size)."""
    pairs = len(ends) // 2
    return torch.cat([ends[:1] - ends[1:2], ends[2 : 2 * pairs : 2] - ends[3 : 2 * pairs : 2]])
