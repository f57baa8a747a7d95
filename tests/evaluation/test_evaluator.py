"""The judge learns from held-out records alone, whatever their shape, and repeats itself."""

import dataclasses

import pytest
import torch
from sklearn.datasets import load_digits

from dptrain.contracts import Records, Splits
from dptrain.evaluation.games.class_inversion.evaluator import FEATURES, train_evaluator

pytestmark = pytest.mark.run


def digits(*, flat: bool = False) -> Splits:
    inputs, labels = load_digits(return_X_y=True)
    shape = (64,) if flat else (1, 8, 8)
    records = Records(torch.tensor(inputs, dtype=torch.float32).view(-1, *shape) / 16, torch.tensor(labels))
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(0))
    return Splits(
        name="digits",
        source="scikit-learn",
        train=records.take(order[:700]),
        holdout=records.take(order[700:1400]),
        test=records.take(order[1400:]),
        classes=tuple("0123456789"),
        bounds=(0.0, 1.0),
        mean=(0.3,),
        std=(0.4,),
    )


@pytest.mark.parametrize("flat", [False, True])
def test_the_judge_can_tell_classes_apart(flat):
    splits = digits(flat=flat)
    judge = train_evaluator(splits, torch.Generator().manual_seed(0))
    assert judge.accuracy > 0.9
    named = judge.classify(splits.test.inputs)
    assert (named == splits.test.labels).double().mean().item() == pytest.approx(judge.accuracy)
    assert judge.features(splits.test.inputs).shape == (len(splits.test), FEATURES)


def test_the_judge_depends_on_held_out_records_and_seed_alone():
    splits = digits()
    blind = dataclasses.replace(
        splits, train=Records(splits.train.inputs.new_zeros(0, 1, 8, 8), torch.zeros(0))
    )
    state = torch.random.get_rng_state()
    one, two, other = (
        train_evaluator(s, torch.Generator().manual_seed(seed), steps=3)
        for s, seed in ((splits, 1), (blind, 1), (splits, 2))
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    inputs = splits.test.inputs
    assert torch.equal(one.features(inputs), two.features(inputs))
    assert not torch.equal(one.features(inputs), other.features(inputs))


def test_large_colour_images_are_judged():
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    inputs = 0.5 * torch.rand(40, 3, 80, 64, generator=rng) + 0.4 * labels.view(-1, 1, 1, 1)
    records = Records(inputs, labels)
    splits = dataclasses.replace(
        digits(),
        train=records,
        holdout=records,
        test=records,
        classes=("dark", "bright"),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
    )
    assert train_evaluator(splits, rng, steps=20, batch_size=16).accuracy > 0.9
