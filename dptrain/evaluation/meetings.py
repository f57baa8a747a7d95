"""Attacks meet models: each when its turn comes to be scored, or ahead of that, several processes at once."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from dptrain.contracts import (
    Access,
    Attack,
    Attempt,
    BrokenGuarantee,
    Findings,
    Output,
    Ranks,
    Release,
    Streams,
    Targets,
    by_query,
    wants_shadows,
)
from dptrain.evaluation.failures import reason
from dptrain.evaluation.remote_call import RemoteCall
from dptrain.evaluation.stage import Stage, Subject
from dptrain.storage import Unwritable

Key = tuple[str, str, str]  # attack, interface, and which model it meets
RELEASED, CONTROL = "release", "control"


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """An attack on a model through one interface, with the seed of all that the attack draws."""

    attack: Attack
    release: Release
    targets: Targets
    seed: int

    @classmethod
    def of(
        cls, name: str, attack: Attack, subject: Subject, output: Output | None, streams: Streams
    ) -> Meeting:
        """Release, control and untrained models meet the very same attack: the seed is the attack's."""
        return cls(
            attack=attack,
            release=subject.as_seen_by(name, output),
            targets=subject.targets[name],
            seed=streams.seeded(f"attack/{name}").initial_seed(),
        )

    @property
    def shared(self) -> bool:
        """Whether another process may see to it: what answers queries by a ledger, or trains, may not."""
        return self.release.weights is not None and not wants_shadows(self.attack)

    def findings(self) -> Findings:
        """What the attack finds."""
        return self.attack.run(self.release, self.targets, torch.Generator().manual_seed(self.seed))


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """The models that an attack is compared on: what is released, its control, and untrained ones."""

    stage: Stage
    streams: Streams
    released: Subject
    control: Subject | None
    ahead: Mapping[Key, Findings] = field(default_factory=dict)  # of meetings that are over
    _untrained: dict[int, Subject] = field(default_factory=dict)  # by seed: they are the same for all attacks

    def shared(self, outputs: Sequence[Output | None]) -> dict[Key, Meeting]:
        """The meetings that other processes may see to; each attack's together, as they take equally long."""
        found: dict[Key, Meeting] = {}
        for name, attack in self.stage.attacks.items():
            for output in met_through(attack, outputs):
                for which, subject in self._compared(name, attack).items():
                    with suppress(Exception):  # which is told when its turn comes
                        meeting = Meeting.of(name, attack, subject(), output, self.streams)
                        if meeting.shared:
                            found[name, named(attack, output), which] = meeting
        return found

    def attempt(self, name: str, attack: Attack, output: Output | None) -> tuple[Attempt[Any], str]:
        """What one attack finds in each model through one interface, and why there is no control, if so."""
        subjects = self._compared(name, attack)

        def run(which: str) -> Findings:
            found = self.ahead.get((name, named(attack, output), which))
            if found is not None:
                return found
            return Meeting.of(name, attack, subjects[which](), output, self.streams).findings()

        found = run(RELEASED)
        compared, lost = self._controlled(name, run)
        attempt = Attempt(
            attack=name,
            interface=named(attack, output),
            found=found,
            control=compared,
            baseline=tuple(run(which) for which in subjects if which not in (RELEASED, CONTROL)),
        )
        return attempt, lost

    def _compared(self, name: str, attack: Attack) -> dict[str, Callable[[], Subject]]:
        """The models that this attack meets, by what they are called; each is made when it is asked for."""
        subjects: dict[str, Callable[[], Subject]] = {RELEASED: lambda: self.released}
        if self.control is not None and self._unseen(name) is None:
            control = self.control
            subjects[CONTROL] = lambda: control
        # Of an untrained model there is no transcript.
        untrained = 0 if Access.TRANSCRIPT in attack.needs else self.stage.baselines(name)
        return subjects | {
            f"untrained {seed}": partial(self._untrained_by, seed) for seed in range(untrained)
        }

    def _untrained_by(self, seed: int) -> Subject:
        if seed not in self._untrained:
            self._untrained[seed] = self.released.untrained(seed)
        return self._untrained[seed]

    def _unseen(self, name: str) -> str | None:
        """Why an attack that looks on was not shown enough of the control's training; None: it was."""
        assert self.control is not None
        watched, seen = self.control.shown(name), self.control.seen.get(name)
        failed = seen is not None and seen.error is not None  # which the attack tells by itself
        if watched is not None and not watched.whole and not failed:
            return f"no control: of the control model, {watched}"
        return None

    def _controlled(self, name: str, run: Callable[[str], Findings]) -> tuple[Findings | None, str]:
        """What the attack finds in the control model, or None and why there is no control."""
        if self.control is None:
            return None, ""
        if (why := self._unseen(name)) is not None:
            return None, why
        try:
            return run(CONTROL), ""
        except (BrokenGuarantee, Unwritable):
            raise
        except (Exception, SystemExit) as error:
            return None, f"no control: on the control model, {reason(error)}"


def met_through(attack: Attack, outputs: Sequence[Output | None]) -> Sequence[Output | None]:
    """The interfaces that an attack meets a model through: by query all, else the model as it is."""
    return outputs if by_query(attack) else (None,)


def named(attack: Attack, output: Output | None) -> str:
    """The name of an interface; of an attack without queries none."""
    return "" if not by_query(attack) else "confidences" if output is None else output.name


def found_ahead(meetings: Mapping[Key, Meeting], ranks: Ranks) -> dict[Key, Findings]:
    """What comes of these meetings, each seen to by one process; those that fail are left out.

    So are all of them where other processes cannot be told of one, such as an attack that holds a lock.
    """
    call = RemoteCall.of(partial(_found, list(meetings.values())))
    if call is None:
        return {}
    found = ranks.each(call, range(len(meetings)))
    return {key: pickle.loads(each) for key, each in zip(meetings, found, strict=True) if each is not None}


def _found(meetings: list[Meeting], number: int) -> bytes | None:
    """What comes of one of them, pickled; None: it failed, and tells why where it is tried again."""
    try:
        return pickle.dumps(meetings[number].findings())
    except (Exception, SystemExit):
        return None
