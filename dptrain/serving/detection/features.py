"""What is remembered of an input: a random sketch, fingerprints, how far off the normal it is."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

SKETCH = 32  # coordinates
MARKS = 24  # fingerprints of an input
LEVELS = 20  # that values are rounded to before they are fingerprinted
WINDOW = 20  # neighbouring values in a fingerprint
COMPONENTS = 64  # of normal inputs
LEAST_VARIANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of some inputs: sketches (N, 32), fingerprints (N, 24), distance off the normal and class (N,)."""

    sketch: np.ndarray
    marks: np.ndarray
    distance: np.ndarray
    answer: np.ndarray

    def __len__(self) -> int:
        return len(self.sketch)

    def take(self, rows: np.ndarray) -> Facts:
        """These rows."""
        return Facts(
            sketch=self.sketch[rows], marks=self.marks[rows], distance=self.distance[rows],
            answer=self.answer[rows],
        )  # fmt: skip


class Features:
    """Makes facts of inputs, by directions and salts that only the holder of the server's secret knows."""

    def __init__(self, low: Tensor, high: Tensor, secret: bytes, manifold: Manifold | None) -> None:
        width = len(low)
        drawn = torch.Generator().manual_seed(_number(secret, "sketch"))
        self._low, self._span = low, (high - low).clamp(min=1e-12)
        self._directions = torch.randn(width, SKETCH, generator=drawn) / SKETCH**0.5
        self._window = min(WINDOW, max(1, width // 2))
        rng = np.random.default_rng(_number(secret, "fingerprints"))
        self._salts = rng.integers(1, 2**63, self._window, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._manifold = manifold

    def __call__(self, inputs: Tensor, answers: Tensor) -> Facts:
        """Facts of inputs (N, width), which were answered with `answers` (N, ...)."""
        scaled = (inputs - self._low) / self._span
        named = answers.argmax(-1) if answers.dim() == 2 else torch.zeros(len(answers))
        return Facts(
            sketch=(scaled @ self._directions).numpy(),
            marks=self._fingerprints(scaled.numpy()),
            distance=(
                np.full(len(inputs), np.nan, np.float32)
                if self._manifold is None
                else self._manifold.distance(inputs).numpy()
            ),
            answer=named.numpy().astype(np.int64),
        )

    def _fingerprints(self, scaled: np.ndarray) -> np.ndarray:
        """The smallest keyed hashes of windows of rounded values: (N, 24) uint64, zeros where they are fewer.

        Li, Shan et al. 2022, "Blacklight: Scalable defense for neural networks against query-based black-box
        attacks", section 4. Windows of one value throughout, such as of a black border, are in every
        image and left out. The hash is a keyed sum, not a cryptographic one.
        """
        levels = np.rint(scaled * LEVELS).clip(0, LEVELS).astype(np.uint64) + np.uint64(1)
        found = np.zeros((len(levels), MARKS), np.uint64)
        sums = np.stack([np.convolve(one, self._salts[::-1], "valid") for one in levels])
        windows = sums.shape[1]
        if self._window > 1:
            changes = np.zeros(levels.shape, np.int64)
            np.cumsum(levels[:, 1:] != levels[:, :-1], axis=1, out=changes[:, 1:])
            varied = changes[:, self._window - 1 :] != changes[:, :windows]
        else:  # of few columns, each with its place
            sums += np.arange(windows, dtype=np.uint64)
            varied = np.ones_like(sums, bool)
        hashed = _mixed(sums)
        for row in range(len(levels)):
            kept = np.sort(hashed[row, varied[row]])  # and each once; `np.unique` takes several times as long
            kept = kept[np.append(True, kept[1:] != kept[:-1])[: len(kept)]][:MARKS]
            found[row, : len(kept)] = kept
        return found


@dataclass(frozen=True, kw_only=True)
class Manifold:
    """Where normal inputs lie: a Gaussian with a few directions of its own, and noise in all others.

    Tipping and Bishop 1999, "Probabilistic principal component analysis". Distances are squared
    Mahalanobis ones over the number of values, near 1 for inputs like those it was fitted on.
    """

    mean: Tensor
    directions: Tensor  # (width, components)
    variances: Tensor
    noise: Tensor  # variance in all other directions

    @classmethod
    def fit(cls, inputs: Tensor) -> Manifold:
        """Fit it to normal inputs (N, width)."""
        mean = inputs.mean(0)
        _, spread, directions = torch.linalg.svd(inputs - mean, full_matrices=False)
        variances = spread**2 / max(1, len(inputs) - 1)
        kept = max(1, min(COMPONENTS, len(variances) // 2))
        left = max(1, inputs.shape[1] - kept)
        return cls(
            mean=mean,
            directions=directions[:kept].T.contiguous(),
            variances=variances[:kept].clamp(min=LEAST_VARIANCE),
            noise=(variances[kept:].sum() / left).clamp(min=LEAST_VARIANCE),
        )

    @cached_property
    def _precisions(self) -> Tensor:
        return 1 / self.variances

    def distance(self, inputs: Tensor) -> Tensor:
        """How far each input (N, width) is off: (N,)."""
        away = inputs - self.mean
        along = (away @ self.directions).square()
        rest = (away.square().sum(1) - along.sum(1)).clamp(min=0.0)
        return (along @ self._precisions + rest / self.noise) / inputs.shape[1]


def _mixed(values: np.ndarray) -> np.ndarray:
    """A bijection that spreads every bit (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def _number(secret: bytes, name: str) -> int:
    digest = hmac.new(secret, name.encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:8], "big") >> 1
