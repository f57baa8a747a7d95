"""The scattering transform: features that nobody trains, so that noise has nothing of them to spoil."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dptrain.contracts import ConfigError

# The mother wavelet and the low-pass window (Bruna and Mallat 2013, section 2.1): centre frequency in
# radians a pixel, and width of the Gaussian window in pixels, both at the finest scale.
FREQUENCY = 3 * math.pi / 4
WIDTH = 0.8
MOST_ANGLES = 64  # directions: coefficients grow by their square
ALIASES = 2  # copies of the spectrum on each side that reach into the band of a sampled window
# Images transformed at once: what the cache of a core holds, and what fills a GPU.
CHUNK_CPU, CHUNK_ELSEWHERE = 16, 512


class Scattering2d(nn.Module):
    """Moduli of wavelet coefficients, averaged over 2^J pixels: (N, C, H, W) to (N, C K, H // 2^J, W // 2^J).

    With J = `scales` and L = `angles`, K = 1 + L J + L^2 J (J - 1) / 2: the image's channels one after the
    other, in each the mean, then first order, then second, sorted by (scale, angle) of the first wavelet and
    of the second. The image is padded by reflection and filtered by Morlet wavelets in the Fourier domain,
    every result kept only as finely as its scale needs.

    Nothing is learned and each record is transformed by itself: there are no parameters, the filters are
    constants, and gradients flow to the image. Raises ConfigError where the image is too small for that.

    Mallat 2012, "Group invariant scattering"; Bruna and Mallat 2013, "Invariant scattering convolution
    networks"; as features for DP-SGD: Tramèr and Boneh 2021, "Differentially private learning needs better
    features (or much more data)".

    >>> Scattering2d((1, 28, 28))(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 81, 7, 7])
    """

    def __init__(self, shape: Sequence[int], *, scales: int = 2, angles: int = 8) -> None:
        super().__init__()
        if angles > MOST_ANGLES:
            raise ConfigError(
                f"model.angles={angles} (times model.width, where that widens them) must be at most "
                f"{MOST_ANGLES}; lower them"
            )
        channels, *sides = shape
        coarsest = 2**scales
        self.scales = scales
        maps = 1 + angles * scales + angles**2 * scales * (scales - 1) // 2
        self.output_shape = (channels * maps, *(side // coarsest for side in sides))
        padded = [(side // coarsest + 2) * coarsest for side in sides]
        margins = [(to - side) // 2 for to, side in zip(padded, sides, strict=True)]
        self.padding = [margins[1], padded[1] - sides[1] - margins[1]]
        self.padding += [margins[0], padded[0] - sides[0] - margins[0]]
        if max(self.padding) >= min(sides):
            raise ConfigError(
                f"model.scales={scales} needs images of more than {max(self.padding)} pixels a side, and "
                f"these are {sides[0]} x {sides[1]}; lower model.scales"
            )
        for scale in range(scales):
            spectra = torch.stack(
                [morlet(padded, scale, angle, slant=4 / angles) for angle in orientations(angles)]
            )
            for level in range(max(1, scale)):
                self._constant(f"wavelets_{scale}_{level}", cropped(spectra, level, (1, 2)))
        for level in range(scales + 1):
            for axis, side in enumerate(padded):
                self._constant(f"averages_{axis}_{level}", averaging(side, scales, level))

    def _constant(self, name: str, value: Tensor) -> None:
        """A buffer that follows the model to its device and is not part of its weights."""
        self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scattering coefficients (N, C K, h, w) of images (N, C, H, W)."""
        chunk = CHUNK_CPU if inputs.device.type == "cpu" else CHUNK_ELSEWHERE
        return torch.cat([self._transform(part) for part in inputs.split(chunk)])

    def _transform(self, images: Tensor) -> Tensor:
        means = F.pad(images, self.padding, mode="reflect")
        spectrum = torch.fft.fft2(means).unsqueeze(2)
        zeroth = self._average(means, level=0).unsqueeze(2)
        first, second = [], []
        for scale in range(self.scales):
            moduli = self._moduli(spectrum, scale, level=0)  # (N, C, L, h, w)
            first.append(self._average(moduli, level=scale))
            if scale + 1 == self.scales:
                break
            inner = torch.fft.fft2(moduli).unsqueeze(3)
            deeper = [self._moduli(inner, other, level=scale) for other in range(scale + 1, self.scales)]
            averaged = [self._average(found, level=scale + 1 + number) for number, found in enumerate(deeper)]
            second.append(torch.cat(averaged, dim=3).flatten(2, 3))
        return torch.cat([zeroth, *first, *second], dim=2).flatten(1, 2)

    def _moduli(self, spectrum: Tensor, scale: int, *, level: int) -> Tensor:
        """Moduli (..., L, h, w) at step 2^scale, at that scale's wavelets, of a spectrum at step 2^level."""
        filtered = spectrum * self.get_buffer(f"wavelets_{scale}_{level}")
        return torch.fft.ifft2(folded(filtered, 2 ** (scale - level))).abs()

    def _average(self, values: Tensor, *, level: int) -> Tensor:
        """Averages over 2^J pixels, at step 2^J and without the margin, of values at step 2^level."""
        rows, columns = (self.get_buffer(f"averages_{axis}_{level}") for axis in (0, 1))
        return rows @ values @ columns.T


