"""A small convolutional network whose first layers were trained elsewhere and stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dptrain.models.cnn import SmallCNN
from dptrain.models.frozen import FrozenFeatures
from dptrain.models.pretrained.weights import Origin, file_hash, load, read_weights

NAME = "small_cnn"


class PretrainedCNN(FrozenFeatures):
    """The features of a `SmallCNN` from a file, which nobody trains any more, and a fresh linear head.

    Fewer layers learn from the records, and those that do not cannot give them away (Ho et al., CVPR 2024,
    "Model inversion robustness: can transfer learning help?"). `weights` is a file with those of a `SmallCNN`
    with the same `others`, such as the weights.pt of a run on public data; the size of its images may differ.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        weights: str,
        sha256: str | None = None,
        trained_on: str | None = None,
        **others: Any,
    ) -> None:
        made, path = SmallCNN(shape, num_classes, **others), Path(weights).expanduser()
        digest = file_hash(path, sha256)
        load(made.features, read_weights(path), path=path, name=NAME, head=[])
        super().__init__(made.features, made.head)
        self.origin = Origin(name=NAME, trained_on=trained_on, sha256=digest)
