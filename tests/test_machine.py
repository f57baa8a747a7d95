"""What a run asks of the machine."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from dptrain import machine

# Page faults of ten steps of training.
STEPS = """
import resource, sys, torch
from dptrain import machine
from dptrain.models.cnn import SmallCNN
print(machine.keep_freed_memory() if sys.argv[1] == "keep" else None)
torch.set_num_threads(1)
model, images = SmallCNN((1, 28, 28), 2), torch.zeros(256, 1, 28, 28)
def step():
    model(images).sum().backward()
    model.zero_grad()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
GLIBC = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="another C library")


def faults(word: str) -> tuple[str, int]:
    # Whoever runs the tests may have told the allocator something.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "GLIBC_TUNABLES" and not name.startswith("MALLOC_")
    }
    command = [sys.executable, "-c", STEPS, word]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    said, counted = done.stdout.split()
    return said, int(counted)


@GLIBC
def test_memory_of_a_step_is_there_for_the_next() -> None:
    said, kept = faults("keep")
    assert said == "True"
    assert kept < 10 * 500


@GLIBC
def test_without_it_every_step_asks_for_its_pages_anew() -> None:
    _, given_back = faults("leave")
    assert given_back > 10 * 2000


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_environment_says_of_the_allocator_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not machine.keep_freed_memory()


def test_threads_are_taken_as_asked() -> None:
    before = torch.get_num_threads()
    try:
        machine.settle(1)
        assert torch.get_num_threads() == 1
        machine.settle(None)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
