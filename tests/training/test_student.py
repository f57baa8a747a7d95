"""The student of public inputs: what is asked about, what answers spread to, and what it is fitted to."""

from __future__ import annotations

import math

import torch
from torch import nn

from dptrain.training.student import Graph, fit_student, trusted


def clouds(each: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Three clouds of unequal size that do not touch: features and classes."""
    rng = torch.Generator().manual_seed(0)
    classes = torch.cat([torch.full((each * (1 + c),), c) for c in range(3)])
    centres = torch.tensor([[4.0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0]])
    return centres[classes] + 0.5 * torch.randn(len(classes), 4, generator=rng), classes


def test_a_few_answers_spread_to_all_and_keep_the_classes_shares() -> None:
    features, classes = clouds()
    graph = Graph.of(features)
    asked, sizes = graph.choose(9, seed=1)
    assert len(asked.unique()) == 9
    assert int(sizes.sum()) == len(features)
    answers = nn.functional.one_hot(classes[asked], 3).double()
    taken = graph.spread(asked, answers, sizes)
    assert torch.allclose(taken.sum(1), torch.ones(len(features), dtype=torch.float64))
    assert float((taken.argmax(1) == classes).double().mean()) > 0.98


def test_of_few_inputs_that_touch_the_rarer_class_is_not_lost() -> None:
    """On a small graph an answer that wanders on and on is everywhere, and the commonest alone is left."""
    rng = torch.Generator().manual_seed(0)
    classes = (torch.arange(200) >= 50).long()
    features = torch.randn(200, 4, generator=rng) + 2.5 * torch.nn.functional.one_hot(classes, 4)
    graph = Graph.of(features)
    asked, sizes = graph.choose(60, seed=1)
    answers = nn.functional.one_hot(classes[asked], 2).double()
    taken = graph.spread(asked, answers, sizes).argmax(1)
    assert float((taken == classes)[:50].double().mean()) > 0.7
    assert float((taken == classes)[50:].double().mean()) > 0.9


def test_what_is_asked_about_is_the_same_again() -> None:
    features, _ = clouds()
    first, second = (Graph.of(features).choose(9, seed=1)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_an_answer_counts_by_its_lead_and_no_answer_does_not_count() -> None:
    noisy = torch.tensor([[90.0, 10.0], [40.0, 60.0], [math.nan, math.nan]], dtype=torch.float64)
    assert trusted(noisy).tolist() == [[1.0, 0.0], [0.0, 0.25], [0.0, 0.0]]


def test_without_any_answer_nothing_is_preferred_and_nothing_fails() -> None:
    features, _ = clouds(10)
    graph = Graph.of(features)
    asked, sizes = graph.choose(4, seed=1)
    taken = graph.spread(asked, torch.zeros(4, 3, dtype=torch.float64), sizes)
    assert torch.isfinite(taken).all()


def test_a_student_learns_what_inputs_are_taken_to_be() -> None:
    features, classes = clouds()
    part = nn.Linear(4, 3)
    taken = nn.functional.one_hot(classes, 3).double()
    rng = torch.Generator().manual_seed(0)
    fit_student(part, features, taken, steps=60, batch=64, lr=0.05, weight_decay=0.0, rng=rng)
    assert float((part(features).argmax(1) == classes).double().mean()) > 0.98
