"""Features that a frozen part makes of records, made once and kept from one training to the next."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from dptrain.runs.binding import weights_digest
from dptrain.runs.saved import saved
from dptrain.storage import write_bytes

log = logging.getLogger(__name__)

GIB = 2**30
LOCK = ".lock"
FOLDERS = "features_*"  # one for each frozen part, in the cache beside the runs


class FeatureStore:
    """Features of records by name: in memory and, with a `folder`, in files beside the runs.

    They tell of records, so that each file is readable by its owner only. A file is whole or not there; one
    that was damaged is removed, and its features are made again. A second process that asks for features
    waits for the first. All such folders of a cache together take at most `gib`: others that were used
    longest ago are emptied first. What is still beyond that, or cannot be written, is kept in memory only.
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

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process makes features of this frozen part."""
        with ExitStack() as held:
            if self._folder is not None:
                try:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    held.enter_context(FileLock(self._folder / LOCK))
                    os.utime(self._folder)  # when it was used
                except (OSError, NotImplementedError) as error:  # which a disk without locks raises
                    self._give_up(error)
            yield

    def _look(self) -> None:
        """Read what was written since, by whichever process."""
        try:
            for path in () if self._folder is None else sorted({*self._folder.glob("*.pt")} - self._read):
                self._read.add(path)
                self._take(path)
        except OSError as error:
            self._give_up(error)

    def _take(self, path: Path) -> None:
        """Read a file, or remove one that is damaged."""
        try:
            kept = torch.load(path, weights_only=True, mmap=True)
            names, rows = kept["names"], kept["rows"]
            whole = path.stem == _digest(names, rows)
        except FileNotFoundError:  # another process has removed it
            return
        except PermissionError:  # it is another user's, and need not be damaged
            raise
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
            if not _room(self._folder, self._gib * GIB - len(written)):
                log.info("%s: no more features are kept, by performance.feature_files_gib", self._folder)
                self._folder = None
                return
            write_bytes(written, path, private=True)
            self._read.add(path)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Keep features in memory only: a run needs no more than that."""
        log.warning("features of the frozen part are not kept beside the runs: %s", error)
        self._folder = None


def _room(folder: Path, most: float) -> bool:
    """Whether all folders beside this one take no more bytes, once others that have to be are emptied."""
    taken = {each: sum(map(_size, each.glob("*.pt"))) for each in folder.parent.glob(FOLDERS)}
    if taken[folder] > most:
        return False  # nor would it help to empty the others
    for other in sorted(taken.keys() - {folder}, key=lambda each: each.stat().st_mtime):
        if sum(taken.values()) <= most:
            break
        with suppress(Timeout), FileLock(other / LOCK, timeout=0):  # a process that has read them goes on
            for path in other.glob("*.pt"):
                path.unlink(missing_ok=True)
            taken[other] = 0
    return sum(taken.values()) <= most


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # another process has removed it
        return 0


def _digest(names: Tensor, rows: Tensor) -> str:
    return weights_digest({"names": names, "rows": rows})[:40]
