"""Convolutions in one, two and three dimensions, and those whose kernels are made of other parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dptrain.contracts import MadeKernels
from dptrain.privacy.bookkeeping import costs
from dptrain.privacy.bookkeeping.products import summed_products
from dptrain.privacy.bookkeeping.shares import (
    Formed,
    Instantiated,
    Kept,
    Share,
    in_blocks,
    lengths,
    norms_from,
    norms_of_formed,
)
from dptrain.privacy.bookkeeping.uses import Use, sum_copies
from dptrain.privacy.clipping import wide

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What a convolution does to positions; `padding` is by zeros, as much after as before."""

    shape: tuple[int, ...]  # of the weight: (outputs, inputs a group, *kernel)
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, layer: Convolution | Transposed, padding: tuple[int, ...]) -> Geometry:
        """Of a layer, whose inputs or outputs have this padding."""
        shape, groups = tuple(layer.weight.shape), layer.groups
        stride, dilation = tuple(layer.stride), tuple(layer.dilation)
        return cls(shape=shape, stride=stride, padding=padding, dilation=dilation, groups=groups)

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.shape[2:]

    @property
    def fan_in(self) -> int:
        """Numbers that one output is made of."""
        return math.prod(self.shape[1:])

    @property
    def patches_are_small(self) -> bool:
        """Whether it sees few channels of an image, where a library's convolution is slow and they fit."""
        return len(self.kernel) == 2 and self.shape[1] <= 3 and self.fan_in <= costs.FEW_INPUTS


def convolution(use: Use) -> dict[Tensor, Share]:
    """Shares of the weight (outputs, inputs / groups, *kernel) and of the bias (outputs,)."""
    layer = use.layer
    assert isinstance(layer, Convolution)
    found = of_bias(use, layer)
    if layer.weight.requires_grad:
        found[layer.weight] = _weight(*_seen(use, layer))
    return found


def transposed_convolution(use: Use) -> dict[Tensor, Share]:
    """Shares of the weight (inputs, outputs / groups, *kernel) and of the bias (outputs,).

    It is a convolution read backwards: the gradient of its output goes in, and its input comes out.
    """
    layer = use.layer
    assert isinstance(layer, Transposed)
    found = of_bias(use, layer)
    if layer.weight.requires_grad:
        geometry = Geometry.of(layer, tuple(layer.padding))  # type: ignore[arg-type]
        rows = (-1, use.copies)
        found[layer.weight] = _weight(
            _used(use.dy, use.x, geometry).unflatten(0, rows), use.x.unflatten(0, rows), geometry
        )
    return found


def _used(image: Tensor, made: Tensor, geometry: Geometry) -> Tensor:
    """An image (n, channels, *size) without the margin that is too small for one more position of `made`."""
    for axis, count in enumerate(made.shape[2:]):
        span = geometry.dilation[axis] * (geometry.kernel[axis] - 1) + 1
        longest = geometry.stride[axis] * count + span - 1 - 2 * geometry.padding[axis]
        if image.shape[2 + axis] > longest:
            image = image.narrow(2 + axis, 0, longest)
    return image


def of_bias(use: Use, layer: Convolution | Transposed) -> dict[Tensor, Share]:
    """The share of the bias (outputs,), if there is one to train."""
    if layer.bias is None or not layer.bias.requires_grad:
        return {}
    return {layer.bias: Instantiated.of([sum_copies(use.dy.flatten(2).sum(2), use.copies)])}


def _seen(use: Use, layer: Convolution) -> tuple[Tensor, Tensor, Geometry]:
    """Inputs (records, copies, channels, *size), output gradients alike, and what lies between."""
    inputs, geometry = _padded(layer, use.x)
    rows = (-1, use.copies)
    return inputs.unflatten(0, rows), use.dy.unflatten(0, rows), geometry


def _padded(layer: Convolution, inputs: Tensor) -> tuple[Tensor, Geometry]:
    """Inputs with all padding that a convolution backward cannot do by itself, and what remains."""
    before_and_after = _padding(layer)
    padding = tuple(before for before, _ in before_and_after)
    if layer.padding_mode != "zeros" or any(before != after for before, after in before_and_after):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = F.pad(inputs, [side for pair in reversed(before_and_after) for side in pair], mode=mode)
        padding = (0,) * len(padding)
    return inputs, Geometry.of(layer, padding)


def _padding(layer: Convolution) -> list[tuple[int, int]]:
    """Padding before and after, one pair a dimension; an odd one of `same` is longer after, as in PyTorch."""
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return [(0, 0)] * len(layer.kernel_size)
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(pad, pad) for pad in layer.padding]


