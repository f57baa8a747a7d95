from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dptrain.contracts import DataError
from dptrain.data.files import cache_folder, download, find, md5_of, read_npz

BODY = bytes(range(256)) * 2000
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()


def test_root_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.npz").write_bytes(b"x")
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path / "b"))
    assert find("x.npz", root=str(tmp_path / "a")) == tmp_path / "a" / "x.npz"
    assert find("x.npz", root=None) == tmp_path / "b" / "x.npz"
    assert find("y.npz", root=str(tmp_path / "a")) is None


def test_a_download_is_kept_and_not_repeated(web, nowhere: Path) -> None:
    web.pages["x.npz"] = BODY
    for _ in range(2):
        path = download("x.npz", url=web.url("x.npz"), md5=MD5, root=None, cache=str(nowhere))
        assert path.read_bytes() == BODY
    assert web.asked == ["x.npz"]
    assert [entry.name for entry in nowhere.iterdir()] == ["x.npz"]


def test_a_damaged_file_in_the_cache_is_replaced(web, nowhere: Path) -> None:
    web.pages["x.npz"] = BODY
    nowhere.mkdir()
    (nowhere / "x.npz").write_bytes(BODY[:100])
    assert md5_of(download("x.npz", url=web.url("x.npz"), md5=MD5, root=None, cache=str(nowhere))) == MD5


def test_a_wrong_checksum_is_refused_and_nothing_kept(web, nowhere: Path) -> None:
    web.pages["x.npz"] = BODY + b"!"
    with pytest.raises(DataError, match=f"checksum is not data.md5={MD5}, so it was thrown away"):
        download("x.npz", url=web.url("x.npz"), md5=MD5, root=None, cache=str(nowhere))
    assert list(nowhere.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(web, nowhere: Path) -> None:
    web.pages["x.npz"] = BODY
    web.cut.add("x.npz")
    with pytest.raises(DataError, match=r"x.npz was not found in any of: .*http://127.0.0.1.*Incomplete"):
        download("x.npz", url=web.url("x.npz"), md5=MD5, root=None, cache=str(nowhere))
    assert list(nowhere.iterdir()) == []


def test_no_such_page(web, nowhere: Path) -> None:
    with pytest.raises(DataError, match="404"):
        download("x.npz", url=web.url("x.npz"), md5=MD5, root=None, cache=str(nowhere))


def test_without_a_network_the_error_names_every_place(nowhere: Path) -> None:
    with pytest.raises(DataError) as caught:
        download("x.npz", url="http://127.0.0.1:9/x.npz", md5=MD5, root="/no/such", cache=str(nowhere))
    for words in (
        "x.npz was not found",
        "data.root (/no/such)",
        "DPTRAIN_DATA (not set)",
        str(nowhere),
        "http://127.0.0.1:9",
        "data=phantom",
    ):
        assert words in str(caught.value)


def test_the_default_cache_is_the_platforms_own() -> None:
    assert cache_folder(None).name == "dptrain"


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_arrays_that_are_there(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", a=np.arange(3), b=np.arange(4), c=np.arange(5))
    assert set(read_npz(path, ["a"], ["b", "z"])) == {"a", "b"}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", a=np.arange(3000), b=np.array([None]))
    with pytest.raises(
        DataError, match=r"x.npz lacks z and holds a, b: save the arrays under the names a, z"
    ):
        read_npz(path, ["a", "z"])
    with pytest.raises(DataError, match=r"b of .*x.npz cannot be read .*: save it as plain numbers"):
        read_npz(path, ["b"])
    with pytest.raises(DataError, match=r"none.npz does not exist"):
        read_npz(tmp_path / "none.npz", ["a"])
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match=r"text.npz is not an npz file, or is cut short"):
        read_npz(tmp_path / "text.npz", ["a"])
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cut.npz is not an npz file, or is cut short"):
        read_npz(tmp_path / "cut.npz", ["a"])


@pytest.mark.parametrize("at", ["contents", "directory"])
def test_damaged_bytes(tmp_path: Path, at: str) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.random.default_rng(0).normal(size=3000))
    body = bytearray(path.read_bytes())
    start = 5000 if at == "contents" else body.index(b"PK\x01\x02")
    body[start : start + 4] = b"\xff\x00\xff\x00"
    path.write_bytes(body)
    assert zipfile.is_zipfile(path)
    with pytest.raises(DataError, match="damaged"):
        read_npz(path, ["a"])
