"""Images that stay in their files are those that would be in memory, bit for bit, and cost no memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dptrain.contracts import ConfigError, DataError, Splits
from dptrain.data.image_folder import ImageFolder
from dptrain.data.npz import Npz
from dptrain.data.pixels import Images

pytestmark = pytest.mark.e2e

COUNT = 60


def arrays(dtype: type = np.uint8) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (COUNT, 6, 5, 3)).astype(dtype)
    return {
        "train_images": images if dtype is np.uint8 else images / dtype(300),
        "train_labels": np.arange(COUNT) % 2,
        "train_groups": np.repeat([f"p{i}" for i in range(COUNT // 3)], 3),
    }


def load(path: Path, **fields: object) -> Splits:
    settings = {"classes": ["well", "ill"], "mean": [0.5] * 3, "std": [0.25] * 3} | fields
    return Npz(path=str(path), **settings).load(torch.Generator().manual_seed(0))


def folder_of(path: Path, saved: dict[str, np.ndarray]) -> Path:
    path.mkdir()
    for name, values in saved.items():
        np.save(path / f"{name}.npy", values)
    return path


def require_same(lazy: Splits, held: Splits) -> None:
    for some, others in zip(
        (lazy.train, lazy.holdout, lazy.test), (held.train, held.holdout, held.test), strict=True
    ):
        assert others.in_memory
        assert not some.in_memory
        assert torch.equal(some.inputs, others.inputs)
        assert torch.equal(some.labels, others.labels)
        shuffled = torch.randperm(len(some), generator=torch.Generator().manual_seed(1))
        assert torch.equal(some.take(shuffled).inputs, others.take(shuffled).inputs)
    assert lazy.shape == held.shape
    if held.group_ids is not None:
        assert torch.equal(lazy.group_ids, held.group_ids)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("by_columns", [False, True])
def test_a_mapped_npz_file_holds_the_same_records(tmp_path, dtype, by_columns):
    saved = arrays(dtype)
    if by_columns:
        saved["train_images"] = np.asfortranarray(saved["train_images"])
    np.savez(tmp_path / "own.npz", **saved)
    require_same(load(tmp_path / "own.npz", lazy=True), load(tmp_path / "own.npz"))


def test_a_folder_of_npy_files_holds_the_same_records(tmp_path):
    folder = folder_of(tmp_path / "own", arrays())
    np.savez(tmp_path / "own.npz", **arrays())
    require_same(load(folder, lazy=True), load(folder))
    require_same(load(folder, lazy=True), load(tmp_path / "own.npz"))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what it was told")
@pytest.mark.parametrize(("side", "told"), [(6, True), (300, False)])
@pytest.mark.parametrize("as_folder", [False, True])
def test_the_system_is_told_that_small_records_are_read_in_no_order(tmp_path, side, told, as_folder):
    images = np.arange(40, dtype=np.uint8)[:, None, None] * np.ones((1, side, side), np.uint8)
    saved = {"train_images": images, "train_labels": np.arange(40) % 2}
    if as_folder:
        folder_of(tmp_path / "own", saved)
    else:
        np.savez(tmp_path / "own", **saved)
    splits = load(tmp_path / ("own" if as_folder else "own.npz"), lazy=True, mean=[0.5], std=[0.25])
    maps = Path("/proc/self/smaps").read_text().split("VmFlags:")
    flags = [after.split("\n")[0].split() for before, after in pairwise(maps) if str(tmp_path) in before]
    assert len(splits.train) > 0
    assert any("rr" in each for each in flags) is told


def test_a_compressed_file_cannot_be_mapped_and_says_the_cure(tmp_path):
    np.savez_compressed(tmp_path / "own.npz", **arrays())
    with pytest.raises(DataError, match=r"train_images of .* is compressed.*numpy\.savez.*data\.lazy=false"):
        load(tmp_path / "own.npz", lazy=True)
    assert len(load(tmp_path / "own.npz").train) > 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"train_images": np.full((COUNT, 6, 5, 3), 2.0)},
            "record 0 of train_images .* holds a value outside",
        ),
        ({"train_images": np.zeros((COUNT, 6), np.uint8)}, r"has shape \(60, 6\)"),
        ({"train_images": np.zeros((COUNT, 6, 5), int)}, "is int64: store pixels as uint8"),
        ({"train_images": np.zeros((9, 6, 5), np.uint8)}, "has 9 records but train_labels has 60"),
        ({"train_labels": np.array([None] * COUNT)}, r"cannot be mapped .*: save it as plain numbers"),
    ],
)
def test_mapped_records_that_cannot_be_used(tmp_path, changes, says):
    np.savez(tmp_path / "own.npz", **(arrays() | changes))
    with pytest.raises(DataError, match=says):
        load(tmp_path / "own.npz", lazy=True)


def test_a_record_far_down_is_found_and_named(tmp_path):
    images = np.zeros((2500, 2, 2), np.float32)
    images[2100, 1, 1] = np.nan
    np.savez(tmp_path / "own.npz", train_images=images, train_labels=np.arange(2500) % 2)
    for lazy in (False, True):
        with pytest.raises(DataError, match=r"record 2100 of train_images .* holds NaN"):
            load(tmp_path / "own.npz", lazy=lazy)


def test_files_that_are_none(tmp_path):
    (tmp_path / "own.npz").write_bytes(b"none")
    with pytest.raises(DataError, match=r"neither an npz file nor a folder of \.npy files"):
        load(tmp_path / "own.npz", lazy=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="lacks train_images, train_labels and holds nothing"):
        load(tmp_path / "empty")
    folder = folder_of(tmp_path / "own", arrays())
    (folder / "train_images.npy").write_bytes(b"cut short")
    with pytest.raises(DataError, match=r"train_images\.npy cannot be mapped"):
        load(folder)


# --------------------------------------------------------------------------- image folders


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for number in range(40):
        path = (
            tmp_path / "pictures" / ("ill" if number % 3 else "well") / f"patient{number // 2}_{number}.png"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30), dtype=np.uint8)).save(path)
    return tmp_path / "pictures"


def folder(root: Path, **fields: object) -> Splits:
    settings = {"size": [8, 12], "mean": [0.5], "std": [0.25]} | fields
    return ImageFolder(root=str(root), **settings).load(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("workers", [1, 3, None])
def test_images_decoded_on_demand_are_the_same(pictures, workers):
    pattern = r"(patient\d+)_"
    lazy = folder(pictures, lazy=True, workers=workers, group_pattern=pattern)
    require_same(lazy, folder(pictures, workers=1, group_pattern=pattern))


def test_a_broken_image_is_named_when_it_is_read(pictures):
    (pictures / "ill" / "patient1_broken.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"broken\.png cannot be read as an image"):
        folder(pictures, lazy=True)  # each is read once, for by its pixels it is assigned to a part
    grouped = folder(pictures, lazy=True, group_pattern=r"(patient\d+)_")
    with pytest.raises(DataError, match=r"broken\.png cannot be read as an image"):
        _ = [part.inputs for part in (grouped.train, grouped.holdout, grouped.test)]


def test_threads_decode_at_once_and_keep_the_order():
    met = threading.Barrier(3, timeout=10)  # passed only by three at a time

    def decode(path: Path) -> np.ndarray:
        if path.name != "first":
            met.wait()
        return np.full((2, 2, 1), 0.0 if path.name == "first" else int(path.name) / 10, np.float32)

    rows = Images([Path("first"), *(Path(str(number)) for number in range(1, 10))], decode, 3)
    found = rows.read(torch.tensor([4, 9, 1, 7, 3, 2]))
    assert (found[:, 0, 0, 0] * 10).round().tolist() == [4, 9, 1, 7, 3, 2]


def test_workers_must_be_some(pictures):
    with pytest.raises(ConfigError, match=r"data\.workers=0 must be at least 1"):
        folder(pictures, workers=0)


# --------------------------------------------------------------------------- more than memory holds

LIMITED = """
import resource, sys
from functools import partial
import torch
from torch import nn
from dptrain.contracts import Budget, Context, Streams
from dptrain.data.npz import Npz
from dptrain.evaluation.games.reconstruction.game import plant
from dptrain.privacy.plan import Rates
from dptrain.tracking import NullRun
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.training.settings import Settings