def _weight(inputs: Tensor, grads: Tensor, geometry: Geometry) -> Share:
    """From inputs (records, copies, channels, *size) and output gradients alike."""
    copies = inputs.shape[1]
    size = [extent + 2 * pad for extent, pad in zip(inputs.shape[3:], geometry.padding, strict=True)]
    outputs, per_group = geometry.shape[:2]
    positions = copies * math.prod(grads.shape[3:])
    seen = copies * math.prod(size)  # positions of the padded input
    way = costs.way(
        positions=positions,
        fan_in=geometry.fan_in,
        outputs=outputs,
        gram=float(
            2 * (seen**2 * per_group * geometry.groups + positions**2 * outputs)
            + costs.GRAM_NUMBER * math.prod(geometry.kernel) * positions**2 * geometry.groups
        ),
    )
    formed = _formed(inputs, grads, geometry)
    if way == costs.KEEP:
        return Instantiated.of(formed)
    if way == costs.TWICE:
        # The terms' lengths are at most (Cauchy-Schwarz) those of all inputs times those of all gradients.
        added = math.sqrt(math.prod(geometry.kernel)) * lengths(inputs) * lengths(grads)
        norms = norms_of_formed(torch.cat([lengths(block) for block in formed]), added)
        form, each = partial(_form, geometry=geometry), _largest(grads, geometry)
        return Formed(inputs=inputs, grads=grads, norms=norms, form=form, size=each)
    blocks = in_blocks(seen**2 * geometry.groups, inputs, grads)
    return Kept(
        inputs=inputs,
        grads=grads,
        norms=torch.cat([_gram_norms(x, dy, geometry) for x, dy in blocks]),
        combine=partial(_combine, geometry=geometry),
        form=partial(_form, geometry=geometry),
    )


def _formed(inputs: Tensor, grads: Tensor, geometry: Geometry) -> Iterator[Tensor]:
    """Gradients one by one, in blocks of some records."""
    blocks = in_blocks(_largest(grads, geometry), inputs, grads)
    return (_form(x, dy, geometry=geometry) for x, dy in blocks)


def _largest(grads: Tensor, geometry: Geometry) -> int:
    """Numbers of the largest tensor that a record's gradient takes to be formed."""
    size = math.prod(geometry.shape)
    return max(size, _patched(grads, geometry)) if geometry.patches_are_small else size


def _patched(grads: Tensor, geometry: Geometry) -> int:
    """Numbers in all patches of a record."""
    return grads.shape[1] * math.prod(grads.shape[3:]) * geometry.fan_in * geometry.groups


def _form(inputs: Tensor, grads: Tensor, *, geometry: Geometry) -> Tensor:
    """Gradients one by one, (records, *shape of the weight).

    Of a small kernel over the channels of an image, as a product of the patches that it sees. Else
    records become groups of one convolution, whose gradient holds each one's own.
    """
    if not geometry.patches_are_small:
        return _weight_gradient(_as_groups(inputs), _as_groups(grads), geometry, records=len(inputs))
    dy = _positions(grads, geometry.groups)
    return torch.bmm(_patches(inputs, geometry), dy.transpose(1, 2)).mT.reshape(-1, *geometry.shape)


def _patches(inputs: Tensor, geometry: Geometry) -> Tensor:
    """What the kernel sees: (records, copies, channels, *size) to (records * groups, fan_in, places).

    Places are the positions of the output in all the copies.
    """
    windows = F.pad(inputs, [pad for pad in reversed(geometry.padding) for _ in range(2)])
    dimensions = len(geometry.kernel)
    for axis in range(dimensions):
        span = geometry.dilation[axis] * (geometry.kernel[axis] - 1) + 1
        windows = windows.unfold(3 + axis, span, geometry.stride[axis])[..., :: geometry.dilation[axis]]
    split = windows.unflatten(2, (geometry.groups, -1))  # records, copies, groups, channels, *out, *kernel
    out = range(4, 4 + dimensions)
    kernel = range(4 + dimensions, 4 + 2 * dimensions)
    ordered = split.permute(0, 2, 3, *kernel, 1, *out)
    return ordered.reshape(len(inputs) * geometry.groups, geometry.fan_in, -1)


def _as_groups(rows: Tensor) -> Tensor:
    """(records, copies, channels, ...) to (copies, records * channels, ...)."""
    return rows.transpose(0, 1).flatten(1, 2)


