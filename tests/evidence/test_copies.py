"""Copies are counted as far as they are other units, and told to the owner alone."""

from dataclasses import replace

import pytest
import torch

from dptrain.contracts import Records
from dptrain.evidence.held_out import count_copies
from dptrain.report import sentences


@pytest.fixture
def doubled(splits):
    """Three copies of one record and two of another to train on; one held out; three tested on, two alike."""
    train, holdout, test = (part.inputs.clone() for part in (splits.train, splits.holdout, splits.test))
    train[1], train[2], train[9] = train[0], train[0], train[8]
    holdout[5], test[3], test[4], test[7] = train[20], train[0], train[0], train[30]
    return replace(
        splits,
        train=Records(train, splits.train.labels),
        holdout=Records(holdout, splits.holdout.labels),
        test=Records(test, splits.test.labels),
    )


def test_copies_are_counted_whatever_their_labels(splits, doubled):
    assert count_copies(splits) == {"train": 0, "holdout": 0, "test": 0}
    assert count_copies(doubled) == {"train": 5, "holdout": 1, "test": 3}


def test_copies_within_a_patient_are_one_unit_s_own(doubled):
    owners = torch.arange(60)
    owners[1] = 0  # two of the three copies
    assert count_copies(replace(doubled, group_ids=owners))["train"] == 5
    owners[2], owners[9] = 0, 8
    assert count_copies(replace(doubled, group_ids=owners))["train"] == 0


def test_the_owner_is_told(doubled):
    assert sentences.copies({"train": 0, "holdout": 0, "test": 0}) == sentences.copies({}) == ""
    said = sentences.copies(count_copies(doubled))
    numbers = "5 training records, 1 held-out record and 3 test records."
    assert said.startswith(f"With exactly the inputs of another training record: {numbers}")
