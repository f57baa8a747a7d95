"""The audit of canaries: which artificial gradients took part in the training?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from dptrain.config import Evidence
from dptrain.contracts import (
    Assigned,
    Attempt,
    Bets,
    Canaries,
    Clips,
    ConfigError,
    Context,
    Detectable,
    Game,
    Guarantee,
    Plan,
    Scored,
    Scoring,
    Splits,
    Streams,
    Targets,
)
from dptrain.evaluation.games.audit.scoring import detectable, score_bets

CROWDED = 10  # parameters there must be to each canary, so that most of the model stays as it was
FEWEST = 20  # canaries; fewer certify nothing
CONTROL_SCALE = 1e-3  # length of the control's canaries: without noise any length shows
UNHIDDEN = 1e-3  # length of canaries where there is no noise at all


@dataclass(frozen=True, kw_only=True)
class CanaryAssignment(Assigned):
    """Canaries, and the secret of which take part; only the scoring of an audit may see `members`."""

    canaries: Canaries
    members: Tensor  # (canaries,) bool

    @property
    def trained_on(self) -> Canaries:
        """Those that take part."""
        return replace(self.canaries, coordinates=self.canaries.coordinates[self.members])

    def scaled(self, factor: float) -> CanaryAssignment:
        """The same canaries, of which the same take part, each gradient this much as long."""
        return replace(self, canaries=replace(self.canaries, norm=self.canaries.norm * factor))

    def enter(self, context: Context) -> Context:
        return replace(context, canaries=self.trained_on)

    def for_control(self) -> CanaryAssignment:
        return self.scaled(CONTROL_SCALE)

    def described(self) -> dict[str, int | None]:
        return {"canaries": len(self.members), "canaries_trained_on": int(self.members.sum())}


def assign_canaries(
    parameters: int, canaries: int, *, norm: float, rng: torch.Generator, secret: torch.Generator
) -> CanaryAssignment | None:
    """Up to `canaries` canaries, each along a parameter of its own, one in ten parameters at most.

    `rng` chooses the parameters, which are public; `secret` which canaries take part. None: fewer than 20.
    """
    count = min(canaries, parameters // CROWDED)
    if count < FEWEST:
        return None
    return CanaryAssignment(
        canaries=Canaries(coordinates=torch.randperm(parameters, generator=rng)[:count], norm=norm),
        members=torch.rand(count, generator=secret) < 0.5,
    )


@dataclass(frozen=True, kw_only=True)
class AuditOfCanaries(Game):
    """Artificial gradients take part or not, by a random choice each; the attack bets on which did."""

    assignment: ClassVar[str] = "canaries"
    findings: ClassVar[type] = Bets

    evidence: Evidence

    def prepare_model(self, model: nn.Module, plan: Plan | None, streams: Streams) -> CanaryAssignment | None:
        if plan is not None and not isinstance(plan, Clips):
            raise ConfigError(
                "attack=audit_canaries needs canaries, which are clipped gradients, and this mechanism clips "
                "none; leave the attack out, or choose mechanism=dpsgd"
            )
        return assign_canaries(
            sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
            self.evidence.canaries,
            norm=UNHIDDEN if plan is None else self.evidence.canary_norm * plan.max_grad_norm,
            rng=streams.seeded("canaries"),
            secret=streams.seeded("coins of the canaries"),
        )

    def problems(self, splits: Splits, assigned: CanaryAssignment | None) -> Iterator[str]:  # noqa: ARG002
        if assigned is None:
            yield (
                f"evidence.canaries={self.evidence.canaries}: a model has room for one canary to {CROWDED} "
                f"parameters, and fewer than {FEWEST} certify nothing; choose a larger model, or leave the "
                "attack out"
            )

    def public(self, splits: Splits, assigned: CanaryAssignment) -> Targets:
        return Targets.of(splits, canaries=assigned.canaries)

    def detectable(
        self,
        splits: Splits,  # noqa: ARG002
        assigned: CanaryAssignment,
        guarantee: Guarantee,
    ) -> Iterator[Detectable]:
        yield detectable(len(assigned.canaries), guarantee, confidence=self.evidence.confidence)

    def score(self, attempt: Attempt[Bets], scoring: Scoring) -> Scored:
        return score_bets(attempt, scoring, on="canaries", confidence=self.evidence.confidence)
