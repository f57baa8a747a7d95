"""Reconstruction: which of several candidates was trained on? Slots, the game in them, and its scoring."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dptrain.config import Evidence
from dptrain.contracts import (
    Assigned,
    Attempt,
    Context,
    Detectable,
    Game,
    Guarantee,
    Guesses,
    Interval,
    Leakage,
    Scored,
    Scoring,
    Slots,
    Splits,
    Targets,
    keyed_uniform,
)
from dptrain.evidence.held_out import held_out_units, keep_held_out, once, one_of_each, train_on
from dptrain.evidence.intervals import detection_limit, proportion
from dptrain.evidence.probes import public_count
from dptrain.evidence.verdict import BEYOND_DOUBT, verdict

ROOM = 1.5  # held-out units there must be to each candidate: with fewer, many slots would lack some
FEW_CANDIDATES = 4  # to which the candidates of small data come down before there are fewer slots


@dataclass(frozen=True, kw_only=True)
class SlotAssignment(Assigned):
    """Slots, and the secret of what was planted in them; only the scoring of an attack may see `truth`."""

    slots: Slots
    truth: Tensor  # (slots,) the candidate that was trained on
    positions: tuple[int, ...]  # its index among the training records
    asked: tuple[int, int] | None = None  # slots and candidates, of which fewer may have come to be

    @property
    def change(self) -> str:
        how = (
            ". The numbers of slots and candidates are computed from that of held-out units, rounded to two "
            "binary digits, which is public thereby"
        )
        return (
            ", but for a held-out unit that is planted in a slot: another then takes its place there, and to "
            f"it and to that one the guarantee is the one for two units{how}"
        )

    def enter(self, context: Context) -> Context:
        return replace(context, planted=self.positions)

    def described(self) -> dict[str, int | None]:
        slots, candidates = self.asked or (None, None)
        return {"slots": slots, "candidates": candidates}


def fitted(slots: int, candidates: int, *, units: int, confidence: float) -> tuple[int, int] | None:
    """As many slots and candidates as so many held-out units have room for; None: too few to show anything.

    The numbers come from `public_count(units)` alone, so that a unit more changes them at few counts only.
    Candidates give way first, for a slot more tells more than a candidate more.

    >>> fitted(24, 10, units=500, confidence=0.95), fitted(24, 10, units=250, confidence=0.95)
    ((24, 10), (24, 5))
    >>> fitted(24, 10, units=45, confidence=0.95), fitted(24, 10, units=18, confidence=0.95)
    ((6, 4), None)
    """
    room = int(0.8 * public_count(units) / ROOM)  # there may be a fifth fewer than is public
    if slots * candidates <= room:
        return slots, candidates
    candidates = min(candidates, max(FEW_CANDIDATES, room // slots))
    slots = min(slots, room // candidates)
    if slots == 0 or detection_limit(slots, confidence) <= 1 / candidates:
        return None
    return slots, candidates


def plant(splits: Splits, *, slots: int, candidates: int, key: bytes) -> tuple[Splits, SlotAssignment]:
    """Move one held-out record of each slot into the training set, and show it among `candidates`.

    Every held-out unit (a patient, of whom one record takes part, or else a record) falls into one of the
    slots, and of a slot that holds enough of them the unit is planted whose hash is least: all by keyed
    hashes of the unit alone. So one unit more or less changes what is trained on by the one that is
    planted, and by the one whose place it takes, at most. The others that are shown beside it are the
    first in another such order: given the candidates, each is equally likely to be the planted one.
    All candidates, with the rest of their patients' records, leave the held-out set, so that no other
    test mistakes a planted record for a non-member.

    A slot that holds too few units is left out. One whose planted record occurs twice in the data
    is trained on, but not shown, for its double could stand in for it.
    """
    units, unit_of = one_of_each(splits, key)
    single = once(splits)[1][units]
    chosen, truth, hidden = _fill(held_out_units(splits)[units], single, slots, candidates, key)
    table = torch.stack(chosen) if chosen else torch.empty(0, candidates, dtype=torch.int64)
    answer = torch.tensor(truth, dtype=torch.int64)
    planted_units = torch.cat(
        [torch.tensor(hidden, dtype=torch.int64), table[torch.arange(len(table)), answer]]
    )
    start = len(splits.train) + len(hidden)
    shown_records = splits.holdout.take(units[table.flatten()]).read()
    public = Slots(
        inputs=shown_records.inputs.view(*table.shape, *splits.shape),
        labels=shown_records.labels.unflatten(0, table.shape),
    )
    left = ~torch.isin(unit_of, torch.cat([planted_units, table.flatten()]))
    return (
        replace(
            splits,
            **train_on(splits, splits.holdout.take(units[planted_units]).read()),
            **keep_held_out(splits, left.nonzero().flatten()),
        ),
        SlotAssignment(
            slots=public,
            truth=answer,
            positions=tuple(range(start, start + len(table))),
            asked=(slots, candidates),
        ),
    )


def _fill(
    known_by: Tensor, single: Tensor, slots: int, candidates: int, key: bytes
) -> tuple[list[Tensor], list[int], list[int]]:
    """Who is shown in each slot that is full, which of them is planted, and who is planted unshown.

    `known_by` are the units' ids or digests, `single` whether each occurs once; units by their place.
    """
    slot_of = (keyed_uniform(key, "slot", known_by) * slots).long()
    planted_first = torch.argsort(keyed_uniform(key, "planted", known_by))
    shown_first = torch.argsort(keyed_uniform(key, "candidate", known_by))
    place = keyed_uniform(key, "place of a candidate", known_by)

    chosen: list[Tensor] = []
    truth: list[int] = []
    hidden: list[int] = []
    for slot in range(slots):
        mine = planted_first[slot_of[planted_first] == slot]
        if len(mine) < candidates:
            continue
        planted = mine[0]
        others = shown_first[(slot_of[shown_first] == slot) & single[shown_first] & (shown_first != planted)]
        shown = torch.cat([planted[None], others[: candidates - 1]])
        if not single[planted] or len(shown) < candidates:
            hidden.append(int(planted))
            continue
        shown = shown[torch.argsort(place[shown])]
        chosen.append(shown)
        truth.append(int((shown == planted).nonzero()))
    return chosen, truth, hidden


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Game):
    """In each slot one of several candidates is trained on; the attack names one."""

    assignment: ClassVar[str] = "slots"
    untrained: ClassVar[int] = 1
    findings: ClassVar[type] = Guesses

    evidence: Evidence

    @property
    def held_out(self) -> int:
        return self.evidence.slots * self.evidence.candidates

    def prepare(self, splits: Splits, *, key: bytes) -> tuple[Splits, SlotAssignment | None]:
        asked = self.evidence.slots, self.evidence.candidates
        units = len(one_of_each(splits, key)[0])
        numbers = fitted(*asked, units=units, confidence=self.evidence.confidence)
        if numbers is None:
            return splits, None
        return plant(splits, slots=numbers[0], candidates=numbers[1], key=key)

    def problems(self, splits: Splits, assigned: SlotAssignment | None) -> Iterator[str]:
        each = "" if splits.group_ids is None else " (one of each group)"
        if assigned is None:
            yield (
                f"{len(splits.holdout):,} held-out records{each} have no room for slots enough to show "
                "anything; hold out more, or leave the attack out"
            )
        elif assigned.asked is not None and 2 * len(assigned.truth) < assigned.asked[0]:
            yield (
                f"by chance {len(assigned.truth)} of {assigned.asked[0]} slots hold enough held-out records"
                f"{each} that occur once; choose fewer evidence.slots or evidence.candidates, "
                "hold out more records, or leave the attack out"
            )

    def public(self, splits: Splits, assigned: SlotAssignment) -> Targets:
        return Targets.of(splits, slots=assigned.slots)

    def detectable(
        self,
        splits: Splits,  # noqa: ARG002
        assigned: SlotAssignment,
        guarantee: Guarantee,
    ) -> Iterator[Detectable]:
        slots, blind = len(assigned.truth), 1 / assigned.slots.candidates
        bound = guarantee.reconstruction_bound(blind) if math.isfinite(guarantee.epsilon()) else None
        limit = detection_limit(slots, self.evidence.confidence)
        yield Detectable(attack="", metric="success", trials=slots, limit=limit, floor=blind, bound=bound)

    def score(self, attempt: Attempt[Guesses], scoring: Scoring) -> Scored:
        truth, candidates = scoring.assigned.truth, scoring.assigned.slots.candidates
        confidence = self.evidence.confidence
        line = score_reconstruction(attempt, truth, candidates, scoring.guarantee, confidence=confidence)
        return Scored(leakage=[line])


def score_reconstruction(
    attempt: Attempt[Guesses], truth: Tensor, candidates: int, guarantee: Guarantee, *, confidence: float
) -> Leakage:
    """Success over the slots, beside blind guessing, the control, and the bound of this run's guarantee.

    The floor is blind guessing, or what the same attack makes of an untrained model if that is more.

    Slots of one training share its noise. Where the attack knows how far they hang together, the
    interval is that of so many independent slots as they are worth; expected success, and so
    the bound, do not depend on it.
    """
    slots, released = len(truth), attempt.found
    value = _success(released, truth, confidence)
    control = None if attempt.control is None else _success(attempt.control, truth, confidence)
    base_rate = 1 / candidates
    bound = guarantee.reconstruction_bound(base_rate) if math.isfinite(guarantee.epsilon()) else None
    untrained = [_success(guesses, truth, confidence).value for guesses in attempt.baseline]
    floor = max([base_rate, *untrained])
    effective = _effective(released, slots)
    note = (
        f"{slots} planted records, worth {effective:.1f} independent ones"
        if released.effective_slots is not None
        else f"{slots} planted records, taken as independent given the weights"
    )
    return Leakage(
        attack=attempt.attack,
        metric="success",
        value=value,
        floor=floor,
        control=control,
        bound=bound,
        detection_limit=detection_limit(effective, confidence),
        verdict=verdict(
            value=value,
            floor=floor,
            control=control,
            bound=bound,
            beyond_doubt=bound is not None and _success(released, truth, BEYOND_DOUBT).low > bound,
        ),
        trials=slots,
        confidence=confidence,
        interface=attempt.interface,
        notes=f"each one of {candidates} candidates, drawn at random; {note}",
        details={"candidates": float(candidates), "effective_trials": effective},
    )


def _effective(guesses: Guesses, slots: int) -> float:
    return float(slots if guesses.effective_slots is None else guesses.effective_slots)


def _success(guesses: Guesses, truth: Tensor, confidence: float) -> Interval:
    share = float((guesses.guesses == truth).double().mean())
    trials = _effective(guesses, len(truth))
    return proportion(share * trials, trials, confidence)
