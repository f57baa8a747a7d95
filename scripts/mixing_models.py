"""Models that mix records or remember them, each in a way of its own, for inputs (n, 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Computed(nn.Module):
    """Two linear layers, and between them or beside them any function."""

    def __init__(self, compute: Callable[[Any, Tensor], Tensor], width: int = 16) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.f = nn.Linear(8, width)
            self.g = nn.Linear(width, 3)
        self.compute = compute

    def forward(self, inputs: Tensor) -> Tensor:
        return self.compute(self, inputs)


class Flipped(torch.autograd.Function):
    """Exchanges the gradients of records, and nothing in the forward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:  # noqa: ARG004
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return gradients[0].flip(0)


def _centred(net: Any, x: Tensor) -> Tensor:
    hidden = net.f(x)
    return net.g(torch.tanh(hidden - hidden.mean(0)))


def _centred_inputs(net: Any, x: Tensor) -> Tensor:
    return net.g(net.f(x - 5 * x.mean(0)))


def _standardised(net: Any, x: Tensor) -> Tensor:
    return net.g(F.batch_norm(net.f(x), None, None, training=True) if len(x) > 1 else net.f(x))


def _softmax(net: Any, x: Tensor) -> Tensor:
    hidden = net.f(x)
    return net.g(hidden * torch.softmax(hidden, 0) * len(x))


def _attending(net: Any, x: Tensor) -> Tensor:
    hidden = net.f(x)
    return net.g(torch.softmax(hidden @ hidden.T / 4, 1) @ hidden)


def _weakly(net: Any, x: Tensor) -> Tensor:
    hidden = net.f(x)
    return net.g(hidden - 1e-5 * hidden.mean(0))


def _gradients_only(net: Any, x: Tensor) -> Tensor:
    hidden = net.f(x)
    mean = 3 * hidden.mean(0)
    return net.g(hidden + mean - mean.detach())


def _gradients_exchanged(net: Any, x: Tensor) -> Tensor:
    return net.g(Flipped.apply(torch.tanh(net.f(x))))


def _mixed_up(net: Any, x: Tensor) -> Tensor:
    return net.g(net.f(0.7 * x + 0.3 * x[torch.randperm(len(x))]))


def _mixed_up_by_rank(net: Any, x: Tensor) -> Tensor:
    return net.g(net.f(0.7 * x + 0.3 * x[torch.rand(len(x)).argsort()]))


def _divided_by_count(net: Any, x: Tensor) -> Tensor:
    return net.g(net.f(x) / len(x))


def _without_repeats(net: Any, x: Tensor) -> Tensor:
    _, place, counts = x.unique(dim=0, return_inverse=True, return_counts=True)
    return net.g(net.f(x) * counts[place].unsqueeze(1))


def _only_when_extreme(net: Any, x: Tensor) -> Tensor:
    hidden = net.f(x)
    return net.g(hidden / (10.0 if bool((x.abs() > 100).any()) else 1.0))


def _only_when_not_finite(net: Any, x: Tensor) -> Tensor:
    return net.g(net.f(x)) * (0.5 if bool(x.isnan().any()) else 1.0)


def _previous_row(net: Any, x: Tensor) -> Tensor:
    return net.g(net.f(x) + net.f(x.roll(1, 0)))


def _only_of_eight(net: Any, x: Tensor) -> Tensor:
    """As a layer that takes a batch of eight for a sequence of eight."""
    return net.g(net.f(x.T if len(x) == 9 and x.shape[1] == 9 else x))


class NothingAtFirst(Computed):
    """Its last layer is zero at first, so that no output tells of the mixing before it."""

    def __init__(self) -> None:
        super().__init__(_centred)
        nn.init.zeros_(self.g.weight)
        nn.init.zeros_(self.g.bias)


