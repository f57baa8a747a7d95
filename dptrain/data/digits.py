"""Handwritten digits that come with scikit-learn: no file, no download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from dptrain.contracts import Splits
from dptrain.data.checks import to_records
from dptrain.data.made_up import declared, parts_of
from dptrain.data.splits import Cut, assignment_key

BRIGHTEST = 16.0  # pixels count the inked ones among 4x4 of the scan


@dataclass(frozen=True, kw_only=True)
class Digits(Cut):
    """1797 digits, (1, 8, 8), of ten classes, each assigned to its part by a keyed hash.

    Source: Alpaydin and Kaynak 1998, UCI, "Optical Recognition of Handwritten Digits" (its test part).
    """

    mean: Sequence[float]
    std: Sequence[float]

    def load(self, rng: torch.Generator) -> Splits:
        images, labels = read()
        arrays = {"digits_images": images.astype(np.float32) / BRIGHTEST, "digits_labels": labels}
        records = to_records(arrays, "digits", where="scikit-learn", num_classes=10)
        return self.cut(
            {"train": records},
            None,
            None,
            assignment_key(rng, self.split_key),
            name="digits",
            source="scikit-learn's bundled digits",
            classes=[str(digit) for digit in range(10)],
            mean=self.mean,
            std=self.std,
        )

    def declare(self, train: int) -> Splits:
        """What `load` gives, with so many training records, all made up."""
        counts = parts_of(train, holdout=self.holdout_fraction, test=self.test_fraction)
        classes = [str(digit) for digit in range(10)]
        shape = (1, 8, 8)
        return declared(*counts, shape=shape, name="digits", classes=classes, mean=self.mean, std=self.std)


def read() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (1797, 8, 8) and labels (1797,): the file that `sklearn.datasets.load_digits` reads.

    Read without scikit-learn, whose import takes longer than all else that a run needs besides PyTorch.
    """
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
