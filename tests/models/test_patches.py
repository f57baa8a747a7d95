"""Patches and drawn photographs: features of images in colour that no record shapes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dptrain.assembly.build import build
from dptrain.contracts import ConfigError
from dptrain.models import patches as module
from dptrain.models.patches import SIDE, THRESHOLD, Patches
from dptrain.models.photographs import _Sheet, photographs
from dptrain.models.scatter import ScatterLinear
from dptrain.models.whitening import Mirrored, SideBySide

pytestmark = pytest.mark.run

SHAPE = (3, 16, 16)
KERNELS = 12


@pytest.fixture(scope="module")
def images():
    return photographs(60, SHAPE)


@pytest.fixture
def made(images, monkeypatch):
    monkeypatch.setattr(module, "KERNELS", 5)  # so that the last part is smaller
    return Patches.of(images, kernels=KERNELS, pooled=2)


def by_hand(made, image):
    """Patch by patch: normalise, multiply, compare with the threshold, average a quarter of the places."""
    places = 16 - SIDE + 1
    found = torch.zeros(2 * KERNELS, places, places)
    for row in range(places):
        for column in range(places):
            patch = image[:, row : row + SIDE, column : column + SIDE].flatten()
            patch = (patch - patch.mean()) / (patch.var(correction=0) + 0.04).sqrt()
            likeness = made.kernels.flatten(1) @ patch + made.offsets
            found[:, row, column] = torch.cat([likeness - THRESHOLD, -likeness - THRESHOLD]).clamp(min=0)
    return F.adaptive_avg_pool2d(found, 2)


def test_likeness_is_what_it_says_patch_by_patch(made, images):
    seen = made(images[:20])
    assert seen.shape == (20, 2 * KERNELS, 2, 2)
    for number in (0, 19):
        torch.testing.assert_close(seen[number], by_hand(made, images[number]), atol=1e-4, rtol=1e-3)


def test_neither_brightness_nor_much_of_contrast_counts(made, images):
    torch.testing.assert_close(made(images[:4] + 3), made(images[:4]), atol=1e-2, rtol=0)
    strong = 8 * images[:4]
    torch.testing.assert_close(made(3 * strong), made(strong), atol=0.1, rtol=0)


def test_likenesses_say_different_things_where_pixels_of_a_patch_go_together(images):
    many = Patches.of(images, kernels=60)
    drawn = module._normalised(module._drawn(images, 5000, torch.Generator().manual_seed(0)).flatten(1))
    likeness = drawn @ many.kernels.flatten(1).T + many.offsets
    assert likeness.mean(0).abs().max() < 0.1

    def together(values):
        return float(torch.corrcoef(values.T).square().mean())

    assert together(likeness) < 0.05 < together(drawn)


def test_images_smaller_than_a_patch_are_refused_with_the_cure():
    with pytest.raises(
        ConfigError, match=r"model\.patches=4 needs images of at least 6 pixels a side, .* 5; set"
    ):
        Patches.of(torch.zeros(10, 3, 5, 8), kernels=4)


def test_an_image_and_its_mirror_image_are_the_same(made, images):
    mirrored = Mirrored(made)
    torch.testing.assert_close(mirrored(images[:3].flip(3)), mirrored(images[:3]))
    torch.testing.assert_close(mirrored(images[:3]), (made(images[:3]) + made(images[:3].flip(3))) / 2)


def test_kinds_vary_alike_side_by_side(images):
    small, large = nn.Flatten(), nn.Sequential(nn.AvgPool2d(2), nn.Flatten())
    large[1].register_forward_hook(lambda _, __, values: 100 * values)
    both = SideBySide.of([small, large], images)
    variances = both(images).var(0).split([math.prod(SHAPE), math.prod(SHAPE) // 4])
    assert [float(part.sum()) for part in variances] == pytest.approx([1.0, 1.0], rel=1e-4)


def test_photographs_are_the_same_each_time_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    assert torch.equal(photographs(3, SHAPE), photographs(3, SHAPE))
    assert torch.equal(torch.get_rng_state(), state)
    assert photographs(2, (1, 12, 20)).shape == (2, 1, 12, 20)


def test_photographs_have_the_statistics_of_natural_images():
    """Neighbouring channels go together, amplitudes fall with frequency, and edges are rare but sharp."""
    images = photographs(300, (3, 32, 32))
    assert abs(float(images.mean())) < 0.1
    assert float(images.std()) == pytest.approx(1, abs=0.1)
    near, far = torch.corrcoef(images.transpose(0, 1).flatten(1))[0, 1:]
    assert 0.85 < near < 0.97
    assert 0.65 < far < 0.9
    grey = images.mean(1)
    steps = grey.diff(dim=-1)
    assert 6 < float((steps / steps.std()).pow(4).mean()) < 20
    spectrum = torch.fft.fft2(grey).abs().square().mean((0, 1))
    slope = float((spectrum[8] / spectrum[2]).log() / math.log(8 / 2))
    assert -3 < slope < -1.5


def test_textures_of_photographs_are_coarse_rather_than_fine():
    texture = _Sheet(50, (1, 32, 32), torch.Generator().manual_seed(0)).texture()
    assert texture.std((1, 2, 3)) == pytest.approx(torch.ones(50), abs=1e-4)
    spectrum = torch.fft.fft2(texture).abs().square().mean((0, 1))
    assert spectrum[1, 0] > 4 * spectrum[4, 0] > 16 * spectrum[16, 0]


def test_the_head_alone_is_trained_and_all_that_was_drawn_is_part_of_the_weights(images):
    model = ScatterLinear(SHAPE, 3, patches=4, mirrored=True, components=10, drawn="photographs")
    assert {name for name, each in model.named_parameters() if each.requires_grad} == {
        "head.1.weight",
        "head.1.bias",
    }
    other = ScatterLinear(SHAPE, 3, patches=4, mirrored=True, components=10)
    assert not torch.allclose(model.features(images[:2]), other.features(images[:2]), atol=0.1)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(images[:2]), model(images[:2]))
    torch.testing.assert_close(model(images[:2].flip(3)), model(images[:2]), atol=1e-4, rtol=1e-3)
    inputs = images[:1].clone().requires_grad_()
    model(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"drawn": "x"}, r"model\.drawn=x is not known; choose one of shapes, photographs"),
        ({"patches": -1}, r"model\.patches=-1 should be greater than or equal to 0"),
    ],
)
def test_wrong_values_are_refused_with_the_cure(wrong, said):
    with pytest.raises(ConfigError, match=said):
        build(
            "model",
            {"_target_": "dptrain.models.scatter.ScatterLinear", **wrong},
            shape=SHAPE,
            num_classes=3,
        )
