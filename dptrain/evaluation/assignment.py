"""What is assigned at random before training: probes, and what the games of a run put into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from dptrain.config import Evidence, Training
from dptrain.contracts import (
    PROBES,
    Assigned,
    Assignment,
    Context,
    Game,
    Plan,
    Splits,
    Streams,
    seed_key,
)
from dptrain.evaluation.games.probed import MOST
from dptrain.evidence.held_out import one_of_each, without
from dptrain.evidence.probes import FEWEST, ProbeAssignment, draw_probes, known_members, public_count


@dataclass(frozen=True, kw_only=True)
class Assignments:
    """What was assigned before training, by the name of the assignment."""

    drawn: Mapping[str, Assigned] = field(default_factory=dict)
    by_hash: bool = False  # by hashes of each unit; else files say who was trained on
    set_aside: Mapping[str, int] = field(default_factory=dict)  # records in no part any more, by assignment

    @property
    def probes(self) -> ProbeAssignment | None:
        """The probes and which of them are trained on; None where no game asks for them."""
        found = self.drawn.get(PROBES)
        assert found is None or isinstance(found, ProbeAssignment)
        return found

    def of(self, game: Game) -> Any:
        """What this game is about; None where it assigns nothing."""
        return self.drawn.get(game.assignment)

    def known(self, splits: Splits) -> Splits:
        """What an adversary knows who knows every record of the training but those that chance assigned."""
        entered = [position for each in self.drawn.values() for position in getattr(each, "positions", ())]
        return without(splits, entered)

    def fingerprint(self, splits: Splits) -> str:
        """A hash of the training records and the probes: an audit must find the very same ones."""
        digest = splits.train.hashed()
        if self.probes is not None:
            for tensor in (self.probes.probes.inputs, self.probes.members):
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def described(self) -> Assignment:
        """How much of the training a random choice decided: what one must know to read its utility.

        Of probes and slots the numbers that were asked for, since how many came to be depends on the records.
        """
        numbers = {name: number for each in self.drawn.values() for name, number in each.described().items()}
        return Assignment(**numbers, change=self._change())

    def _change(self) -> str | None:
        """How one unit more or less changes what is trained on; None where files say who was."""
        if not self.by_hash:
            return None
        alone = "One unit more or less in the data changes the set that is trained on by that unit alone"
        last = "" if self.probes is None else self.probes.change
        own = "".join(each.change for name, each in self.drawn.items() if name != PROBES)
        return f"{alone}{own}{last}."

    def enter(self, context: Context) -> Context:
        """The surroundings of a training into which all of this is put."""
        for each in self.drawn.values():
            context = each.enter(context)
        return context

    def for_control(self) -> Assignments:
        """The same for the training of the non-private control model."""
        return replace(self, drawn={name: each.for_control() for name, each in self.drawn.items()})

    def with_model(
        self, games: Mapping[str, Game], model: nn.Module, plan: Plan | None, streams: Streams
    ) -> Assignments:
        """These, and what the games assign to a model whose training is planned."""
        drawn = dict(self.drawn)
        for game in games.values():
            if game.assignment not in drawn:
                assigned = game.prepare_model(model, plan, streams)
                if assigned is not None:
                    drawn[game.assignment] = assigned
        return replace(self, drawn=drawn)


def prepare(
    splits: Splits, games: Mapping[str, Game], evidence: Evidence, streams: Streams, units: int | None = None
) -> tuple[Splits, Assignments]:
    """The records with what these games put among those to train on, and the secret of it.

    `units` is the declared number of training units, None: nobody declared one. Whom a record is assigned
    to is decided by hashes of it under the data's key, or else one that the seed stands for. Probes are
    drawn first, since they change the positions of training records. What there are too few records for,
    by their public number, is not assigned.
    """
    key = splits.key or seed_key(streams.seeded("assignment"))
    drawn: dict[str, Assigned] = {}
    set_aside: dict[str, int] = {}

    def keep(name: str, after: Splits, assigned: Assigned | None) -> Splits:
        if assigned is not None:
            drawn[name] = assigned
            set_aside[name] = set_aside.get(name, 0) + _left(splits) - _left(after)
        return after

    if any(game.assignment == PROBES for game in games.values()):
        held_out = sum(game.held_out for game in games.values())
        splits = keep(PROBES, *_probes(splits, evidence, held_out, key, units))
    for game in games.values():
        if game.assignment == PROBES or game.assignment not in drawn:
            splits = keep(game.assignment, *game.prepare(splits, key=key))
    # Whoever held the key could tell who was assigned to what: it goes no further.
    return replace(splits, key=None), Assignments(drawn=drawn, by_hash=True, set_aside=set_aside)


def _left(splits: Splits) -> int:
    return len(splits.train) + len(splits.holdout)


def _probes(
    splits: Splits, evidence: Evidence, held_out: int, key: bytes, units: int | None
) -> tuple[Splits, ProbeAssignment | None]:
    most = (public_count(len(splits.train)) if units is None else units) // MOST
    grouped = splits.group_ids is not None  # then all of them are held-out units, half of those at most
    held = public_count(len(one_of_each(splits, key)[0])) // 2 if grouped else most
    if min(most, held) < FEWEST:
        return splits, None
    return draw_probes(
        splits,
        probes=min(evidence.probes, most),
        mislabelled=evidence.mislabelled,
        spare=2 * held_out,  # held-out records, of which games may take half
        key=key,
        units=units,
    )


def declared_units(training: Training) -> int | None:
    """The number of training units that the configuration declares by a batch's size and rate, if it does."""
    if training.sample_rate is None or training.expected_batch_size is None:
        return None
    return max(1, round(training.expected_batch_size / training.sample_rate))


def split_known(splits: Splits, evidence: Evidence, streams: Streams) -> tuple[Splits, Assignments]:
    """Members and non-members of a model that was trained elsewhere: nothing was assigned, files say.

    As many of the training records as of the held-out ones become probes, and those leave the held-out. Where
    training records are grouped and nobody says whose the held-out ones are, there are no probes.
    """
    if splits.group_ids is not None and splits.holdout_group_ids is None:
        return splits, Assignments()
    after, probes = known_members(splits, probes=evidence.probes, rng=streams.seeded("probes"))
    aside = {PROBES: len(splits.holdout) - len(after.holdout)}
    return after, Assignments(drawn={PROBES: probes}, set_aside=aside)
