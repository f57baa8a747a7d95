"""Kinds of devices: one file knows them by their names, and what it says of them is what PyTorch says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import dptrain
from dptrain.contracts import devices

ROOT = Path(dptrain.__file__).parent
NAMES = re.compile(r"cuda|[\"']mps[\"']|backends\.mps", re.IGNORECASE)
MAY_NAME = {
    "contracts/devices.py",  # which asks
    "config/schema.py",  # where `device` lists what it may be
}


def test_one_file_asks_what_kind_a_device_is() -> None:
    named = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if "_assets" not in path.parts and NAMES.search(path.read_text())
    }
    assert named == MAY_NAME
    (line,) = (line for line in (ROOT / "config/schema.py").read_text().splitlines() if NAMES.search(line))
    assert line.strip() == 'device: Literal["auto", "cpu", "cuda", "mps"] = "auto"'


@pytest.mark.parametrize(
    ("cuda", "mps", "fastest"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_fastest_device_there_is(
    cuda: bool, mps: bool, fastest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert devices.named("auto") == torch.device(fastest)
    assert devices.named("cpu") == torch.device("cpu")
    assert next(kind for kind in ("cuda", "mps", "cpu") if devices.available(kind)) == fastest


@pytest.mark.parametrize(("cuda", "nccl"), [(True, True), (True, False), (False, True)])
def test_gpus_exchange_tensors_by_nccl_where_it_is(
    cuda: bool, nccl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)
    assert devices.collectives() == ("cpu:gloo,cuda:nccl" if cuda and nccl else "gloo")


def test_generators_of_accelerators_are_kept_once_they_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for used, kept in ((False, []), (True, [0, 1])):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda used=used: used)
        assert list(devices.with_generators()) == kept


def test_a_devices_own_memory_is_what_pytorch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7 + device.index)
    assert devices.most_allocated(torch.device("cuda", 1)) == 8
    assert devices.most_allocated(torch.device("mps")) is None  # which does not tell
    assert [kind for kind in ("cpu", "cuda", "mps") if devices.lacks_double(torch.device(kind))] == ["mps"]
