"""A checkpoint is whole or not there, private to its owner, and gone when it is no longer needed."""

import errno
import os
import resource

import pytest
import torch

from dptrain import storage
from dptrain.contracts import DptrainError
from dptrain.storage import Unwritable
from dptrain.training import checkpoint


def state(**held):
    """The state of a training, whole and of no weights."""
    empty = {
        "plan": {}, "step": 0, "lost": 0, "blocks": {}, "history": [], "model": {}, "schedule": {},
        "sampler": {}, "masks": {}, "observers": [], "optimizer": {}, "average": None, "noise": None,
        "audit": None,
    }  # fmt: skip
    return empty | held


def mode(path):
    return oct(path.stat().st_mode & 0o777)


def test_what_is_saved_is_loaded(folder):
    generator = torch.Generator().manual_seed(3)
    noise = {"state": generator.get_state()}
    checkpoint.save(state(step=4, history=[(1, 0.5, 0.25)], noise=noise), folder)
    loaded = checkpoint.load(folder)
    assert (loaded["step"], loaded["history"]) == (4, [(1, 0.5, 0.25)])
    assert torch.equal(loaded["noise"]["state"], generator.get_state())


def test_a_folder_without_checkpoint_has_none(folder):
    assert checkpoint.load(folder) is None
    assert checkpoint.paid(folder) == 0


def test_only_the_owner_may_read_it(folder):
    before = os.umask(0)
    try:
        for _ in range(2):  # anew, and over an old one
            checkpoint.save(state(step=1), folder)
            checkpoint.pay(folder, steps=1, epsilon=0.5)
            assert mode(folder / checkpoint.CHECKPOINT) == "0o600"
    finally:
        os.umask(before)


def test_removal_leaves_no_secret_behind_not_even_a_half_written_one(folder):
    checkpoint.save(state(step=1), folder)
    checkpoint.pay(folder, steps=1, epsilon=0.5)
    (folder / f".{checkpoint.CHECKPOINT}.a1b2c3").write_bytes(b"killed while writing")
    checkpoint.remove(folder)
    checkpoint.remove(folder)
    assert [path.name for path in folder.iterdir()] == [checkpoint.LEDGER]


def test_the_ledger_says_what_is_paid(folder):
    checkpoint.pay(folder, steps=3, epsilon=0.5)
    checkpoint.pay(folder, steps=4, epsilon=float("inf"))
    assert checkpoint.paid(folder) == 4


def _no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failing", ["fsync", "open"])
def test_a_full_disk_leaves_the_old_checkpoint_and_names_the_cure(folder, monkeypatch, failing):
    checkpoint.save(state(step=1), folder)
    monkeypatch.setattr(storage.os, failing, _no_space)
    with pytest.raises(Unwritable, match=r"No space left on device"):
        checkpoint.save(state(step=2), folder)
    monkeypatch.undo()
    assert checkpoint.load(folder)["step"] == 1
    assert [path.name for path in folder.iterdir()] == [checkpoint.CHECKPOINT]


def test_a_write_that_breaks_off_half_way_leaves_the_old_checkpoint(folder):
    checkpoint.save(state(step=1), folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(Unwritable, match=r"File too large"):
            checkpoint.save(state(step=2, model={"weights": torch.zeros(100_000)}), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.load(folder)["step"] == 1
    assert [path.name for path in folder.iterdir()] == [checkpoint.CHECKPOINT]


def test_a_full_disk_leaves_the_old_ledger(folder, monkeypatch):
    checkpoint.pay(folder, steps=1, epsilon=0.5)
    monkeypatch.setattr(storage.os, "open", _no_space)
    with pytest.raises(Unwritable, match=r"ledger\.json"):
        checkpoint.pay(folder, steps=2, epsilon=0.6)
    monkeypatch.undo()
    assert checkpoint.paid(folder) == 1


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_spoilt_checkpoint_is_one_clear_error(folder, content):
    (folder / checkpoint.CHECKPOINT).write_bytes(content)
    with pytest.raises(DptrainError, match=r"checkpoint\.pt cannot be read .* start the run anew"):
        checkpoint.load(folder)


def test_a_checkpoint_runs_no_code(folder):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(folder / "sprung"),))

    torch.save({"step": Trap()}, folder / checkpoint.CHECKPOINT)
    with pytest.raises(DptrainError, match="cannot be read"):
        checkpoint.load(folder)
    assert not (folder / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "it holds no plan"),
        ([1], "it holds a list"),
        ({k: v for k, v in state().items() if k != "sampler"}, "it holds no sampler"),
        (state(step="4"), "its step is a str"),
        ({"terms": {}}, "it holds no made"),
    ],
    ids=str,
)
def test_a_checkpoint_that_is_not_whole_is_one_clear_error(folder, content, said):
    torch.save(content, folder / checkpoint.CHECKPOINT)
    with pytest.raises(DptrainError, match=rf"checkpoint\.pt cannot be read \({said}\); start the run anew"):
        checkpoint.load(folder)


@pytest.mark.parametrize("kept", [state(step=3, lost=1), {"terms": {}, "made": {}}], ids=["steps", "once"])
def test_a_ledger_that_says_less_than_the_checkpoint_is_refused(folder, kept):
    checkpoint.save(kept, folder)
    for ledger in (None, '{"steps": 0}', '{"steps": -5}'):
        if ledger is not None:
            (folder / checkpoint.LEDGER).write_text(ledger)
        with pytest.raises(DptrainError, match=r"ledger\.json cannot be read \(.*; start the run anew"):
            checkpoint.paid(folder)
    checkpoint.pay(folder, steps=4, epsilon=0.5)
    assert checkpoint.paid(folder) == 4


@pytest.mark.parametrize(
    "content",
    ["", "{", "{}", "[]", '{"steps": null}', '{"steps": -5}', '{"steps": 1e400}', '{"steps": true}'],
)
def test_a_spoilt_ledger_is_one_clear_error(folder, content):
    (folder / checkpoint.LEDGER).write_text(content)
    with pytest.raises(DptrainError, match=r"ledger\.json cannot be read"):
        checkpoint.paid(folder)
