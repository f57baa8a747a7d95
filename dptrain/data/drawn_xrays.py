"""Chest X-rays that are drawn, not taken: patients without a person behind them.

Attenuation along each ray, then exposure, then the detector's noise. Coordinates are in half images: x grows
towards the patient's left, which is the picture's right, y grows downwards, both from -1 to 1. Every
quantity of a record is a column (N, 1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

RAYS_ACROSS = 56  # at least about this many, so that small images are averaged, not jagged
CHUNK_RAYS = 1 << 21  # drawn at once, to bound memory


class Dice:
    """Random columns (n * times, 1, 1): n numbers, each `times` in a row."""

    def __init__(self, n: int, rng: torch.Generator, *, times: int = 1) -> None:
        self.n = n
        self.rng = rng
        self.times = times

    def uniform(self, low: float, high: float) -> Tensor:
        return self._repeat(low + (high - low) * torch.rand(self.n, 1, 1, generator=self.rng))

    def normal(self, mean: float, std: float) -> Tensor:
        return self._repeat(mean + std * torch.randn(self.n, 1, 1, generator=self.rng))

    def side(self) -> Tensor:
        """-1, the patient's right lung, or 1, the left one."""
        return torch.where(self.uniform(0, 1) < 0.5, -1.0, 1.0)

    def field(self, cells: int, size: int) -> Tensor:
        """Smooth random fields (n * times, size, size) of about unit deviation, `cells` bumps across."""
        coarse = torch.randn(self.n, 1, cells, cells, generator=self.rng)
        fine = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
        return self._repeat(fine[:, 0])

    def _repeat(self, values: Tensor) -> Tensor:
        return values if self.times == 1 else values.repeat_interleave(self.times, 0)


@dataclass(frozen=True, kw_only=True)
class Body:
    """What the patients are made of; columns (N, 1, 1)."""

    width: Tensor  # of the trunk
    lung_x: Tensor  # centre of each lung, from the midline
    lung_width: Tensor
    lung_top: Tensor
    lung_base: Tensor  # height of the diaphragm
    lung_power: Tensor  # 2 is an ellipse, more is squarer
    air: Tensor  # how little the lungs attenuate
    heart_x: Tensor
    heart_y: Tensor
    heart_width: Tensor
    heart_density: Tensor
    spine_width: Tensor
    rib_spacing: Tensor
    rib_phase: Tensor
    rib_slope: Tensor
    rib_density: Tensor
    clavicle_y: Tensor
    hilum: Tensor

    @classmethod
    def sample(cls, dice: Dice) -> Body:
        """Patients of many builds."""
        return cls(
            width=dice.normal(0.93, 0.05),
            lung_x=dice.normal(0.43, 0.025),
            lung_width=dice.normal(0.32, 0.025),
            lung_top=dice.normal(-0.78, 0.05),
            lung_base=dice.normal(0.60, 0.08),
            lung_power=dice.uniform(2.1, 2.9),
            air=dice.normal(0.52, 0.06),
            heart_x=dice.normal(0.13, 0.03),
            heart_y=dice.normal(0.34, 0.05),
            heart_width=dice.normal(0.30, 0.05),
            heart_density=dice.normal(0.36, 0.05),
            spine_width=dice.normal(0.10, 0.015),
            rib_spacing=dice.normal(0.24, 0.025),
            rib_phase=dice.uniform(0, 1),
            rib_slope=dice.normal(0.55, 0.12),
            rib_density=dice.uniform(0.04, 0.11),
            clavicle_y=dice.normal(-0.70, 0.05),
            hilum=dice.uniform(0.08, 0.22),
        )