torch.set_num_threads(1)
count = int(sys.argv[2])
streams = Streams(seed=1)
model = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64 * 3, 2))
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + (400 << 20), used + (400 << 20)))

def load(lazy):
    source = Npz(path=sys.argv[1], classes=["a", "b"], mean=[0.5] * 3, std=[0.5] * 3, lazy=lazy)
    return source.load(torch.Generator().manual_seed(0))

splits, planting = plant(
    load(lazy=True), slots=4, candidates=5, key=b"a"
)
settings = Settings(
    rates=Rates(expected_batch_size=64, steps=6),
    optimizer=partial(torch.optim.SGD, lr=0.1),
    physical_batch_size=32,
    schedule="constant",
    warmup_steps=0,
    average_decay=0.0,
    evaluations=1,
    checkpoint_seconds=1e9,
    diagnostics=False,
    prefetch=2,
)
context = Context(streams=streams, tracker=NullRun(), device=torch.device("cpu"), planted=planting.positions)
few = splits.holdout.take(torch.arange(200))
from dataclasses import replace
_, guarantee = DPSGD(settings=settings).fit(
    model, replace(splits, holdout=few), Budget(epsilon=None, noise_multiplier=1.0, delta=1e-6), context
)
assert guarantee.plan.units == len(splits.train) > 0.6 * count
try:
    load(lazy=False)
except MemoryError:
    print("trained")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts what is mapped elsewhere")
def test_more_data_than_memory_trains_where_it_is_mapped(tmp_path):
    """1.2 GB of images (a file with holes) under a limit of 400 MB of memory of the process's own."""
    count = 100_000
    (tmp_path / "large").mkdir()
    images = np.lib.format.open_memmap(
        tmp_path / "large" / "train_images.npy", mode="w+", dtype=np.uint8, shape=(count, 64, 64, 3)
    )
    images[:, 0, 0] = np.arange(count)[:, None] // np.array([1, 256, 65_536]) % 256  # no two alike
    np.save(tmp_path / "large" / "train_labels.npy", np.arange(count) % 2)

    command = [sys.executable, "-c", LIMITED, str(tmp_path / "large"), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "trained", done.stderr


def test_an_npz_file_that_was_cut_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.npz"
    np.savez(path, **arrays())
    whole = path.read_bytes()
    for content in (
        whole[:200] + whole[-700:],
        whole[:26] + b"\xff" * 4 + whole[30:],
        whole[:-400] + b"PK\x01\x02" + bytes(374) + whole[-22:],
    ):
        path.write_bytes(content)
        for lazy in (True, False):
            with pytest.raises(DataError, match=r"cut\.npz"):
                load(path, lazy=lazy)


def test_groups_of_a_part_that_is_not_there_are_refused(tmp_path: Path) -> None:
    for part in ("val", "test"):
        np.savez(tmp_path / "a.npz", **arrays(), **{f"{part}_groups": np.arange(3)})
        with pytest.raises(DataError, match=f"holds {part}_groups but no {part}_images: save the records"):
            load(tmp_path / "a.npz")