def _combine(inputs: Tensor, grads: Tensor, *, geometry: Geometry) -> Tensor:
    """The sum of all gradients, in double precision."""
    blocks = in_blocks(_patched(grads, geometry), inputs, grads)
    return reduce(torch.add, (_summed(x, dy, geometry) for x, dy in blocks)).view(geometry.shape)


def _summed(inputs: Tensor, grads: Tensor, geometry: Geometry) -> Tensor:
    """The sum of these records' gradients, by the patches that each group sees: (outputs, fan_in)."""
    groups = (-1, geometry.groups)
    seen = _patches(inputs, geometry).unflatten(0, groups).mT  # records, groups, places, fan_in
    made = _positions(grads, geometry.groups).unflatten(0, groups).mT  # records, groups, places, outputs
    by_group = zip(made.unbind(1), seen.unbind(1), strict=True)
    return torch.cat([summed_products(dy.flatten(0, 1), x.flatten(0, 1)) for dy, x in by_group])


def _weight_gradient(inputs: Tensor, grads: Tensor, geometry: Geometry, *, records: int) -> Tensor:
    outputs = geometry.shape[0]
    # Its values play no part in its own gradient.
    weight = inputs.new_empty(records * outputs, *geometry.shape[1:])
    places = (geometry.stride, geometry.padding, geometry.dilation, False, [0] * len(geometry.stride))
    _, gradient, _ = torch.ops.aten.convolution_backward(
        grads, inputs, weight, None, *places, records * geometry.groups, [False, True, False]
    )
    return gradient.unflatten(0, (records, outputs))


def _gram_norms(inputs: Tensor, grads: Tensor, geometry: Geometry) -> Tensor:
    """Norms of (records,) from Gram matrices of positions.

    Two patches' inner product is a sum over the kernel of inner products of single positions, so
    that the Gram matrix of patches is a sum of shifted parts of the Gram matrix of positions.
    """
    records, copies = inputs.shape[:2]
    pads = [pad for pad in reversed(geometry.padding) for _ in range(2)]
    x = _positions(F.pad(inputs.flatten(0, 1), pads).unflatten(0, (-1, copies)), geometry.groups)
    dy = _positions(grads, geometry.groups)
    gram_x = torch.bmm(x.transpose(1, 2), x)
    size = [extent + 2 * pad for extent, pad in zip(inputs.shape[3:], geometry.padding, strict=True)]
    out = grads.shape[3:]
    gram_x = gram_x.view(-1, copies, *size, copies, *size)
    patches: Tensor | None = None
    for tap in itertools.product(*(range(extent) for extent in geometry.kernel)):
        places = [
            slice(at * dilation, at * dilation + stride * (count - 1) + 1, stride)
            for at, dilation, stride, count in zip(tap, geometry.dilation, geometry.stride, out, strict=True)
        ]
        part = gram_x[(slice(None), slice(None), *places, slice(None), *places)]
        patches = part.clone() if patches is None else patches.add_(part)
    assert patches is not None
    patches = patches.reshape(len(x), dy.shape[2], dy.shape[2])
    added = patches.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt() * torch.linalg.vector_norm(dy, dim=1)
    products = patches.mul_(torch.bmm(dy.transpose(1, 2), dy)).view(records, -1).sum(1)
    return norms_from(products, added.view(records, -1).sum(1))


def _positions(rows: Tensor, groups: int) -> Tensor:
    """(records, copies, channels, *size) to (records * groups, channels / groups, copies * positions)."""
    split = rows.flatten(3).unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)
    return split.flatten(3).flatten(0, 1)


def made_kernels(use: Use) -> dict[Tensor, Share]:
    """Shares of the bias (outputs,), and of every parameter that the kernels are made of.

    One that has no say in the kernels has no share, as if its layer had not been used.
    """
    layer = use.layer
    assert isinstance(layer, MadeKernels)
    makers = [each for each in layer.parameters() if each.requires_grad and each is not layer.bias]
    with torch.enable_grad():
        kernels = layer.kernels()
    found = of_bias(use, layer)
    if makers and kernels.requires_grad:
        pulled = [
            torch.autograd.grad(
                kernels,
                makers,
                block.to(kernels.dtype),
                is_grads_batched=True,
                allow_unused=True,
                retain_graph=True,
            )
            for block in _formed(*_seen(use, layer))
        ]
        found |= {
            maker: Instantiated.of(map(wide, blocks))
            for maker, blocks in zip(makers, zip(*pulled, strict=True), strict=True)
            if blocks[0] is not None
        }
    return found
