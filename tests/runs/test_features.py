"""Features kept beside the runs: found again, never in place of others, and never what a run depends on."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import order
from torch import Tensor

from dptrain import storage
from dptrain.cli import main as cli
from dptrain.models.scattering import Scattering2d
from dptrain.report.document import read_json
from dptrain.runs import features
from dptrain.runs.features import FeatureStore

NAMES = [bytes([number]) * 32 for number in range(6)]


def rows(positions: Tensor) -> Tensor:
    return positions[:, None] * torch.ones(1, 3)


def never(_: Tensor) -> Tensor:
    return pytest.fail("made again")


def counted(asked: list[int]) -> Callable[[Tensor], Tensor]:
    def make(positions: Tensor) -> Tensor:
        asked.extend(positions.tolist())
        return rows(positions)

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "features_1"


def test_what_was_made_is_found_by_another_process_and_readable_by_its_owner_only(folder: Path) -> None:
    made = FeatureStore(folder, gib=1).once(NAMES[:4], rows)
    assert torch.equal(FeatureStore(folder, gib=1).once(NAMES[:4], never), made)
    (file,) = folder.glob("*.pt")
    assert file.stat().st_mode & 0o777 == 0o600


def test_only_what_is_new_is_made_and_each_name_once(folder: Path) -> None:
    FeatureStore(folder, gib=1).once(NAMES[:2], rows)
    store, asked = FeatureStore(folder, gib=1), list[int]()
    names = [NAMES[4], NAMES[0], NAMES[4], NAMES[1], NAMES[5]]
    assert store.missing(names) == 2
    found = store.once(names, counted(asked))
    assert sorted(asked) in ([0, 4], [2, 4])
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[[1, 3]], rows(torch.tensor([0, 1])))


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_removed_and_its_features_are_made_again(damage: str, folder: Path) -> None:
    made = FeatureStore(folder, gib=1).once(NAMES, rows)
    (file,) = folder.glob("*.pt")
    content = file.read_bytes()
    five = torch.tensor(5.0).numpy().tobytes()  # the last record's first feature
    file.write_bytes(
        {"cut": content[:-200], "changed": content.replace(five, five[::-1]), "empty": b""}[damage]
    )
    asked = list[int]()
    assert torch.equal(FeatureStore(folder, gib=1).once(NAMES, counted(asked)), made)
    assert len(asked) == len(NAMES)
    assert torch.equal(FeatureStore(folder, gib=1).once(NAMES, never), made)


def held(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.pt"))


def test_folders_used_longest_ago_make_room_and_never_the_one_in_use(folder: Path) -> None:
    one, two, three = (folder.with_name(f"features_{name}") for name in "abc")
    for each in (two, one):
        FeatureStore(each, gib=1).once(NAMES[:3], rows)
    for age, each in enumerate((one, two)):  # two was used longest ago
        os.utime(each, (100 - age, 100 - age))
    FeatureStore(one, gib=1).once(NAMES[:3], never)
    most = 2.5 * held(one) / 2**30
    store = FeatureStore(three, gib=most)
    store.once(NAMES[:3], rows)
    assert held(one)
    assert held(three)
    assert not held(two)
    grown = FeatureStore(three, gib=1.5 * held(three) / 2**30)
    grown.once(NAMES, rows)
    grown.once(NAMES, never)  # of its own memory
    assert held(one), "none is emptied in vain"
    assert held(one) == held(three)


def refused(path: object, *_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.mark.parametrize("what", ["mkdir", "lock", "utime", "load", "unlink", "stat", "write"])
def test_a_folder_that_is_not_to_be_used_costs_time_only(what, folder, monkeypatch, caplog) -> None:
    FeatureStore(folder, gib=1).once(NAMES[:2], rows)
    if what == "unlink":
        next(folder.glob("*.pt")).write_bytes(b"")
    owner, name = {
        "mkdir": (features.Path, "mkdir"),
        "lock": (features, "FileLock"),
        "utime": (features.os, "utime"),
        "load": (features.torch, "load"),
        "unlink": (features.Path, "unlink"),
        "stat": (features, "_size"),
        "write": (features, "write_bytes"),
    }[what]
    store = FeatureStore(folder, gib=1)
    monkeypatch.setattr(owner, name, refused)
    store.once(NAMES, rows)
    assert torch.equal(store.once(NAMES, never), rows(torch.arange(6)))
    assert "not kept beside the runs" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_cannot_be_written_to_costs_time_only(code, folder, monkeypatch, caplog) -> None:
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code), str(folder))

    store = FeatureStore(folder, gib=1)
    monkeypatch.setattr(storage.Path, "replace", full)
    store.once(NAMES, rows)
    assert torch.equal(store.once(NAMES, never), rows(torch.arange(6)))
    assert "not kept beside the runs" in caplog.text
    assert not [file for file in folder.iterdir() if file.name != ".lock"]


def _make_slowly(folder: Path) -> None:
    def make(positions: Tensor) -> Tensor:
        with (folder.parent / "made").open("a") as file:
            file.write("x" * len(positions))
        time.sleep(0.3)
        return rows(positions)

    FeatureStore(folder, gib=1).once(NAMES, make)


@pytest.mark.run
def test_a_second_process_waits_for_the_first(folder: Path) -> None:
    folder.mkdir(parents=True)
    processes = [multiprocessing.Process(target=_make_slowly, args=(folder,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (folder.parent / "made").read_text() == "x" * len(NAMES)


SCATTER = (
    "model=scatter_linear", "attack=[]", "control.enabled=false", "tracking=none", "training.steps=2",
    "optimizer=sgd", "mechanism.audit_sensitivity=false", "performance.estimate=false",
)  # fmt: skip

DIGITS = 1797  # records in all: trained on, held out, and those that utility is measured on


@pytest.mark.run
def test_another_budget_trains_on_the_features_of_the_first_run(tmp_path, monkeypatch) -> None:
    """Nor do other keys of the training make them again; other features, and a switched-off store, do."""
    made = list[int]()
    forward = Scattering2d.forward

    def count(self: Scattering2d, images: Tensor) -> Tensor:
        made.append(int((images.flatten(1).std(1) > 0).sum()))  # rows that fill up a batch are blank
        return forward(self, images)

    monkeypatch.setattr(Scattering2d, "forward", count)
    monkeypatch.chdir(tmp_path)

    def images_of(*words: str) -> int:
        made.clear()
        cli.main(order(*SCATTER, *words), None)
        return sum(made)

    first, second = images_of("privacy.epsilon=1"), images_of("privacy.epsilon=3", "optimizer.lr=0.2")
    assert first - second == DIGITS, "what is left are rows that the model is tried on"
    assert images_of("model.groups=9") >= DIGITS
    assert images_of("privacy.epsilon=2", "performance.feature_files_gib=0") >= DIGITS
    reports = sorted(tmp_path.rglob("report.json"))
    assert len({read_json(report)["guarantee"]["epsilon"] for report in reports}) == 3
