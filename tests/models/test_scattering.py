"""The scattering transform does what is published of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dptrain.contracts import ConfigError
from dptrain.models.scatter import ScatterLinear
from dptrain.models.scattering import Scattering2d, averaging, folded, morlet, orientations, window

pytestmark = pytest.mark.run

SIDES = (36, 36)


def images(count: int, *shape: int) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def waves(count: int, side: int, *, cycles: int) -> Tensor:
    """Smooth images that repeat at the border, so that the border plays no part."""
    rng = torch.Generator().manual_seed(2)
    spectrum = torch.zeros(count, 1, side, side, dtype=torch.complex64)
    low = [*range(cycles + 1), *range(-cycles, 0)]
    for row in low:
        for column in low:
            spectrum[:, 0, row, column] = torch.randn(count, generator=rng) + 1j * torch.randn(
                count, generator=rng
            )
    return torch.fft.ifft2(spectrum).real * side


@pytest.mark.parametrize(
    ("shape", "scales", "angles", "made"),
    [
        ((1, 28, 28), 2, 8, (81, 7, 7)),
        ((3, 32, 32), 2, 8, (243, 8, 8)),
        ((1, 28, 28), 1, 8, (9, 14, 14)),
        ((1, 32, 48), 3, 4, (1 + 12 + 48, 4, 6)),
        ((2, 30, 44), 2, 5, (2 * 36, 7, 11)),
    ],
)
def test_channels_and_resolution_are_the_published_ones(shape, scales, angles, made) -> None:
    transform = Scattering2d(shape, scales=scales, angles=angles)
    assert transform(images(2, *shape)).shape == (2, *made)
    assert transform.output_shape == made


def test_wavelets_have_no_mean_and_the_average_has_unit_mass() -> None:
    for angle in orientations(8):
        assert morlet(SIDES, 1, angle, slant=0.5)[0, 0].abs() < 1e-12
    assert averaging(36, 2, 0).sum(1) == pytest.approx([1.0] * 7)


def test_half_a_turn_of_directions() -> None:
    assert orientations(8)[0] - orientations(8)[-1] == pytest.approx(7 / 8 * math.pi)
    first, turned = morlet(SIDES, 1, 0.0, slant=0.5), morlet(SIDES, 1, math.pi / 2, slant=0.5)
    torch.testing.assert_close(turned, first.T)


def test_the_filters_hardly_stretch_and_nowhere_forget_the_image() -> None:
    """The Littlewood-Paley sum is at most 1, and above 0 at every frequency (Mallat 2012, section 2.1)."""
    total = window(SIDES, 1.6, 0.0).square()
    for scale in range(2):
        for angle in orientations(8):
            power = morlet(SIDES, scale, angle, slant=0.5).square()
            total += (power + power.flip((0, 1)).roll((1, 1), (0, 1))) / 2
    frequencies = torch.fft.fftfreq(36)
    inside = frequencies[:, None].square() + frequencies[None, :].square() <= 0.25
    assert total.max() <= 1.0 + 1e-9
    assert total[inside].min() > 0.3


def test_the_average_matrix_is_the_window_filter() -> None:
    """Two small products are what the two-dimensional filter gives, at each resolution."""
    values = images(1, 36, 36).double()
    filtered = torch.fft.ifft2(torch.fft.fft2(values) * window(SIDES, 1.6, 0.0)).real
    rows = averaging(36, 2, 0)
    torch.testing.assert_close(rows @ values @ rows.T, filtered[:, 4:-4:4, 4:-4:4])


def test_folding_a_spectrum_is_skipping_pixels() -> None:
    values = images(2, 12, 8)
    found = torch.fft.ifft2(folded(torch.fft.fft2(values), 2)).real
    torch.testing.assert_close(found, values[:, ::2, ::2])


def test_a_shift_by_the_averaging_scale_moves_the_coefficients_by_one() -> None:
    """Covariance with translation (Bruna and Mallat 2013, section 2.2), away from the border."""
    transform = Scattering2d((1, 64, 64))
    wide = images(2, 1, 64, 68)
    here, there = transform(wide[..., :64]), transform(wide[..., 4:])
    torch.testing.assert_close(here[:, :, 4:-4, 5:-4], there[:, :, 4:-4, 4:-5], atol=2e-4, rtol=0)


def test_a_small_shift_moves_coefficients_less_than_pixels() -> None:
    transform = Scattering2d((1, 32, 32), scales=3)
    wide = images(8, 1, 32, 33)
    here, there = wide[..., :32], wide[..., 1:]

    def moved(first: Tensor, second: Tensor) -> float:
        return float((first - second).norm() / first.norm())

    assert moved(transform(here), transform(there)) < 0.2 * moved(here, there)


def test_it_contracts() -> None:
    """Two images differ no more in their coefficients than in their pixels (Mallat 2012, theorem 2.10)."""
    transform = Scattering2d((1, 32, 32))
    step = 2**2  # each coefficient stands for so many pixels a side
    for first, second in (
        (images(6, 1, 32, 32), images(6, 1, 32, 32).flip(0)),
        (waves(6, 32, cycles=9),) * 2,
    ):
        other = second.roll(1, 0)
        before = (first - other).flatten(1).norm(dim=1)
        after = step * (transform(first) - transform(other)).flatten(1).norm(dim=1)
        assert (after <= before).all()


def test_energy_goes_from_the_pixels_into_two_orders() -> None:
    """Of waves that the filters reach, two orders keep most (Bruna and Mallat 2013, section 3.2)."""
    pixels = waves(16, 32, cycles=4)
    pixels = pixels - pixels.mean((2, 3), keepdim=True)
    made = Scattering2d((1, 32, 32), scales=3)(pixels)
    kept = [64 * part.square().sum((1, 2, 3)) for part in made.split([1, 24, 192], dim=1)]
    shares = torch.stack(kept) / pixels.square().sum((1, 2, 3))
    mean = shares.mean(1)
    assert 0.8 < mean.sum() <= 1.0
    assert mean[1] > mean[2] > 0.01


def test_coefficients_are_not_negative_but_for_the_mean() -> None:
    made = Scattering2d((1, 28, 28))(images(4, 1, 28, 28) - 0.5)
    assert made[:, 1:].min() > -1e-4
    assert made[:, 0].min() < 0


def test_each_record_is_transformed_by_itself_whatever_the_batch() -> None:
    transform = Scattering2d((1, 28, 28))
    inputs = images(37, 1, 28, 28)
    torch.testing.assert_close(transform(inputs)[20:21], transform(inputs[20:21]), atol=1e-6, rtol=1e-5)


def test_it_is_differentiable_and_trains_nothing() -> None:
    transform = Scattering2d((1, 16, 16)).double()
    assert not list(transform.parameters())
    assert not transform.state_dict()
    inputs = images(1, 1, 16, 16).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: transform(x)[:, ::9, 1], inputs, atol=1e-5)


def test_an_image_too_small_is_refused_with_the_cure() -> None:
    with pytest.raises(
        ConfigError, match=r"model\.scales=3 needs images of more than 8 pixels .*8 x 8; lower"
    ):
        Scattering2d((1, 8, 8), scales=3)


def test_more_directions_than_can_be_computed_are_refused_with_the_cure() -> None:
    with pytest.raises(ConfigError, match=r"model\.angles=400 \(times model\.width.* at most 64"):
        ScatterLinear((1, 28, 28), 10, width=50)


def test_as_kymatio_has_it() -> None:
    """The library's numbers, up to its pi, which is 3.1415 (it imports beside SciPy below 1.15 only)."""
    kymatio = pytest.importorskip("kymatio.torch", exc_type=ImportError)
    for shape, scales, angles in (
        ((1, 28, 28), 2, 8),
        ((3, 32, 32), 2, 8),
        ((2, 30, 44), 2, 5),
        ((1, 32, 32), 3, 6),
    ):
        inputs = images(3, *shape)
        theirs = kymatio.Scattering2D(J=scales, L=angles, shape=shape[1:])(inputs).flatten(1, 2)
        torch.testing.assert_close(
            Scattering2d(shape, scales=scales, angles=angles)(inputs), theirs, atol=1e-6, rtol=1.2e-4
        )


def test_padding_is_by_reflection() -> None:
    """As the transform of a larger image, whose margin is the reflection."""
    inputs = images(2, 1, 28, 28)
    larger = Scattering2d((1, 36, 36))(F.pad(inputs, [4] * 4, mode="reflect"))
    torch.testing.assert_close(
        larger[:, :1, 1:-1, 1:-1], Scattering2d((1, 28, 28))(inputs)[:, :1], atol=2e-3, rtol=0
    )
