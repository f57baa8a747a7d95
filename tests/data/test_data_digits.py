from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dptrain.contracts import ConfigError
from dptrain.data.digits import Digits, read


def test_digits(rng: torch.Generator) -> None:
    splits = Digits(mean=[0.3], std=[0.4]).load(rng)
    assert splits.shape == (1, 8, 8)
    assert splits.classes == tuple("0123456789")
    assert len(splits.train) + len(splits.holdout) + len(splits.test) == 1797
    for part in (splits.holdout, splits.test):  # 15 % each, within four standard deviations
        assert abs(len(part) - 270) < 61
    assert splits.train.inputs.min() == 0.0
    assert splits.train.inputs.max() == 1.0
    assert splits.train.inputs.dtype == torch.float32
    assert splits.train.labels.dtype == torch.int64
    assert splits.group_ids is None
    assert splits.source == "scikit-learn's bundled digits"
    assert (splits.mean, splits.std, splits.bounds) == ((0.3,), (0.4,), (0.0, 1.0))


def test_the_seed_decides() -> None:
    first, same, other = (
        Digits(mean=[0.3], std=[0.4]).load(torch.Generator().manual_seed(seed)).train.labels
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_fractions_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"data.test_fraction=2 must be in \(0, 1\)"):
        Digits(mean=[0.3], std=[0.4], test_fraction=2)


def test_the_digits_are_those_that_scikit_learn_loads() -> None:
    bundle = load_digits()
    images, labels = read()
    assert np.array_equal(images, bundle.images)
    assert np.array_equal(labels, bundle.target)
