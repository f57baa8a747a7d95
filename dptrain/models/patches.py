"""How much of an image looks like patches of images that show nothing."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dptrain.contracts import ConfigError

SIDE = 6  # of a patch, in pixels
SAMPLE = 40_000  # patches whose covariance whitens all
LEAST_VARIANCE = 0.04  # added to a patch's own variance: that of noise in flat patches stays small
FLOOR = 0.1  # added to each variance of whitened patches, as a share of their mean
THRESHOLD = 0.25  # what a likeness must exceed
SEED = 20_262  # a public constant
# Images and kernels at once: what the cache of a core holds, and what fills a GPU.
IMAGES_CPU, IMAGES_ELSEWHERE, KERNELS = 8, 512, 100


class Patches(nn.Module):
    """Likeness to each of some patches, pooled: (N, C, H, W) to (N, 2 kernels, pooled, pooled).

    Every patch of an image is brought to mean 0 and variance 1, whitened, and multiplied with each kernel,
    a whitened patch itself; what exceeds a threshold, and in a second half what falls short of its negative,
    is averaged over a grid. The kernels come from public images, so that no record shapes them.

    Coates, Ng and Lee 2011, "An analysis of single-layer networks in unsupervised feature learning",
    section 3; kernels that are drawn, not learned: Coates and Ng 2011, "The importance of encoding versus
    training with sparse coding and vector quantization".
    """

    kernels: Tensor
    offsets: Tensor

    def __init__(self, kernels: Tensor, offsets: Tensor, *, pooled: int = 4) -> None:
        super().__init__()
        # With channels last the convolution of few channels to many takes a third of the time.
        self.register_buffer("kernels", kernels.contiguous(memory_format=torch.channels_last))
        self.register_buffer("offsets", offsets)
        self.pooled = pooled

    @classmethod
    def of(cls, images: Tensor, *, kernels: int, pooled: int = 4) -> Self:
        """Kernels drawn from the patches of these images (N, C, H, W), whitened by those and their mirrors.

        The third of the drawn patches that is closest to the mean shows little and is left out; of the others
        the first are taken. Raises ConfigError where an image is smaller than a patch.
        """
        if min(images.shape[2:]) < SIDE:
            raise ConfigError(
                f"model.patches={kernels} needs images of at least {SIDE} pixels a side, and these have "
                f"{min(images.shape[2:])}; set it to 0"
            )
        rng = torch.Generator().manual_seed(SEED)
        drawn = _drawn(images, max(SAMPLE, 3 * kernels), rng)
        patches = _normalised(torch.cat([drawn, drawn.flip(3)]).flatten(1))
        mean = patches.mean(0)
        variances, directions = torch.linalg.eigh(torch.cov(patches.T))
        whitening = directions * (variances + FLOOR * variances.mean()).rsqrt() @ directions.T
        chosen = (patches[: 3 * kernels] - mean) @ whitening
        telling = chosen.norm(dim=1).topk(2 * kernels).indices.sort().values[:kernels]
        projection = F.normalize(chosen[telling], dim=1) @ whitening
        projection = projection - projection.mean(1, keepdim=True)  # takes out the mean of each patch
        return cls(projection.unflatten(1, drawn.shape[1:]), -projection @ mean, pooled=pooled)

    def forward(self, inputs: Tensor) -> Tensor:
        size = IMAGES_CPU if inputs.device.type == "cpu" else IMAGES_ELSEWHERE
        return torch.cat([self._likeness(images) for images in inputs.split(size)])

    def _likeness(self, images: Tensor) -> Tensor:
        means, squares = (
            F.avg_pool2d(values.mean(1, keepdim=True), SIDE, 1) for values in (images, images.square())
        )
        scale = ((squares - means.square()).clamp(min=0) + LEAST_VARIANCE).rsqrt()
        above, below = [], []
        for kernels, offsets in zip(self.kernels.split(KERNELS), self.offsets.split(KERNELS), strict=True):
            likeness = F.conv2d(images, kernels) * scale + offsets[:, None, None]
            above.append(F.adaptive_avg_pool2d((likeness - THRESHOLD).relu(), self.pooled))
            below.append(F.adaptive_avg_pool2d((-likeness - THRESHOLD).relu(), self.pooled))
        return torch.cat(above + below, dim=1)


def _drawn(images: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Patches (count, C, SIDE, SIDE) from anywhere in these images."""
    windows = images.unfold(2, SIDE, 1).unfold(3, SIDE, 1)  # (N, C, rows, columns, SIDE, SIDE)
    image, row, column = (torch.randint(windows.shape[axis], (count,), generator=rng) for axis in (0, 2, 3))
    return windows[image, :, row, column]


def _normalised(patches: Tensor) -> Tensor:
    """Patches (count, size), each with mean 0 and variance 1 about."""
    centred = patches - patches.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + LEAST_VARIANCE).sqrt()
