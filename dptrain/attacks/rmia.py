"""Was this record trained on? The robust attack: compared with other records, by few shadow models.

Zarifzadeh, Liu and Shokri 2024 ("Low-Cost High-Power Membership Inference Attacks").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dptrain.attacks.membership import LEAST, true_class
from dptrain.contracts import Access, ConfigError, Records, Release, Scores, Targets


@dataclass(frozen=True, kw_only=True)
class Rmia:
    """Scores a probe x by the share of other records z that it dominates, gamma times over.

    x dominates z where p(x | model) / p(x) is at least gamma times p(z | model) / p(z); p is the
    confidence in the label, p(x) its mean over shadow models, half of which were trained on x. Of several
    labels or tokens it is their geometric mean, for all of them together are likely nowhere.
    `mode` offline knows only those that were not, and puts p(x) = ((1 + a) p_out + 1 - a) / 2
    with a = `offline_a`, which is also how p(z) is had in either mode: no model was trained on
    the z, `population` records of the adversary's own.
    """

    needs: ClassVar[frozenset[Access]] = frozenset({Access.CONFIDENCES})
    game: ClassVar[str] = "membership"
    any_labels: ClassVar[bool] = True

    shadows: int = 2
    mode: str = "online"  # online | offline
    population: int = 1000
    gamma: float = 2.0
    offline_a: float = 0.33
    private_shadows: bool = False

    def __post_init__(self) -> None:
        if self.shadows < 2 or self.shadows % 2:
            raise ConfigError(f"shadows={self.shadows} must be even and at least 2: RMIA's come in pairs")
        if self.mode not in ("online", "offline"):
            raise ConfigError(f"mode={self.mode} is no mode of RMIA; use online or offline")
        if self.population < 1:
            raise ConfigError(f"population={self.population} must be at least 1, such as 1000")
        if not self.gamma >= 1.0:
            raise ConfigError(f"gamma={self.gamma} must be at least 1, such as 2")
        if not 0.0 <= self.offline_a <= 1.0:
            raise ConfigError(f"offline_a={self.offline_a} must be between 0 and 1, such as 0.33")

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Scores:
        assert targets.probes is not None
        assert targets.shadows is not None
        probes = targets.probes
        others = targets.background.take(
            torch.randperm(len(targets.background), generator=rng)[: self.population]
        )
        asked = Records(torch.cat([probes.inputs, others.inputs]), torch.cat([probes.labels, others.labels]))
        shadows = targets.shadows.train(self.shadows, private=self.private_shadows)
        members = torch.stack([shadow.members for shadow in shadows])  # (shadows, probes)
        # The adversary puts the release's interface before models of their own.
        answers = torch.stack(
            [_ask(replace(shadow.release, output=release.output), asked) for shadow in shadows]
        )
        ratio = _ask(release, asked) / self._marginal(answers, members)
        return Scores(scores=_dominated(ratio[: len(probes)], ratio[len(probes) :], self.gamma))

    def _marginal(self, answers: Tensor, members: Tensor) -> Tensor:
        """p of the probes and of the others, (probes + others,), from the answers of every shadow model."""
        x, z = answers.split([members.shape[1], answers.shape[1] - members.shape[1]], dim=1)
        without = _mean(x, ~members)
        p_x = (_mean(x, members) + without) / 2 if self.mode == "online" else self._offline(without)
        return torch.cat([p_x, self._offline(z.mean(0))])

    def _offline(self, without: Tensor) -> Tensor:
        return ((1 + self.offline_a) * without + (1 - self.offline_a)) / 2


def _ask(release: Release, records: Records) -> Tensor:
    """Confidence in each record's label: (N,)."""
    answers, task = release.predict(records.inputs), release.task
    if task is None or task.of_classes:
        return true_class(answers, records.labels)
    each = task.log_likelihood(answers, records.labels) / records.labels[0].numel()
    return each.exp().clamp(min=LEAST)


def _mean(answers: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the chosen shadows of (shadows, probes): (probes,)."""
    return (answers * chosen).sum(0) / chosen.sum(0)


def _dominated(x: Tensor, z: Tensor, gamma: float) -> Tensor:
    """Share of the ratios z that each ratio of x is gamma times as large as: (probes,).

    The share grows with x's own ratio, which breaks ties by less than one z is worth: else a
    threshold could not tell probes apart that dominate the same z.
    """
    beaten = torch.searchsorted(z.sort().values, x / gamma, right=True)
    return (beaten + x / (1 + x)) / (len(z) + 1)
