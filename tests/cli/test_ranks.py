"""Launchers of ranks start one run, as many processes as they are: torchrun, srun, submitit, Ray Train."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import command, finish

import dptrain
from dptrain.contracts import ConfigError
from dptrain.training import checkpoint

pytestmark = pytest.mark.e2e

WORDS = (
    "deterministic=true", "tracking=none", "attack=[]", "control.enabled=false", "training.steps=12",
    "performance.physical_batch_size=64", "performance.threads=1", "performance.estimate=false",
)  # fmt: skip
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2")
PROGRAM = """
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

def each_rank():
    import dptrain
    with dptrain.ranks(threads=1) as first:
        if first:
            dptrain.run("quickstart", *{words}, output="{folder}/runs")

TorchTrainer(
    each_rank,
    scaling_config=ScalingConfig(num_workers=2),
    run_config=RunConfig(storage_path="{folder}/ray"),
).fit()
"""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of two processes that a run starts by itself."""
    folder = tmp_path_factory.mktemp("expected")
    code, out, err = finish(command(*WORDS, "performance.processes=2", "output=runs", cwd=folder))
    assert (code, err) == (0, ""), out
    return weights(folder / "runs")


def weights(output: Path) -> bytes:
    (path,) = output.rglob("weights.pt")
    return path.read_bytes()


def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def started(words: tuple[str, ...], folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_torchrun_divides_a_model(expected: bytes, tmp_path: Path) -> None:
    words = (*WORDS, "performance.sharding=fsdp2", "output=runs")
    code, _, err = finish(started((*TORCHRUN, "-m", "dptrain", *words), tmp_path))
    assert code == 0, err
    assert weights(tmp_path / "runs") == expected


def test_one_process_divides_nothing(tmp_path: Path) -> None:
    code, _, err = finish(command(*WORDS, "performance.sharding=fsdp2", "output=runs", cwd=tmp_path))
    assert code == 2
    assert "performance.sharding=fsdp2 divides a model among processes, and there is one" in err


def test_srun_starts_one_run(expected: bytes, tmp_path: Path) -> None:
    slurm = {
        "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "MASTER_PORT": port(),
        "SLURM_STEP_NODELIST": platform.node(), "MASTER_ADDR": "127.0.0.1",
    }  # fmt: skip
    words = (sys.executable, "-m", "dptrain", *WORDS, "output=runs")
    tasks = [
        started(words, tmp_path, **slurm, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)) for rank in (0, 1)
    ]
    (first, out, _), (second, silent, err) = map(finish, tasks)
    assert (first, second, silent, err) == (0, 0, "", "")
    assert "report   " in out
    assert weights(tmp_path / "runs") == expected


def test_a_job_of_submitit_starts_its_processes(expected: bytes, tmp_path: Path) -> None:
    words = ("hydra/launcher=submitit_local", "seed=0", "performance.processes=2", "output=runs", "-m")
    code, _, err = finish(command(*WORDS, *words, cwd=tmp_path))
    assert code == 0, err
    assert weights(tmp_path / "runs") == expected


def test_ray_train_starts_one_run(expected: bytes, tmp_path: Path) -> None:
    pytest.importorskip("ray.train")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(words=repr(WORDS), folder=tmp_path))
    code, _, err = finish(started((sys.executable, str(program)), tmp_path))
    assert code == 0, err[-2000:]
    assert weights(tmp_path / "runs") == expected


@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_starts_one_run_and_a_killed_rank_of_it_again_and_nothing_is_spent_twice(
    expected: bytes, tmp_path: Path, rank: int
) -> None:
    launched = started((*TORCHRUN, "-m", "dptrain", *WORDS, "output=runs"), tmp_path)
    folder = wait_for(tmp_path, 4, launched)
    os.kill(process_of(launched.pid, rank), signal.SIGKILL)
    code, out, err = finish(launched)
    assert code == 0, err[-2000:]
    assert "started again  by torchrun" in out.replace("\n", " ")
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 1
    assert checkpoint.paid(folder) == 12
    assert weights(tmp_path / "runs") == expected
    assert out.count("report   ") == 1
    said = json.loads((folder / "report.json").read_text())["guarantee"]["outside_guarantee"][-1]
    assert "2 processes computed the training" in said