def orientations(angles: int) -> list[float]:
    """The directions of the wavelets, in radians: half a turn in equal steps, for images are real."""
    return [(angles // 2 - 1 - number) * math.pi / angles for number in range(angles)]


def morlet(sides: Sequence[int], scale: int, angle: float, *, slant: float) -> Tensor:
    """Spectrum (H, W) of a Morlet wavelet at 2^scale pixels: a Gaussian off the centre, its mean taken out.

    `slant` is its length along the wave over its length across.
    """
    width, frequency = WIDTH * 2**scale, FREQUENCY / 2**scale
    wave = window(sides, width, angle, slant=slant, frequency=frequency)
    envelope = window(sides, width, angle, slant=slant)
    return wave - wave[0, 0] / envelope[0, 0] * envelope


def window(
    sides: Sequence[int], width: float, angle: float, *, slant: float = 1.0, frequency: float = 0.0
) -> Tensor:
    """Spectrum (H, W), float64, of a sampled Gaussian window of unit mass, modulated to `frequency`."""
    total = torch.zeros(*sides, dtype=torch.float64)
    shifts = [2 * math.pi * alias for alias in range(-ALIASES, ALIASES + 1)]
    rows, columns = (2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64) for side in sides)
    for down in shifts:
        for right in shifts:
            y, x = rows[:, None] + down, columns[None, :] + right
            along = math.cos(angle) * y + math.sin(angle) * x - frequency
            across = math.cos(angle) * x - math.sin(angle) * y
            total += torch.exp(-(width**2) / 2 * (along**2 + (across / slant) ** 2))
    return total


def averaging(side: int, scales: int, level: int) -> Tensor:
    """The low-pass window as a matrix (side / 2^scales - 2, side / 2^level), for it is separable.

    Its rows are a step of 2^scales pixels apart; the first and the last, which belong to the margin, are
    left out.
    """
    spectrum = window((side, 1), WIDTH * 2 ** (scales - 1), angle=0.0)[:, 0]
    kernel = torch.fft.ifft(cropped(spectrum, level, (0,))).real
    size, step = side // 2**level, 2 ** (scales - level)
    places = torch.arange(0, size, step)[1:-1, None] - torch.arange(size)[None, :]
    return kernel[places % size]


def cropped(spectra: Tensor, level: int, axes: Sequence[int]) -> Tensor:
    """Spectra without the frequencies that a grid 2^level times coarser cannot hold."""
    for axis in axes:
        size = spectra.shape[axis]
        kept = torch.fft.fftfreq(size // 2**level, 1 / (size // 2**level)).round().long() % size
        spectra = spectra.index_select(axis, kept)
    return spectra


def folded(spectra: Tensor, step: int) -> Tensor:
    """Spectra (..., H, W) of the same images at every `step`-th pixel: (..., H / step, W / step)."""
    height, width = spectra.shape[-2] // step, spectra.shape[-1] // step
    # Views added up one by one: a reduction over strided complex numbers takes several times as long.
    narrow = reduce(torch.add, spectra.split(width, dim=-1))
    return reduce(torch.add, narrow.split(height, dim=-2)) / step**2
