"""Class inversion: what does a class look like?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from dptrain.config import Evidence
from dptrain.contracts import Attempt, Game, Images, Scored, Scoring, Splits
from dptrain.evaluation.games.class_inversion.evaluator import Evaluator, load_evaluator, train_evaluator
from dptrain.evaluation.games.class_inversion.scoring import query_curve, score_class_inversion

FITTED = 2  # test records that the space of class inversions is fitted to, at least


@dataclass(frozen=True, kw_only=True)
class ClassInversion(Game):
    """The attack makes inputs of each class; another model, and the nearest records, tell what they show."""

    untrained: ClassVar[int] = 3  # a single one may favour a class by chance
    findings: ClassVar[type] = Images

    evidence: Evidence
    evaluator_steps: int

    def problems(self, splits: Splits, assigned: Any) -> Iterator[str]:  # noqa: ARG002
        """Inversions are held against members and held-out records of their class, among test records."""
        for part, records in (("training", splits.train), ("holdout", splits.holdout)):
            counts = records.labels.bincount(minlength=splits.num_classes).tolist()
            absent = [name for name, count in zip(splits.classes, counts, strict=False) if not count]
            if absent:
                named = ", ".join(repr(name) for name in absent)
                yield (
                    f"the {part} records hold none of class {named}, so class inversion cannot be judged; "
                    f"give the {part} split records of every class, or leave the attack out"
                )
        if len(splits.test) < FITTED:
            yield (
                f"{len(splits.test)} test records are too few to judge class inversion; give {FITTED} or more"
            )

    def score(self, attempt: Attempt[Images], scoring: Scoring) -> Scored:
        evaluator = _evaluator(scoring, self.evaluator_steps)
        lines, gallery = score_class_inversion(
            attempt.attack,
            attempt.found,
            attempt.control,
            _together(attempt.baseline),
            scoring.splits,
            evaluator,
            scoring.guarantee,
            scoring.streams.seeded("permutations"),
            confidence=self.evidence.confidence,
            permutations=self.evidence.permutations,
            interface=attempt.interface,
        )
        return Scored(
            leakage=lines, gallery=gallery, queries=query_curve(attempt.found, attempt.control, evaluator)
        )


def _evaluator(scoring: Scoring, steps: int) -> Evaluator:
    """The model that recognises class inversions, trained or found when it is first asked for."""
    splits, streams = scoring.splits, scoring.streams
    records = [part.hashed().hexdigest() for part in (splits.holdout, splits.test, splits.public) if part]
    kept = scoring.keep(
        "evaluator",
        (streams.seed, splits.classes, splits.mean, splits.std, splits.shape, records, steps),
        lambda: train_evaluator(
            splits, streams.seeded("judge"), steps=steps, device=scoring.device
        ).state_dict(),
    )
    return load_evaluator(splits, kept, device=scoring.device)


def _together(found: tuple[Images, ...]) -> Images:
    """The images of several attacks as one."""
    return Images(
        inputs=torch.cat([each.inputs for each in found]), labels=torch.cat([each.labels for each in found])
    )