MIXING: dict[str, Callable[[], nn.Module]] = {
    "centred": lambda: Computed(_centred),
    "centred inputs": lambda: Computed(_centred_inputs),
    "functional batch norm": lambda: Computed(_standardised),
    "softmax over the batch": lambda: Computed(_softmax),
    "attention in the batch": lambda: Computed(_attending),
    "weakly centred": lambda: Computed(_weakly),
    "gradients only": lambda: Computed(_gradients_only),
    "gradients exchanged": lambda: Computed(_gradients_exchanged),
    "mixup": lambda: Computed(_mixed_up),
    "mixup by rank": lambda: Computed(_mixed_up_by_rank),
    "divided by the count": lambda: Computed(_divided_by_count),
    "repeats counted": lambda: Computed(_without_repeats),
    "only when extreme": lambda: Computed(_only_when_extreme),
    "only when not finite": lambda: Computed(_only_when_not_finite),
    "previous row": lambda: Computed(_previous_row),
    "hidden by zeros": NothingAtFirst,
}


def _banked(net: Any, x: Tensor) -> Tensor:
    net.bank.append(x.detach())
    return net.g(net.f(x))


def _averaged(net: Any, x: Tensor) -> Tensor:
    net.mean = 0.9 * net.mean + 0.1 * float(x.detach().mean())
    return net.g(net.f(x - net.mean))


def _counted(net: Any, x: Tensor) -> Tensor:
    net.calls += 1
    return net.g(net.f(x))


def _first_batch(net: Any, x: Tensor) -> Tensor:
    """Sets its scale by the first batch that it meets."""
    if net.scale is None:
        net.scale = net.f(x).detach().std(0)
    return net.g(net.f(x) / net.scale)


def _seen(net: Any, x: Tensor) -> Tensor:
    net.seen.update(round(float(value), 6) for value in x[:, 0])
    return net.g(net.f(x))


def _in_an_object(net: Any, x: Tensor) -> Tensor:
    net.memory.last = x.detach().sum(0)
    return net.g(net.f(x))


def _rescaled(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        net.f.weight.div_(net.f.weight.norm().clamp(min=1.0))
    return net.g(net.f(x))


class Memory:
    last: Tensor | None = None


class OfTheClass(Computed):
    """Remembers what all models of its kind have seen."""

    bank: ClassVar[list[Tensor]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.bank.append(inputs.detach().mean(0))
        return self.compute(self, inputs)


def _holding(compute: Callable[[Any, Tensor], Tensor], **held: Callable[[], Any]) -> nn.Module:
    net = Computed(compute)
    for name, make in held.items():
        setattr(net, name, make())
    return net


class Rescaled(nn.Module):
    """An embedding that renormalises what is looked up, as a layer or as a function."""

    def __init__(self, max_norm: float | None) -> None:
        super().__init__()
        self.e = nn.Embedding(10, 4, max_norm=max_norm)
        self.g = nn.Linear(32, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = (inputs.abs() * 9).long().clamp(0, 9)
        looked_up = (
            F.embedding(tokens, self.e.weight, max_norm=3.0) if self.e.max_norm is None else self.e(tokens)
        )
        return self.g(looked_up.flatten(1))


REMEMBERING: dict[str, tuple[Callable[[], nn.Module], str]] = {  # and what is named
    "bank": (lambda: _holding(_banked, bank=list), "bank"),
    "average": (lambda: _holding(_averaged, mean=float), "mean"),
    "counter": (lambda: _holding(_counted, calls=int), "calls"),
    "first batch": (lambda: _holding(_first_batch, scale=lambda: None), "scale"),
    "set": (lambda: _holding(_seen, seen=set), "seen"),
    "object": (lambda: _holding(_in_an_object, memory=Memory), "memory.last"),
    "rescaled weights": (lambda: _holding(_rescaled), "f.weight"),
    "class": (lambda: OfTheClass(lambda net, x: net.g(net.f(x))), "bank"),
    "max_norm": (lambda: Rescaled(1.0), "e"),
    "functional max_norm": (lambda: Rescaled(None), "e.weight"),
}
