"""From what attacks found to leakage lines: each kind has its judge; judges alone see the coins."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from dptrain.config import Evidence
from dptrain.contracts import (
    Attributes,
    Bets,
    DataError,
    Findings,
    Gallery,
    Guarantee,
    Guesses,
    Images,
    Knowledge,
    Leakage,
    Scores,
    Splits,
    Streams,
)
from dptrain.evaluation.assignment import Coins
from dptrain.evidence.attribute import judge_attributes
from dptrain.evidence.audit import judge_audit
from dptrain.evidence.class_inversion import judge_class_inversion, query_curve
from dptrain.evidence.evaluator import Judge, load_judge, train_judge
from dptrain.evidence.membership import judge_membership
from dptrain.evidence.probes import Drawing
from dptrain.evidence.reconstruction import judge_reconstruction
from dptrain.evidence.verdict import Shown, as_shown
from dptrain.runs.cache import Cache, content_key


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What one attack comes to, through one interface."""

    leakage: list[Leakage]
    gallery: Gallery | None = None
    queries: tuple[tuple[int, float, float | None], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Court:
    """All that judging takes: the records, the coins, the guarantee, and how sure one must be."""

    splits: Splits
    coins: Coins
    guarantee: Guarantee
    streams: Streams
    evidence: Evidence
    device: torch.device
    cache: Cache

    @cached_property
    def evaluator(self) -> Judge:
        """The model that recognises class inversions, trained or found when it is first asked for."""
        splits = self.splits
        records = [part.hashed().hexdigest() for part in (splits.holdout, splits.test, splits.public) if part]
        told = (self.streams.seed, splits.classes, splits.mean, splits.std, splits.shape, records)
        kept = self.cache.get(
            content_key("evaluator", told, (), {}),
            lambda: train_judge(splits, self.streams.seeded("judge"), device=self.device).state_dict(),
        )
        return load_judge(splits, kept, device=self.device)

    def judge(
        self,
        attack: str,
        found: Findings,
        control: Findings | None,
        prior: Findings | None,
        *,
        interface: str,
        shown: Shown | None = None,
    ) -> Judged:
        """Judge what was found in the release, beside the twin (`control`) and untrained models (`prior`).

        `shown` is how much of the training the attack saw, if it looks on. Raises DataError where what was
        measured is no number.
        """
        judged = self._judge(attack, found, control, prior, interface)
        for line in judged.leakage:
            if math.isnan(line.value.value):
                raise DataError(f"{line.metric} is no number: the model's answers are not finite")
        return replace(judged, leakage=[as_shown(line, shown) for line in judged.leakage])

    def _judge(
        self,
        attack: str,
        found: Findings,
        control: Findings | None,
        prior: Findings | None,
        interface: str,
    ) -> Judged:
        if isinstance(found, Guesses):
            line = self._reconstruction(attack, found, control, prior)
            return Judged(leakage=[replace(line, interface=interface)])
        if isinstance(found, Scores):
            assert control is None or isinstance(control, Scores)
            return Judged(leakage=self._membership(attack, found, control, interface))
        if isinstance(found, Bets):
            assert control is None or isinstance(control, Bets)
            return Judged(leakage=[self._audit(attack, found, control, interface)])
        if isinstance(found, Attributes):
            assert control is None or isinstance(control, Attributes)
            return Judged(leakage=self._attributes(attack, found, control, interface))
        assert control is None or isinstance(control, Images)
        assert isinstance(prior, Images)
        return self._inversion(attack, found, control, prior, interface)

    def _reconstruction(
        self, attack: str, found: Guesses, control: Findings | None, prior: Findings | None
    ) -> Leakage:
        planting = self.coins.planting
        assert planting is not None, f"{attack} guessed at slots that nobody planted"
        assert control is None or isinstance(control, Guesses)
        assert prior is None or isinstance(prior, Guesses)
        return judge_reconstruction(
            attack,
            found,
            control,
            planting.truth,
            planting.slots.candidates,
            self.guarantee,
            floor=prior,
            confidence=self.evidence.confidence,
        )

    def _membership(
        self, attack: str, found: Scores, control: Scores | None, interface: str
    ) -> list[Leakage]:
        return judge_membership(
            attack,
            found,
            control,
            self._drawing(attack).members,
            self.guarantee,
            confidence=self.evidence.confidence,
            interface=interface,
        )

    def _audit(self, attack: str, found: Bets, control: Bets | None, interface: str) -> Leakage:
        if found.on is Knowledge.CANARIES:
            assert self.coins.sowing is not None, f"{attack} bets on canaries that nobody sowed"
            members = self.coins.sowing.members
        else:
            members = self._drawing(attack).members
        return judge_audit(
            attack,
            found,
            control,
            members,
            self.guarantee,
            rng=self.streams.seeded(f"judge/{attack}"),
            confidence=self.evidence.confidence,
            interface=interface,
        )

    def _attributes(
        self, attack: str, found: Attributes, control: Attributes | None, interface: str
    ) -> list[Leakage]:
        drawing = self._drawing(attack)
        return judge_attributes(
            attack,
            found,
            control,
            self.splits.sensitive,
            drawing.probes,
            drawing.members,
            self.guarantee,
            confidence=self.evidence.confidence,
            interface=interface,
        )

    def _inversion(
        self, attack: str, found: Images, control: Images | None, prior: Images, interface: str
    ) -> Judged:
        lines, gallery = judge_class_inversion(
            attack,
            found,
            control,
            prior,
            self.splits,
            self.evaluator,
            self.guarantee,
            self.streams.seeded("permutations"),
            confidence=self.evidence.confidence,
            permutations=self.evidence.permutations,
            interface=interface,
        )
        return Judged(leakage=lines, gallery=gallery, queries=query_curve(found, control, self.evaluator))

    def _drawing(self, attack: str) -> Drawing:
        assert self.coins.drawing is not None, f"{attack} judged probes that nobody drew"
        return self.coins.drawing
