"""Teachers that are kept to answer queries, and the answers of a run to itself.

Who trains keeps the teachers, whose votes without noise say what no guarantee covers. What people ask is
answered through `paid_answers`; what a run itself asks, to measure and to attack, by a `Replica`.
"""

from __future__ import annotations

import hmac
import io
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from dptrain.contracts import DptrainError, Records
from dptrain.privacy.noise.source import NoiseSource
from dptrain.storage import write_bytes
from dptrain.training.seen import Seen
from dptrain.training.teachers import flat, named, taught

TEACHERS = "teachers.pt"


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Linear teachers on disjoint parts of the records, float64; as confidential as these."""

    means: Tensor  # of features: (teachers, d)
    weights: Tensor  # (teachers, d, classes)
    shares: Tensor  # of classes: (teachers, classes)

    @classmethod
    @torch.no_grad()
    def of(cls, train: Records, part: Tensor, *, teachers: int, classes: int, ridge: float) -> Ensemble:
        """Teachers on the features of records, each of which is in the `part` (N,) of one."""
        each = taught(train, part, teachers=teachers, classes=classes, ridge=ridge)
        means, weights, shares = (torch.stack(tensors) for tensors in zip(*each, strict=True))
        return cls(means=means, weights=weights, shares=shares)

    @torch.no_grad()
    def counts(self, features: Tensor) -> Tensor:
        """How many teachers name each class for features (n, ...), without noise: (n, classes) float64."""
        asked, classes = flat(features), self.shares.shape[1]
        found = torch.zeros(len(asked), classes, dtype=torch.float64)
        for mean, weights, shares in zip(self.means, self.weights, self.shares, strict=True):
            found += torch.nn.functional.one_hot(named(asked, mean, weights, shares), classes)
        return found

    def save(self, folder: Path, *, made_by: str) -> None:
        """Write the teachers, for the run's owner only; `made_by` is a hash of what makes their features."""
        content = io.BytesIO()
        torch.save({"made_by": made_by, **vars(self)}, content)
        write_bytes(content.getbuffer(), folder / TEACHERS, private=True, durable=True)

    @classmethod
    def load(cls, folder: Path, *, made_by: str) -> Ensemble:
        """The teachers of a run; raises DptrainError where there are none, or they see other features."""
        try:
            found = torch.load(folder / TEACHERS, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file makes torch.load raise
            raise DptrainError(
                f"{folder}: {TEACHERS} cannot be read ({type(error).__name__}); name a finished run with "
                "mechanism=private_prediction"
            ) from error
        if found.pop("made_by") != made_by:
            raise DptrainError(
                f"{folder}: its teachers see other features than are made here; use the configuration, the "
                "weights and the library versions that it was trained with"
            )
        return cls(**found)


def shares_of(counts: Tensor) -> Tensor:
    """Probabilities (n, classes) from noisy counts, none of them zero; the largest count's is the largest."""
    kept = counts.clamp(min=0.0) + 0.5
    return kept / kept.sum(1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Replica:
    """Answers inputs (n, ...) as people are answered: by noisy counts, the same for an input asked again.

    The noise of an input is drawn from a key of its own, a hash of the input under the replica's `key`. A
    `std` of 0 is no noise, for controls.
    """

    ensemble: Ensemble
    seen: Seen
    std: float
    key: bytes

    def __call__(self, inputs: Tensor) -> Tensor:
        """Class probabilities (n, classes)."""
        counts = self.ensemble.counts(self.seen.of_inputs(inputs))
        if self.std == 0.0:
            return shares_of(counts)
        rows = zip(digests(inputs), counts, strict=True)
        return shares_of(torch.stack([self._noisy(digest, row) for digest, row in rows]))

    def _noisy(self, digest: bytes, counts: Tensor) -> Tensor:
        return NoiseSource(hmac.digest(self.key, digest, sha256)).add([counts], self.std)[0]


def digests(inputs: Tensor) -> list[bytes]:
    """A hash of each input (n, ...)."""
    rows = Records(inputs.cpu(), torch.zeros(len(inputs), dtype=torch.int64)).digests().numpy()
    return [row.tobytes() for row in rows]
