"""A user's own npz file, or folder of npy files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dptrain.contracts import ConfigError, DataError, Records, Splits
from dptrain.data.checks import same_count, to_inputs, to_records
from dptrain.data.files import read_npz
from dptrain.data.mapped import MappedImages, map_arrays
from dptrain.data.splits import assemble, assignment_key, check_fractions, divide, number_groups

REQUIRED = ("train_images", "train_labels")
OPTIONAL = (
    "val_images",
    "val_labels",
    "test_images",
    "test_labels",
    "train_groups",
    "val_groups",
    "test_groups",
    "public_images",
    "public_labels",
)


@dataclass(frozen=True, kw_only=True)
class Npz:
    """Images of an npz file, or a folder of .npy files: `train_images` (N, H, W[, C]), `train_labels` (N,).

    Images are uint8, or floats in `bounds`. `val_...` (held out; must be drawn as the training
    records are) and `test_...` are optional: a part that the file lacks is cut from the training
    records, each by a keyed hash of itself. `train_groups` (N,), numbers or names, say whose record each
    is; a group is never divided. `public_images` and `public_labels` are of nobody who must be protected:
    the evaluator of class inversions learns from them. `classes` names each label, for how many there are
    is public, not counted.
    `lazy` leaves the images in the file, for more than memory holds; it must not be compressed.
    """

    path: str
    classes: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    bounds: Sequence[float] = (0.0, 1.0)
    holdout_fraction: float = 0.15
    test_fraction: float = 0.15
    class_prior: Sequence[float] | None = None
    lazy: bool = False
    group_word: str | None = None  # what a group is called: patient, customer
    split_key: str | None = None

    def __post_init__(self) -> None:
        check_fractions(holdout_fraction=self.holdout_fraction, test_fraction=self.test_fraction)
        if len(self.bounds) != 2 or not self.bounds[0] < self.bounds[1]:
            raise ConfigError(
                f"data.bounds={list(self.bounds)} must be two numbers, the lower first; e.g. [0, 1]"
            )
        if len(self.classes) < 2:
            raise ConfigError(
                f"data.classes={list(self.classes)} must name at least two classes, in label order"
            )

    def load(self, rng: torch.Generator) -> Splits:
        path, key = Path(self.path).expanduser(), assignment_key(rng, self.split_key)
        read = map_arrays if self.lazy or path.is_dir() else read_npz
        arrays = read(path, REQUIRED, OPTIONAL)
        given = {
            part: self._records(arrays, part, path)
            for part in ("train", "val", "test", "public")
            if f"{part}_images" in arrays or f"{part}_labels" in arrays
        }
        pool = given["train"]
        groups = _groups(arrays, given, path)
        indices = divide(
            pool,
            groups,
            key,
            holdout=0.0 if "val" in given else self.holdout_fraction,
            test=0.0 if "test" in given else self.test_fraction,
        )
        train, holdout, test = indices
        return assemble(
            name=path.stem,
            source=str(path),
            train=pool.take(train),
            holdout=given["val"] if "val" in given else pool.take(holdout),
            test=given["test"] if "test" in given else pool.take(test),
            classes=self.classes,
            mean=self.mean,
            std=self.std,
            class_prior=self.class_prior,
            group_ids=None if groups is None else groups[train],
            holdout_group_ids=None if groups is None else _held_out_groups(arrays, groups, holdout),
            group_word=self.group_word,
            public=given.get("public"),
            key=key,
        )

    def _records(self, arrays: Mapping[str, np.ndarray], part: str, path: Path) -> Records:
        for key in (f"{part}_images", f"{part}_labels"):
            if key not in arrays:
                raise DataError(f"{path} lacks {key}: save images and labels of a part together, or neither")
        low, high = self.bounds
        return to_records(
            arrays[f"{part}_images"],
            arrays[f"{part}_labels"],
            part=part,
            where=str(path),
            num_classes=len(self.classes),
            bounds=(float(low), float(high)),
            make_inputs=MappedImages if self.lazy else to_inputs,
        )


def _held_out_groups(arrays: Mapping[str, np.ndarray], groups: Tensor, holdout: Tensor) -> Tensor | None:
    """Whose the held-out records are, cut from the training part or of a part of their own; None: unsaid."""
    if "val_images" not in arrays:
        return groups[holdout]
    return number_groups(arrays["val_groups"]) if "val_groups" in arrays else None


def _groups(arrays: Mapping[str, np.ndarray], given: Mapping[str, Records], path: Path) -> Tensor | None:
    """Group ids of the training records, or None; raises DataError for a patient in two parts of the file."""
    named = {part: arrays[f"{part}_groups"] for part in given if f"{part}_groups" in arrays}
    for part, names in named.items():
        if names.ndim != 1 or names.dtype.kind not in "iuUS":
            raise DataError(
                f"{part}_groups of {path} is {names.dtype} of shape {names.shape}: "
                f"store one number or name a record"
            )
        same_count(names, given[part].labels, name=f"{part}_groups of {path}", other=f"{part}_labels")
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        one, other = (named.get(part, np.array([])).tolist() for part in (first, second))
        if shared := set(one) & set(other):
            places = [next(at for at, name in enumerate(each) if name in shared) for each in (one, other)]
            raise DataError(
                f"{len(shared)} patients are in both {first}_groups and {second}_groups of {path}, first at "
                f"records {places[0]} and {places[1]}: keep all records of a patient in one part"
            )
    return number_groups(named["train"]) if "train" in named else None