def wait_for(tmp_path: Path, steps: int, process: subprocess.Popen[str]) -> Path:
    """The folder of the run, once so many steps are paid for."""
    ends = time.monotonic() + 200
    while time.monotonic() < ends and process.poll() is None:
        for ledger in tmp_path.glob("runs/*/ledger.json"):
            if checkpoint.paid(ledger.parent) >= steps:
                return ledger.parent
        time.sleep(0.01)
    raise AssertionError(process.communicate())


def process_of(agent: int, rank: int) -> int:
    """The process that an agent of torchrun started for this rank."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    environments = {int(each): Path(f"/proc/{each}/environ").read_text().split("\0") for each in children}
    (found,) = (each for each, environment in environments.items() if f"RANK={rank}" in environment)
    return found


@pytest.fixture
def two_machines() -> Any:
    """Two network namespaces with a cable between them, as two machines are to each other."""
    names = [f"dptrain{os.getpid()}{which}" for which in "ab"]
    cable = [f"dp{os.getpid() % 100000}{which}" for which in "ab"]
    commands = [
        *(f"ip netns add {name}" for name in names),
        f"ip link add {cable[0]} type veth peer name {cable[1]}",
        *(f"ip link set {wire} netns {name}" for wire, name in zip(cable, names, strict=True)),
        *(
            f"ip netns exec {name} {words}"
            for place, (wire, name) in enumerate(zip(cable, names, strict=True), 1)
            for words in (
                f"ip addr add 10.77.0.{place}/24 dev {wire}",
                f"ip link set {wire} up",
                "ip link set lo up",
            )
        ),
    ]
    try:
        for words in commands:
            try:
                subprocess.run(words.split(), check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                pytest.skip("network namespaces need Linux, iproute2 and root")
        yield names, cable
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_a_cut_network_ends_both_machines_and_the_run_is_resumed(
    expected: bytes, tmp_path: Path, two_machines: Any
) -> None:
    names, cable = two_machines
    words = (*WORDS, "output=runs", "performance.rank_seconds=8", "performance.private_network=true")
    tasks = []
    for rank, (name, wire) in enumerate(zip(names, cable, strict=True)):
        environment = {
            "WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29511",
            "GLOO_SOCKET_IFNAME": wire,
        }  # fmt: skip
        inside = ("ip", "netns", "exec", name, sys.executable, "-m", "dptrain", *words)
        tasks.append(started(inside, tmp_path, **environment))
    folder = wait_for(tmp_path, 4, tasks[0])
    subprocess.run(["ip", "netns", "exec", names[0], "ip", "link", "set", cable[0], "down"], check=True)
    (first, _, said), (second, _, also) = map(finish, tasks)
    assert (first, second) == (2, 1)
    assert "cannot be reached" in said.replace("\n", " ")
    assert "the first rank is gone, or cannot be reached" in also
    assert "Traceback" not in said + also
    assert 4 <= checkpoint.paid(folder) < 12
    code, _, err = finish(command(f"resume={folder}", cwd=tmp_path))
    assert code == 0, err
    assert checkpoint.paid(folder) == 12
    assert weights(tmp_path / "runs") == expected


def test_a_program_under_a_launcher_says_that_it_is_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"dptrain\.ranks"):
        dptrain.run("quickstart", *WORDS)


def test_processes_that_a_launcher_started_are_not_asked_for_again(tmp_path: Path) -> None:
    words = (*TORCHRUN[:-2], "-m", "dptrain", *WORDS, "performance.processes=3")
    code, _, err = finish(started(words, tmp_path))
    assert code == 1  # torchrun's
    assert "a launcher started 2 processes for this run" in err.replace("\n", " ")
