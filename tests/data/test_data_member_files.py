"""Members and non-members in files: what shows nothing of a training is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dptrain.contracts import DataError, Splits
from dptrain.data.member_files import MemberFiles
from dptrain.evidence.held_out import count_copies

DRAWN = np.random.default_rng(0)
IMAGES = DRAWN.integers(0, 256, (60, 6, 6), dtype=np.uint8)
LABELS = np.arange(60) % 3


def loaded(folder: Path, others: dict[str, Any], members: slice = slice(30)) -> Splits:
    np.savez(folder / "in.npz", images=IMAGES[members], labels=LABELS[members])
    np.savez(folder / "out.npz", **others)
    source = MemberFiles(
        members=f"{folder}/in.npz",
        non_members=f"{folder}/out.npz",
        classes=["a", "b", "c"],
        mean=[0],
        std=[1],
    )
    return source.load(torch.Generator().manual_seed(0))


FORMS = {
    "bytes": lambda part: {"images": IMAGES[part], "labels": LABELS[part]},
    "doubles": lambda part: {"images": IMAGES[part] / 255.0, "labels": LABELS[part][:, None]},
    "floats": lambda part: {"images": (IMAGES[part] / 255).astype(np.float32), "labels": LABELS[part]},
    "halves": lambda part: {"images": (IMAGES[part] / 255).astype(np.float16), "labels": LABELS[part]},
    "channels": lambda part: {"images": IMAGES[part][..., None], "labels": (LABELS[part] + 1) % 3},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_records_in_any_form_are_refused_and_an_overlap_is_counted(
    tmp_path: Path, form: str
) -> None:
    with pytest.raises(DataError, match="holds 30 records, all of which are in"):
        loaded(tmp_path, FORMS[form](slice(30)))
    assert sum(count_copies(loaded(tmp_path, FORMS[form](slice(20, 50)))).values()) == 10
    assert sum(count_copies(loaded(tmp_path, FORMS[form](slice(30, 60)))).values()) == 0


def test_floats_that_are_no_bytes_stay_as_they_are(tmp_path: Path) -> None:
    drawn = DRAWN.random((30, 6, 6)).astype(np.float32)
    splits = loaded(tmp_path, {"images": drawn, "labels": LABELS[:30]})
    found = torch.cat([splits.holdout.inputs, splits.test.inputs]).flatten(1).sort(0).values
    assert torch.equal(found, torch.from_numpy(drawn).flatten(1).sort(0).values)


@pytest.mark.parametrize(
    ("members", "others", "said"),
    [
        (slice(30), slice(30, 35), "out.npz holds 5 records: give at least 8 others"),
        (slice(5), slice(30, 60), "in.npz holds 5 records: give at least 8 members"),
        (slice(30), slice(30, 60, 3), "out.npz holds records of one class alone, and .*in.npz of 3"),
        (slice(0, 30, 3), slice(30, 60), "in.npz holds records of one class alone, and .*out.npz of 3"),
    ],
)
def test_files_that_show_nothing_say_so(tmp_path: Path, members: slice, others: slice, said: str) -> None:
    with pytest.raises(DataError, match=said):
        loaded(tmp_path, FORMS["bytes"](others), members)


def test_what_is_the_same_for_all_is_told_of_each_task(tmp_path: Path) -> None:
    def load(inside: np.ndarray, outside: np.ndarray, **declared: Any) -> Splits:
        for name, part, labels in (("in", slice(30), inside), ("out", slice(30, 60), outside)):
            np.savez(tmp_path / f"{name}.npz", images=IMAGES[part], labels=labels)
        files = {"members": f"{tmp_path}/in.npz", "non_members": f"{tmp_path}/out.npz"}
        return MemberFiles(**files, mean=[0], std=[1], **declared).load(torch.Generator().manual_seed(0))

    one, several = np.tile([0, 1], (30, 1)), DRAWN.integers(0, 2, (30, 2))
    with pytest.raises(
        DataError, match=r"in.npz holds records of one set of labels alone, .* of \d: .* labels"
    ):
        load(one, several, task="multi_label", classes=["a", "b"])
    numbers = DRAWN.random(30)
    with pytest.raises(DataError, match="the 30 training records all have the same regression label"):
        load(np.full(30, 0.5), numbers, task="regression", target_bounds=[0, 1])
