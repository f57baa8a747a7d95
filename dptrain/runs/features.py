"""Features that a frozen part makes of records, made once and kept from one training to the next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from dptrain.runs.binding import weights_digest
from dptrain.runs.saved import saved
from dptrain.storage import Unwritable, write_bytes

log = logging.getLogger(__name__)

GIB = 2**30
FOLDERS = "features_*"  # one for each frozen part, in the cache beside the runs


class FeatureStore:
    """Features of records by name: in memory and, with a `folder`, in files beside the runs.

    They tell of records, so that each file is readable by its owner only. A file is whole or not there; one
    that was damaged is removed, and its features are made again. A second process that asks for features
    waits for the first. All such folders of a cache together take at most `gib`; what is beyond that, or
    finds the disk full, is kept in memory only.
    """

    def __init__(self, folder: Path | None = None, *, gib: float = 0.0) -> None:
        self._folder = folder if gib > 0 else None
        self._gib = gib
        self._rows: dict[bytes, Tensor] = {}
        self._read: set[Path] = set()

    def __len__(self) -> int:
        return len(self._rows)

    def once(self, names: Sequence[bytes], make: Callable[[Tensor], Tensor]) -> Tensor:
        """The features of these names (n, ...); `make` is asked for the positions that are new (m,)."""
        with self._alone():
            new = self._new(names)
            if new:
                self._keep(list(new), make(torch.tensor(list(new.values()))))
        return torch.stack([self._rows[name] for name in names])

    def missing(self, names: Sequence[bytes]) -> int:
        """How many features of these names would have to be made."""
        return len(self._new(names))

    def _new(self, names: Sequence[bytes]) -> dict[bytes, int]:
        """The names that nothing is kept of, each with one of its positions."""
        self._look()
        return {name: index for index, name in enumerate(names) if name not in self._rows}

    def _alone(self) -> AbstractContextManager[object]:
        """While no other process makes features of this frozen part."""
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                return FileLock(self._folder / ".lock")
            except OSError as error:
                self._give_up(error)
        return nullcontext()

    def _look(self) -> None:
        """Read what was written since, by whichever process."""
        if self._folder is None:
            return
        for path in sorted({*self._folder.glob("*.pt")} - self._read):
            self._read.add(path)
            try:
                kept = torch.load(path, weights_only=True, mmap=True)
                names, rows = kept["names"], kept["rows"]
                whole = path.stem == _digest(names, rows)
            except Exception:  # of a damaged file torch.load raises whatever reading it came to
                whole = False
            if whole:
                self._rows.update(zip(map(bytes, names.numpy()), rows, strict=True))
            else:
                log.warning("%s is damaged: the features in it are made again", path)
                path.unlink(missing_ok=True)

    def _keep(self, names: Sequence[bytes], rows: Tensor) -> None:
        self._rows.update(zip(names, rows, strict=True))
        if self._folder is None:
            return
        content = {"names": torch.tensor([list(name) for name in names], dtype=torch.uint8), "rows": rows}
        path = self._folder / f"{_digest(**content)}.pt"
        try:
            written = saved(content)
            taken = sum(file.stat().st_size for file in self._folder.parent.glob(f"{FOLDERS}/*.pt"))
            if taken + len(written) > self._gib * GIB:
                log.info("%s: no more features are kept, by performance.feature_files_gib", self._folder)
                self._folder = None
                return
            write_bytes(written, path, private=True)
            self._read.add(path)
        except Unwritable as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Keep features in memory only: a run needs no more than that."""
        log.warning("features of the frozen part are not kept beside the runs: %s", error)
        self._folder = None


def _digest(names: Tensor, rows: Tensor) -> str:
    return weights_digest({"names": names, "rows": rows})[:40]
