"""Answers that are given to people: each on the disk before it is given, and no more than are paid for."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dptrain.contracts import ConfigError, DptrainError, OutOfQueries, Output
from dptrain.privacy.noise.source import NoiseSource
from dptrain.training.ensemble import Ensemble, digests, shares_of
from dptrain.training.seen import Seen

LEDGER = "answers.sqlite"
NO_END = 2**62  # answers
BUSY_SECONDS = 60.0  # that a process waits for another one's answer


class PaidAnswers:
    """The answers that were given, at most so many for ever, in a file that processes share.

    An answer is on the disk before it is given. Whoever is killed before has given nothing; what was written
    and not given is found when it is asked again, which costs nothing more.
    """

    def __init__(self, folder: Path) -> None:
        """Those of a run folder; raises DptrainError where the file is gone."""
        self._path = folder / LEDGER
        if not self._path.exists():
            raise DptrainError(
                f"{folder}: {LEDGER}, which says what was answered and paid for, is gone; nothing more may "
                "be answered from this run, so train a new one"
            )
        with self._open() as file:
            terms = file.execute("select most, std from terms").fetchone()
        self.most, self.std = int(terms[0]), float(terms[1])  # std: of the noise on each count

    @classmethod
    def begin(cls, folder: Path, *, most: int, std: float) -> PaidAnswers:
        """A file without answers; raises DptrainError where one is there, of other terms."""
        path = folder / LEDGER
        path.touch(mode=0o600)
        with closing(_connected(path)) as file, file:
            file.execute("create table if not exists terms (most integer not null, std real not null)")
            file.execute("create table if not exists answers (input blob primary key, counts blob not null)")
            file.execute("insert into terms select ?, ? where not exists (select * from terms)", (most, std))

        found = cls(folder)
        if (found.most, found.std) != (most, std):
            raise DptrainError(
                f"resume={folder}: {LEDGER} is of {found.most:,} answers with noise of {found.std:.6g}, and "
                f"{most:,} with {std:.6g} are planned now; resume it with the data, the configuration and "
                "the library versions that it was begun with, or start a new run"
            )
        return found

    def replica(self, folder: Path) -> PaidAnswers:
        """A file in this folder without answers, which does not end, with noise of this size.

        For whoever measures how good answers are, or what they give away, and pays from nobody's budget.
        """
        return self.begin(folder, most=NO_END, std=self.std)

    @property
    def left(self) -> int:
        """How many other inputs may still be asked about."""
        with self._open() as file:
            return self.most - self._given(file)

    def once(self, digest: bytes, draw: Callable[[], Tensor]) -> Tensor:
        """The noisy counts (classes,) for this input: those that were given, or a draw, which is paid for.

        Raises OutOfQueries where the last one is paid for.
        """
        with self._open() as file:
            file.execute("begin immediate")  # whoever else asks waits
            try:
                found = file.execute("select counts from answers where input = ?", (digest,)).fetchone()
                if found is not None:
                    return torch.from_numpy(np.frombuffer(found[0], dtype=np.float64).copy())
                if self._given(file) >= self.most:
                    raise OutOfQueries(
                        f"all {self.most:,} answers of this release are given; what was asked before is "
                        "answered as before, and anything else never: train a new one, which spends anew"
                    )
                counts = draw()
                file.execute("insert into answers values (?, ?)", (digest, counts.numpy().tobytes()))
                file.execute("commit")
            finally:
                if file.in_transaction:
                    file.execute("rollback")
        return counts

    @staticmethod
    def _given(file: sqlite3.Connection) -> int:
        (given,) = file.execute("select count(*) from answers").fetchone()
        return int(given)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(_connected(self._path)) as file:
                yield file
        except sqlite3.Error as error:
            raise DptrainError(f"{self._path} cannot be used ({error}); nothing was answered") from error


def _connected(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    file.execute("pragma synchronous=extra")  # the folder too, in which the journal was
    return file


class Predictor:
    """Answers people, for as long as there are answers that are paid for."""

    def __init__(
        self,
        ensemble: Ensemble,
        seen: Seen,
        paid: PaidAnswers,
        *,
        shape: tuple[int, ...],
        output: Output | None = None,
    ) -> None:
        """`shape` is that of an input, `output` what is told of confidences (None: all)."""
        self._ensemble, self._seen, self._paid = ensemble, seen, paid
        self._shape, self._output = shape, output

    @property
    def left(self) -> int:
        """How many other inputs may still be asked about, by whomever."""
        return self._paid.left

    def confidences(self, inputs: Tensor) -> Tensor:
        """Class probabilities (n, classes) of inputs (n, ...), each of which is paid for once.

        Raises OutOfQueries at the first input that there is no answer left for; those before it are paid for.
        """
        if tuple(inputs.shape[1:]) != self._shape or len(inputs) == 0:
            raise ConfigError(
                f"inputs of shape {tuple(inputs.shape)} are asked about; give (n, "
                f"{', '.join(map(str, self._shape))}), one input or more"
            )
        counts = self._ensemble.counts(self._seen.of_inputs(inputs))
        found = [
            self._paid.once(digest, partial(self._noisy, row))
            for digest, row in zip(digests(inputs), counts, strict=True)
        ]
        shares = shares_of(torch.stack(found))
        return shares if self._output is None else self._output(shares)

    def labels(self, inputs: Tensor) -> Tensor:
        """The class of each of these inputs (n, ...): (n,) int64; costs what `confidences` does."""
        return self.confidences(inputs).argmax(1)

    def _noisy(self, counts: Tensor) -> Tensor:
        # From a key of its own: processes that were forked would share the state of a source.
        return NoiseSource(secrets.token_bytes(32)).add([counts], self._paid.std)[0]
