"""Attacks and answers of several processes: they are those of one process, and what fails is told alike."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dptrain.contracts import Access, Guesses, Release, Splits, Targets
from dptrain.evaluation import scorer
from dptrain.evaluation.meetings import Subjects, found_ahead
from dptrain.evaluation.stage import Subject
from dptrain.evaluation.utility import answered
from dptrain.training.processes import Ranks

pytestmark = pytest.mark.run


@dataclass(kw_only=True)
class Drawing:
    """An attack that tells what it drew, the first weight that it saw, and the process that it ran in."""

    game: str = "any"
    needs: frozenset[Access] = frozenset({Access.WEIGHTS})
    held: Any = None

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Guesses:  # noqa: ARG002
        first = next(iter(release.build().parameters())).flatten()[0].detach()
        drawn = torch.rand((), generator=rng)
        return Guesses(guesses=torch.stack([drawn, first, torch.tensor(float(os.getpid()))]))


@dataclass(kw_only=True)
class Refusing(Drawing):
    """An attack that fails at every model."""

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Guesses:  # noqa: ARG002
        raise IndexError("of a record")


@dataclass(kw_only=True)
class Asking(Drawing):
    """An attack that trains models of its own."""

    shadows: int = 2


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(2, seconds=60, threads=1) as started:
        yield started


@pytest.fixture
def subject(splits: Splits, mlp: nn.Module) -> Subject:
    release = Release(architecture=partial(copy.deepcopy, mlp), weights=copy.deepcopy(mlp.state_dict()))
    return Subject(release=release, targets=dict.fromkeys(("one", "two"), Targets.of(splits)))


def subjects_of(subject: Subject, **attacks: Any) -> Subjects:
    stage: Any = SimpleNamespace(attacks=attacks, baselines=lambda _: 2)
    streams: Any = SimpleNamespace(seeded=lambda name: torch.Generator().manual_seed(len(name)))
    return Subjects(stage=stage, streams=streams, released=subject, control=subject)


def test_processes_find_what_one_does(ranks: Ranks, subject: Subject) -> None:
    attacks = {"one": Drawing(), "two": Drawing()}
    alone = subjects_of(subject, **attacks)
    shared = alone.shared((None,))
    assert [which for name, _, which in shared if name == "one"] == [
        "release", "control", "untrained 0", "untrained 1",
    ]  # fmt: skip
    together = replace(alone, ahead=found_ahead(shared, ranks))
    processes = set()
    for name, attack in attacks.items():
        (mine, _), (theirs, _) = (each.attempt(name, attack, None) for each in (alone, together))
        for one, other in zip(
            (mine.found, mine.control, *mine.baseline),
            (theirs.found, theirs.control, *theirs.baseline),
            strict=True,
        ):
            assert torch.equal(one.guesses[:2], other.guesses[:2])
            processes.add(int(other.guesses[2]))
    assert len(processes) == 2  # and each saw to some of them


def test_what_fails_elsewhere_is_tried_here_and_tells_why(ranks: Ranks, subject: Subject) -> None:
    subjects = subjects_of(subject, one=Drawing(), two=Refusing())
    ahead = found_ahead(subjects.shared((None,)), ranks)
    assert {name for name, _, _ in ahead} == {"one"}
    with pytest.raises(IndexError, match="of a record"):
        replace(subjects, ahead=ahead).attempt("two", Refusing(), None)


def test_an_attack_that_cannot_be_told_to_others_runs_here(ranks: Ranks, subject: Subject) -> None:
    subjects = subjects_of(subject, one=Drawing(held=threading.Lock()), two=Drawing())
    assert found_ahead(subjects.shared((None,)), ranks) == {}
    attempt, _ = subjects.attempt("one", subjects.stage.attacks["one"], None)
    assert int(attempt.found.guesses[2]) == os.getpid()
    assert len(found_ahead(subjects_of(subject, one=Drawing()).shared((None,)), ranks)) == 4  # all is well


def test_what_fails_between_processes_is_no_attack_that_cannot_be_told(subject: Subject) -> None:
    def each(*_: object) -> Iterator[object]:
        raise TypeError("of the channel")

    ranks: Any = SimpleNamespace(size=2, each=each)
    with pytest.raises(TypeError, match="of the channel"):
        found_ahead(subjects_of(subject, one=Drawing()).shared((None,)), ranks)


def test_untrained_models_are_made_once_for_all_attacks(subject: Subject, mlp: nn.Module) -> None:
    release = replace(subject.release, architecture=lambda: copy.deepcopy(mlp))
    subjects = subjects_of(replace(subject, release=release), one=Drawing(), two=Drawing())
    weights = {key: meeting.release.weights for key, meeting in subjects.shared((None,)).items()}
    first, second = (weights["one", "", f"untrained {seed}"] for seed in (0, 1))
    assert weights["two", "", "untrained 0"] is first
    assert weights["two", "", "untrained 1"] is second
    assert first is not None
    assert second is not None
    assert not any(torch.equal(first[name], second[name]) for name in first)
    alone = replace(subjects, ahead={})._compared("one", Drawing())["untrained 0"]()
    assert alone.release.weights is first


@dataclass(frozen=True, kw_only=True)
class Signed:
    """An interface that adds to its answers the process that gives them."""

    name: str = "signed"

    def __call__(self, confidences: torch.Tensor) -> torch.Tensor:
        process = torch.full((len(confidences), 1), float(os.getpid()), dtype=torch.float64)
        return torch.cat([confidences, process], 1)


def test_processes_answer_what_one_does(ranks: Ranks, subject: Subject, splits: Splits) -> None:
    many = torch.arange(3000) % len(splits.test)
    seen = replace(splits, test=splits.test.take(many))
    release = replace(subject.release, output=Signed())
    alone, together = (torch.cat(list(answered(release, seen, some))) for some in (None, ranks))
    assert torch.equal(alone[:, :-1], together[:, :-1])
    by = together[:, -1].split(1024)
    assert [len(each.unique()) for each in by] == [1, 1, 1]
    assert by[0][0] == by[2][0] == os.getpid() != by[1][0]


def test_what_trains_or_answers_by_a_ledger_stays_in_this_process(subject: Subject) -> None:
    assert subjects_of(subject, one=Asking(), two=Drawing()).shared((None,)).keys() == {
        ("two", "", which) for which in ("release", "control", "untrained 0", "untrained 1")
    }
    answers = replace(subject, release=Release(predictions=lambda inputs: inputs))
    assert subjects_of(answers, one=Drawing(needs=frozenset({Access.CONFIDENCES}))).shared((None,)) == {}


@pytest.mark.parametrize(("sharded", "asked"), [(False, 1), (True, 0)])
def test_of_a_model_that_one_process_does_not_hold_nothing_is_sent(
    sharded: bool, asked: int, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[object] = []
    monkeypatch.setattr(scorer, "found_ahead", lambda shared, _: called.append(shared) or {})
    subjects = subjects_of(subject)
    stage: Any = SimpleNamespace(attacks={}, assignments=SimpleNamespace(probes=None))
    watching: Any = SimpleNamespace(stage=stage, streams=subjects.streams)
    ranks: Any = SimpleNamespace(size=2, sharded=sharded)
    scorer.measure(watching, subject, None, (None,), show=lambda _: nullcontext(), ranks=ranks)
    assert len(called) == asked
