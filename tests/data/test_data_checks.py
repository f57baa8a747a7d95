from __future__ import annotations

import numpy as np
import pytest
import torch

from dptrain.contracts import ConfigError, DataError, Records
from dptrain.data.checks import constants, several_classes, to_inputs, to_labels, to_records


def floats(value: float, dtype: type = np.float32) -> np.ndarray:
    images = np.full((4, 5, 5), 0.5, dtype=dtype)
    images[2, 1, 1] = value
    return images


def test_bytes_become_floats_channels_first() -> None:
    images = np.zeros((2, 4, 6, 3), dtype=np.uint8)
    images[1, 0, 0, 2] = 255
    inputs = to_inputs(images, name="x")
    assert inputs.shape == (2, 3, 4, 6)
    assert inputs.dtype == torch.float32
    assert inputs[1, 2, 0, 0] == 1.0
    assert inputs.sum() == 1.0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_moved_from_their_bounds_to_unit_bounds(dtype: type) -> None:
    inputs = to_inputs(floats(-1000, dtype), name="x", bounds=(-1000.0, 3000.0))
    assert inputs.dtype == torch.float32
    assert inputs.min() == 0.0
    assert inputs[0, 0, 0, 0] == pytest.approx(0.250125)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (floats(np.nan), "record 2 of x holds NaN: repair"),
        (floats(np.inf), "record 2 of x holds infinity: repair"),
        (floats(7.5), r"record 2 of x holds a value outside the declared bounds \(0, 1\): rescale"),
        (floats(-0.1), "record 2 of x holds a value outside"),
        (np.zeros((0, 5, 5), np.uint8), r"x has shape \(0, 5, 5, 1\), so it holds no records"),
        (np.zeros((3, 0, 5), np.uint8), "holds no records"),
        (np.zeros((3, 25), np.uint8), r"x has shape \(3, 25\): store images as"),
        (np.zeros((3, 1, 28, 28), np.uint8), r"x has shape \(3, 1, 28, 28\): .* channels last"),
        (np.zeros((3, 5, 5), np.int32), "x is int32: store pixels as uint8"),
        (np.zeros((3, 5, 5), "U1"), "x is <U1: store pixels"),
    ],
)
def test_images_that_cannot_be_used(images: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=says):
        to_inputs(images, name="x")


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64, bool])
def test_labels_of_any_integer_type(dtype: type) -> None:
    labels = to_labels(np.array([[0], [1], [1]]).astype(dtype), name="y", num_classes=2)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.array([0, 1, 5]), r"the label of record 2 of y lies outside 0 ... 1: correct it"),
        (np.array([0, -1]), "the label of record 1 of y lies outside"),
        (np.array([0.0, 1.0]), "y is float64: store labels as integers"),
        (np.array(["cat"]), "y is <U3"),
        (np.zeros((3, 14), np.uint8), r"y has shape \(3, 14\): give one label"),
        (np.zeros(0, np.uint8), "y holds no labels"),
    ],
)
def test_labels_that_cannot_be_used(labels: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=says):
        to_labels(labels, name="y", num_classes=2)


def test_counts_must_match() -> None:
    arrays = {"train_images": np.zeros((3, 5, 5), np.uint8), "train_labels": np.array([0, 1])}
    with pytest.raises(
        DataError, match="train_images of f has 3 records but train_labels has 2: make them match"
    ):
        to_records(arrays, "train", where="f", num_classes=2)


def test_one_class_is_not_enough() -> None:
    with pytest.raises(DataError, match=r"the 3 test records are all of one of the 2 classes: add records"):
        several_classes(
            Records(torch.zeros(3, 1), torch.ones(3).long()), name="test", classes=["well", "ill"]
        )


def test_constants_are_one_a_channel() -> None:
    assert constants([0.5, 1], key="mean", channels=2) == (0.5, 1.0)
    with pytest.raises(
        ConfigError, match=r"data.mean=\[0.5\] must have one value for each of the images' 3 channels"
    ):
        constants([0.5], key="mean", channels=3)
    with pytest.raises(ConfigError, match=r"data.std=\[0.0\] must be positive"):
        constants([0], key="std", channels=1)
