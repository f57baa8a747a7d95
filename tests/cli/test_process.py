"""What a run asks of the machine."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import command, finish

from dptrain.cli import launched, process
from dptrain.cli import main as cli
from dptrain.contracts import ConfigError
from dptrain.training.ranks import launched as place_of

pytestmark = pytest.mark.e2e

# Page faults of ten steps of training.
STEPS = """
import resource, sys, torch
from dptrain.cli import process
from dptrain.models.cnn import SmallCNN
print(process.keep_freed_memory() if sys.argv[1] == "keep" else None)
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
    assert not process.keep_freed_memory()


def test_threads_are_taken_as_asked() -> None:
    before = torch.get_num_threads()
    try:
        process.settle(1)
        assert torch.get_num_threads() == 1
        process.settle(None)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------ launchers of ranks

RANKS = [
    {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
    {"WORLD_SIZE": "8"},
    {"RANK": "1"},
    {"LOCAL_RANK": "1"},
    {"OMPI_COMM_WORLD_SIZE": "4"},
    {"PMI_SIZE": "2"},
    {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"},
]
ONE_RUN = [
    {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
    {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
]
ALONE = [
    {},
    {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},  # torchrun with one process
    {"WORLD_SIZE": "", "RANK": "captain"},
    # a task of submitit's: one process of a job step; and a batch script, which runs once
    {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
    {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_CPUS_PER_TASK": "2"},
    {"SLURM_ARRAY_TASK_COUNT": "9", "SLURM_ARRAY_TASK_ID": "3"},
]


@pytest.mark.parametrize("environment", RANKS, ids=str)
def test_one_of_several_ranks_is_refused_with_the_cure(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="start") as caught:
        launched.refuse_ranks(environment)
    assert "claims the whole budget" in str(caught.value)
    assert any(f"{name}={value}" in str(caught.value) for name, value in environment.items())


@pytest.mark.parametrize("environment", [*ALONE, *ONE_RUN], ids=str)
def test_a_process_that_is_alone_or_knows_its_place_is_not(environment: dict[str, str]) -> None:
    launched.refuse_ranks(environment)


@pytest.mark.parametrize("words", [(), ("-m", "seed=1,2"), ("task=audit", "release=latest")], ids=str)
def test_nothing_begins_under_a_launcher_of_ranks(tmp_path: Path, words: tuple[str, ...]) -> None:
    started = command(*words, cwd=tmp_path, env={**os.environ, "WORLD_SIZE": "2"})
    code, _, err = finish(started)
    assert code == cli.FAILED
    assert err.startswith("error  WORLD_SIZE=2: torchrun started dptrain 2 times for one run")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("jobs", "processes", "threads"), [(1, 2, 4), (2, 2, 2), (-1, 1, None), (4, 2, 1), (-5, 2, 1)]
)
def test_cores_are_divided_among_jobs_and_their_processes(
    jobs: int, processes: int, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert process.threads_each({"n_jobs": jobs}, processes) == threads


@pytest.mark.parametrize("jobs", [-1, 5, 8])
def test_more_processes_than_cores_are_refused(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    with pytest.raises(ConfigError, match=rf"n_jobs={jobs} and performance\.processes=2: \d+ processes"):
        process.threads_each({"n_jobs": jobs}, 2)


def test_a_sweep_begins_no_more_processes_than_there_are_cores(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = (
        "-m",
        "seed=1,2",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=999",
        "performance.processes=2",
    )
    code, _, err = finish(command(*words, cwd=tmp_path))
    assert code == cli.FAILED
    assert "1998 processes at once" in err.replace("\n", " ")
    assert not list(tmp_path.glob("runs/*/*/run.json"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"SLURM_PROCID": "abc"}, r"SLURM_PROCID=abc is no whole number of 0 or more; unset it"),
        ({"SLURM_PROCID": "-1"}, r"SLURM_PROCID=-1 is no whole number"),
        ({"SLURM_PROCID": "2"}, r"SLURM_PROCID=2 is beyond SLURM_STEP_NUM_TASKS=2"),
        ({"SLURM_STEP_NUM_TASKS": "many"}, r"SLURM_STEP_NUM_TASKS=many is no whole number of 1 or more"),
        ({"SLURM_JOB_ID": "x"}, r"SLURM_JOB_ID=x is no whole number"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, r"RANK=x is no whole number"),
    ],
)
def test_a_place_that_is_no_number_is_refused(changed: dict[str, str], said: str) -> None:
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "MASTER_ADDR": "a"}
    with pytest.raises(ConfigError, match=said):
        place_of(step | changed, seconds=1)