def draw(
    labels: Tensor, findings: Sequence[str], *, size: int, records_per_patient: int, rng: torch.Generator
) -> Tensor:
    """Images (patients * records_per_patient, 1, size, size), float32 in (0, 1), a patient's in a row.

    `labels` (patients,) is 0 for normal and i for `findings[i - 1]`.
    """
    rays = (size * _rays_a_pixel(size)) ** 2 * records_per_patient
    chunks = labels.split(max(1, CHUNK_RAYS // rays))
    return torch.cat([_draw_chunk(chunk, findings, size, records_per_patient, rng) for chunk in chunks])


def _draw_chunk(
    labels: Tensor, findings: Sequence[str], size: int, records_per_patient: int, rng: torch.Generator
) -> Tensor:
    patient = Dice(len(labels), rng, times=records_per_patient)
    record = Dice(len(labels) * records_per_patient, rng)
    labels = labels.repeat_interleave(records_per_patient)
    body = Body.sample(patient)
    x, y = _position(size * _rays_a_pixel(size), record)
    trunk, lungs, density = _anatomy(body, x, y, patient)
    for label, finding in enumerate(findings, start=1):
        # Drawn for every patient, so that one patient's label does not move another's numbers.
        density = density + FINDINGS[finding](body, x, y, lungs, patient) * (labels == label).view(-1, 1, 1)
    return _expose(F.avg_pool2d((density * trunk)[:, None], _rays_a_pixel(size)), record)


def _position(rays: int, dice: Dice) -> tuple[Tensor, Tensor]:
    """Where each ray meets the patient, who stands a little turned, shifted, near or far."""
    axis = (torch.arange(rays) + 0.5) / rays * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle, zoom = dice.normal(0, 0.05), dice.normal(1.0, 0.05)
    right, down = dice.normal(0, 0.05), dice.normal(0, 0.05)
    return (
        (x * angle.cos() + y * angle.sin()) * zoom + right,
        (y * angle.cos() - x * angle.sin()) * zoom + down,
    )


def _anatomy(body: Body, x: Tensor, y: Tensor, dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of trunk and lungs, and density, each (N, rays, rays)."""
    shoulders = body.width - 0.55 * ((-0.55 - y).clamp_min(0) / 0.45) ** 2
    trunk = _soft(shoulders - x.abs(), 0.04)
    lungs = _lung(body, x, y, -1.0) + _lung(body, x, y, 1.0)
    spine = torch.exp(-((x / body.spine_width) ** 2)) * (1 + 0.15 * torch.sin(2 * math.pi * y / 0.16))
    heart_tilt = x - body.heart_x - 0.25 * (y - body.heart_y)
    heart = _soft(1 - (heart_tilt / body.heart_width) ** 2 - ((y - body.heart_y) / 0.34) ** 2, 0.18)
    vessels = _soft(0.17 - x.abs(), 0.05) * _soft(body.heart_y - y, 0.1)
    arch = (y - body.rib_slope * x.abs() ** 1.6) / body.rib_spacing + body.rib_phase
    ribs = torch.sin(2 * math.pi * arch).clamp_min(-0.2) * _soft(body.width - 0.1 - x.abs(), 0.05)
    clavicle = torch.exp(-(((y - body.clavicle_y + 0.22 * x.abs()) / 0.045) ** 2)) * _soft(
        x.abs() - 0.1, 0.05
    )
    hila = torch.exp(-(((x.abs() - 0.2) / 0.1) ** 2) - ((y + 0.02) / 0.2) ** 2)
    rays = x.shape[-1]
    markings = 0.045 * dice.field(12, rays) + 0.03 * dice.field(5, rays)
    density = (
        0.74
        - lungs * body.air
        + lungs * (body.hilum * hila + markings)
        + lungs * body.heart_density * torch.maximum(heart, 0.8 * vessels)
        + 0.16 * spine
        + body.rib_density * ribs
        + 0.09 * clavicle
        - 0.12 * x**2
    )
    return trunk, lungs, density


def _lung(body: Body, x: Tensor, y: Tensor, side: float) -> Tensor:
    """One lung's mask: a rounded shape, narrow at the top, cut below by a dome."""
    base = body.lung_base + (0.0 if side > 0 else -0.06)
    middle = (base + 0.15 + body.lung_top) / 2
    half = (base + 0.15 - body.lung_top) / 2
    across = (side * x - body.lung_x - 0.05 * y) / (body.lung_width * (0.88 + 0.2 * (y - body.lung_top)))
    along = (y - middle) / half
    shape = 1 - across.abs() ** body.lung_power - along.abs() ** body.lung_power
    dome = base + 0.55 * (side * x - body.lung_x + 0.08).clamp_min(-0.3) ** 2 - y
    return _soft(shape, 0.12) * _soft(dome, 0.025)


def _opacity(body: Body, x: Tensor, y: Tensor, lungs: Tensor, dice: Dice) -> Tensor:
    """A patch of consolidated lung, with a ragged rim."""
    side = dice.side()
    centre_x = side * (body.lung_x + dice.normal(0, 0.10))
    centre_y = dice.uniform(-0.45, 0.48)
    radius_x, radius_y = dice.uniform(0.16, 0.32), dice.uniform(0.16, 0.32)
    patch = torch.exp(-(((x - centre_x) / radius_x) ** 2) - ((y - centre_y) / radius_y) ** 2)
    ragged = (1 + 0.35 * dice.field(9, x.shape[-1])).clamp(0, 2)
    return dice.uniform(0.17, 0.54) * patch * ragged * lungs


def _effusion(body: Body, x: Tensor, y: Tensor, lungs: Tensor, dice: Dice) -> Tensor:
    """Fluid at the base of one lung, its surface climbing towards the chest wall."""
    side = dice.side()
    from_wall = (body.lung_x + body.lung_width - side * x).clamp_min(0)
    surface = body.lung_base + 0.06 - dice.uniform(0.12, 0.48) * torch.exp(-((from_wall / 0.35) ** 2))
    return dice.uniform(0.22, 0.44) * _soft(y - surface, 0.05) * _soft(side * x, 0.02) * lungs


def _nodule(body: Body, x: Tensor, y: Tensor, lungs: Tensor, dice: Dice) -> Tensor:
    """A small round lesion with a clear rim."""
    centre_x = dice.side() * (body.lung_x + dice.normal(0, 0.12))
    centre_y = dice.uniform(-0.5, 0.45)
    distance = ((x - centre_x) ** 2 + (y - centre_y) ** 2).sqrt()
    return dice.uniform(0.18, 0.42) * _soft(dice.uniform(0.07, 0.13) - distance, 0.03) * lungs


def _rays_a_pixel(size: int) -> int:
    """How many rays are averaged for a pixel, in each direction."""
    return max(1, round(RAYS_ACROSS / size))


def _expose(pixels: Tensor, dice: Dice) -> Tensor:
    """Densities (N, 1, size, size) as the film shows them, with more noise where fewer rays arrive."""
    brightness, contrast, gamma = (
        dice.normal(0.02, 0.03)[..., None],
        dice.normal(1.0, 0.07)[..., None],
        dice.uniform(0.85, 1.2)[..., None],
    )
    developed = (brightness + contrast * pixels).clamp(0, 1) ** gamma
    quanta = torch.randn(pixels.shape, generator=dice.rng) * (0.6 + 0.8 * pixels)
    return (developed + dice.uniform(0.012, 0.035)[..., None] * quanta).clamp(0, 1)


def _soft(distance: Tensor, width: float) -> Tensor:
    """1 well inside, 0 well outside of an edge that is `width` wide."""
    return torch.sigmoid(distance / (width / 2))


Finding = Callable[[Body, Tensor, Tensor, Tensor, Dice], Tensor]
FINDINGS: dict[str, Finding] = {"opacity": _opacity, "effusion": _effusion, "nodule": _nodule}
