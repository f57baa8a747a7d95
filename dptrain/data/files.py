"""Finds, downloads and reads data files."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pooch

from dptrain.contracts import DataError

ENVIRONMENT = "DPTRAIN_DATA"  # a folder of data files, for all runs of a machine
CHUNK_BYTES = 1 << 16
TIMEOUT_SECONDS = 30


def cache_folder(cache: str | None) -> Path:
    """The folder that downloads are kept in: `cache`, or else the platform's own place for caches."""
    return Path(cache).expanduser() if cache else Path(pooch.os_cache("dptrain"))


def local_folders(root: str | None) -> list[Path]:
    """The folders that the user keeps data in, in the order in which they are searched."""
    return [Path(folder).expanduser() for folder in (root, os.environ.get(ENVIRONMENT)) if folder]


def find(file: str, *, root: str | None) -> Path | None:
    """The first of the user's own folders' `file`, or None."""
    return next((folder / file for folder in local_folders(root) if (folder / file).is_file()), None)


def download(
    file: str,
    *,
    url: str,
    root: str | None,
    cache: str | None,
    md5: str | None = None,
    sha256: str | None = None,
) -> Path:
    """The file in the cache, downloaded from `url` if it is not there yet.

    It is downloaded under another name and takes its own only when the checksum is right.
    Raises DataError, and keeps nothing, if it cannot be had or has another checksum. A publisher
    may publish none.
    """
    kind, checksum = ("md5", md5) if sha256 is None else ("sha256", sha256)
    folder = cache_folder(cache)
    downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=CHUNK_BYTES, timeout=TIMEOUT_SECONDS)
    try:
        pooch.retrieve(
            url,
            known_hash=None if checksum is None else f"{kind}:{checksum}",
            fname=file,
            path=folder,
            downloader=downloader,
        )
    except ValueError as error:  # pooch's word for a wrong checksum
        raise DataError(
            f"{url} sent a file whose checksum is not data.{kind}={checksum}, so it was thrown away: "
            f"try again, or download {file} yourself and name its folder in data.root, or use data=phantom"
        ) from error
    except OSError as error:  # no network, no such page, broken off, disk full
        raise missing(file, url=url, root=root, cache=cache, reason=error) from error
    return folder / file


def missing(file: str, *, url: str, root: str | None, cache: str | None, reason: object) -> DataError:
    """The error that says which file is wanted, where it was looked for, and what to do."""
    environment = os.environ.get(ENVIRONMENT)
    looked = [
        f"data.root ({root or 'not set'})",
        f"{ENVIRONMENT} ({environment or 'not set'})",
        f"the cache ({cache_folder(cache)})",
        f"{url} ({' '.join(str(reason).split())})",
    ]
    return DataError(
        f"{file} was not found in any of: {'; '.join(looked)}. "
        f"Put it into one of these folders, or use data=phantom, which needs no file"
    )


def md5_of(path: Path) -> str:
    """The MD5 checksum of a file, in hexadecimal."""
    with path.open("rb") as handle:
        # The checksum tells versions of public files apart; it protects nothing.
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def read_npz(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The named arrays of an npz file; raises DataError if it is not one, is damaged, or lacks one.

    An optional name may end in a `*`, for all that begin so.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: give the path of an npz file")
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{path} is not an npz file, or is cut short: make it with numpy.savez, or copy it again"
        )
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            lacking = [key for key in required if key not in archive.files]
            if lacking:
                raise DataError(
                    f"{path} lacks {', '.join(lacking)} and holds {', '.join(archive.files) or 'nothing'}: "
                    f"save the arrays under the names {', '.join(required)}"
                )
            wanted = called(archive.files, (*required, *optional))
            return {key: _read_array(archive, key, path) for key in wanted}
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is damaged ({error}): copy the file again") from error


def called(held: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that patterns stand for."""
    return [name for pattern in patterns for name in fnmatch.filter(held, pattern)]


def _read_array(archive: np.lib.npyio.NpzFile, key: str, path: Path) -> np.ndarray:
    try:
        return np.asarray(archive[key])
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{key} of {path} is damaged ({error}): copy the file again") from error
    except ValueError as error:  # numpy refuses to unpickle
        raise DataError(f"{key} of {path} cannot be read ({error}): save it as plain numbers") from error
