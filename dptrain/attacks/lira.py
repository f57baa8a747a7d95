"""Was this record trained on? The likelihood-ratio attack: compared with models that were and were not.

Carlini et al. 2022 ("Membership Inference Attacks From First Principles", Algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from dptrain.attacks.membership import odds
from dptrain.contracts import Access, ConfigError, Records, Release, Scores, Targets

ENOUGH_FOR_EACH = 64  # shadow models, from which on each probe's own variance can be told
RIDGE = 1e-6  # added to variances of log-odds, which an interface that hides much may make zero
MOST_QUERIES = 4


@dataclass(frozen=True, kw_only=True)
class Lira:
    """Scores a probe by how much likelier its log-odds are among shadow models trained on it than on others.

    Log-odds are taken as normal over trainings, with a mean for each probe from the shadow
    models. `mode` online compares those trained on it with those not; offline uses only those
    not, and scores by how far the release lies above their mean. `variance` fixed is pooled over
    the probes, per_record is each probe's own; None chooses fixed below 64 shadow models.
    Where a training solves one equation, as for linear heads in closed form, there are `shadows_at_once`.
    `queries_per_record` up to 4 asks also about an image shifted by a pixel either way and
    mirrored, whose log-odds are jointly normal; of records that are no images, once.
    """

    needs: ClassVar[frozenset[Access]] = frozenset({Access.CONFIDENCES})
    game: ClassVar[str] = "membership"
    any_labels: ClassVar[bool] = True

    shadows: int = 16
    shadows_at_once: int = 128
    mode: str = "online"  # online | offline
    variance: str | None = None  # fixed | per_record
    private_shadows: bool = False
    queries_per_record: int = 1

    def __post_init__(self) -> None:
        for key in ("shadows", "shadows_at_once"):
            count = getattr(self, key)
            if count < 4 or count % 2:
                raise ConfigError(f"{key}={count} must be even and at least 4: LiRA's come in pairs")
        if self.mode not in ("online", "offline"):
            raise ConfigError(f"mode={self.mode} is no mode of LiRA; use online or offline")
        if self.variance not in (None, "fixed", "per_record"):
            raise ConfigError(
                f"variance={self.variance} is no variance of LiRA; use fixed, per_record or null"
            )
        if not 1 <= self.queries_per_record <= MOST_QUERIES:
            raise ConfigError(f"queries_per_record={self.queries_per_record} must be 1 to {MOST_QUERIES}")

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Scores:  # noqa: ARG002
        assert targets.probes is not None
        assert targets.shadows is not None
        queries = _queries(targets.probes, self.queries_per_record)
        at_once = targets.shadows.at_once and not self.private_shadows
        count = self.shadows_at_once if at_once else self.shadows
        shadows = targets.shadows.train(count, private=self.private_shadows)
        members = torch.stack([shadow.members for shadow in shadows])  # (shadows, probes)
        # The adversary puts the release's interface before models of their own.
        answers = torch.stack(
            [_ask(replace(shadow.release, output=release.output), queries) for shadow in shadows]
        )
        seen = _ask(release, queries)
        pooled = self.variance == "fixed" or (self.variance is None and count < ENOUGH_FOR_EACH)
        without = _gaussian(answers, ~members, pooled=pooled)
        if self.mode == "online":
            within = _gaussian(answers, members, pooled=pooled)
            return Scores(scores=within.log_prob(seen) - without.log_prob(seen))
        above = (seen - without.mean).mean(-1)
        return Scores(scores=above / without.covariance_matrix.mean((-1, -2)).sqrt())


def _queries(probes: Records, count: int) -> list[Records]:
    """The probes as they are, moved right, moved left, mirrored: the first `count` of these."""
    images = probes.inputs
    if images.ndim < 4:
        return [probes]
    right = torch.cat([images[..., :1], images[..., :-1]], dim=-1)
    left = torch.cat([images[..., 1:], images[..., -1:]], dim=-1)
    return [Records(moved, probes.labels) for moved in (images, right, left, images.flip(-1))[:count]]


def _ask(release: Release, queries: list[Records]) -> Tensor:
    """Log-odds of the label at every query, asked all at once: (probes, queries)."""
    answers = release.predict(torch.cat([query.inputs for query in queries]))
    found = odds(release, answers, torch.cat([query.labels for query in queries]))
    return found.view(len(queries), -1).T


def _gaussian(answers: Tensor, chosen: Tensor, *, pooled: bool) -> MultivariateNormal:
    """The normal distribution of each probe's answers (shadows, probes, queries) among the chosen shadows."""
    weights = chosen.double().unsqueeze(-1)  # (shadows, probes, 1)
    count = weights.sum(0)
    mean = (answers * weights).sum(0) / count
    apart = (answers - mean) * weights
    scatter = torch.einsum("spq,spr->pqr", apart, apart)
    if pooled:
        covariance = scatter.sum(0, keepdim=True) / (count - 1).sum()
    else:
        covariance = scatter / (count - 1).unsqueeze(-1)
    return MultivariateNormal(mean, covariance + RIDGE * torch.eye(answers.shape[-1], dtype=answers.dtype))
