"""Every command of the README does what the README says."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow_pages import QUIET
from PIL import Image
from support import QUICK, command, finish, interpreter, order
from torchvision.models import resnet18

from dptrain.cli import main as cli
from dptrain.cli.explain import expanded
from dptrain.models.mlp import Mlp

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
SERVED = ("mlflow models serve", "curl")  # tests/tracking/test_elsewhere.py serves a model and asks it
ELSEWHERE = ("resume=latest", "private_selection", "submitit_slurm", "launcher=ray", "task=serve")
RUNS = [
    line
    for line in COMMANDS
    if line.split()[:3] == ["python", "-m", "dptrain"] and not any(word in line for word in ELSEWHERE)
]
REAL_DATA = {
    "pneumoniamnist": "pneumoniamnist.npz",
    "mnist_cnn": "mnist.npz",
    "credit_mlp": "adult.csv.gz",
    "adult_age": "adult.csv.gz",
    "medical_pretrained": "pneumoniamnist.npz",
    "medical_scatter": "pneumoniamnist.npz",
    "medical_statistics": "pneumoniamnist.npz",
}
FEW = ("medical_pretrained", "medical_scatter", "medical_statistics", "model=torchvision")


def test_no_command_is_left_untested() -> None:
    others = set(COMMANDS) - set(RUNS)
    assert others == {
        # tests/cli/test_ranks.py has torchrun, srun and the program for Ray Train
        "torchrun --nproc-per-node 2 --max-restarts 2 -m dptrain recipe=quickstart",
        "srun --ntasks 2 python -m dptrain recipe=quickstart",
        "scripts/run.sh",
        "scripts/test.sh",
        "scripts/check.sh",
        "mlflow ui",
        'python -m dptrain.cli.compare runs --limit "accuracy>=.85" --limit "membership.bound<=.1"',
        # tests/scripts/test_compare_script.py runs it
        "python scripts/bench_scale.py --figure scale.png",  # tests/scripts/test_bench_scale.py runs it
        "python scripts/bench_scale.py --processes --figure scale_processes.png",  # likewise
        "python scripts/check_sensitivity.py --json",  # tests/scripts/test_check_sensitivity.py runs it
        "python scripts/check_noise.py --json",  # tests/scripts/test_check_noise.py runs it
        "python scripts/bench_step.py --json",  # tests/scripts/test_bench_step.py runs it
        "python scripts/bench_accuracy.py --write README.md",  # tests/scripts/test_bench_accuracy.py runs it
        "python scripts/ablation.py --seeds 2 --write README.md",  # and this one
        # tests/scripts/test_bench_pretrained.py and test_bench_costs.py run these
        "python scripts/bench_pretrained.py --write README.md",
        "python scripts/bench_costs.py",
        "export DPTRAIN_KEY=$(python -m dptrain.cli.keys make --tenant ward_3)",  # as tests/serving does
        *(line for line in COMMANDS if any(word in line for word in (*ELSEWHERE, *SERVED))),
    }
    # tests/cli/test_cli.py kills runs and resumes them, tests/sweep/test_selecting.py selects in private,
    # tests/cli/test_launchers.py has Slurm's launcher (local mode) and, where it is installed, Ray's.


def test_files_that_are_named_are_there() -> None:
    named = re.findall(r"`([\w/]+(?:\.py|\.sh|/))`", README)
    assert len(named) > 20
    gone = [each for each in named if not any((top / each).exists() for top in (ROOT, ROOT / "dptrain"))]
    assert [each for each in gone if not each.startswith(("my_", "runs/", "selected/"))] == []


@pytest.fixture(scope="module")
def few_real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some of the real X-rays, for recipes that look at each through a large network."""
    folder, whole = tmp_path_factory.mktemp("few"), Path(os.environ["DPTRAIN_DATA"])
    with np.load(whole / "pneumoniamnist.npz") as arrays:
        np.savez(folder / "pneumoniamnist.npz", **{name: arrays[name][:600] for name in arrays.files})
    return folder


@pytest.mark.parametrize("line", RUNS, ids=str)
def test_a_run_works_as_written(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for word, file in REAL_DATA.items():
        folder = os.environ.get("DPTRAIN_DATA")
        if word in line and not (folder and (Path(folder) / file).exists()):
            pytest.skip(f"no {file} in the folder DPTRAIN_DATA")
    for kind, text in BLOCKS:
        name, _, body = text.partition("\n")
        if kind in ("yaml", "python") and name.startswith("# my_"):
            path = tmp_path / name.removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body)
    recorded = () if "tracking." in line else ("tracking=none",)
    smaller = (*QUICK, *recorded, "control.enabled=false")
    if "recipe=medical_cnn" in line and "data=" not in line:
        smaller += (
            "data.train=400",
            "data.holdout=200",
            "data.test=100",
            "training.expected_batch_size=50",
        )
    elif "recipe=quickstart" in line:
        smaller += ("training.expected_batch_size=50",)
    if any(word in line for word in FEW):
        monkeypatch.setenv("DPTRAIN_DATA", str(request.getfixturevalue("few_real")))
        smaller += ("training.expected_batch_size=50",)
    if "pretrained" in line or "model=torchvision" in line:
        smaller += ("model.size=32",)
        torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
    if "findings.npz" in line:
        write_findings(tmp_path / "findings.npz")
    if "attack=" not in line:
        shown = "reconstruction_transcript" if "statistics" not in line else "membership_loss"
        smaller += (f"attack=[{shown}]",)
    before, jobs = 0, 1
    if "release=latest" in line:
        run("python -m dptrain attack=[membership_loss]", *smaller, cwd=tmp_path)
        before, smaller = 1, ("tracking=none", "control.enabled=false")  # the rest is as it was trained
        jobs = 0 if "task=verify" in line else 1
    if "release.serve=true" in line:
        smaller += ("attack.class_inversion_queries.queries=200", "release.sessions=2")
    if "release=mine.pt" in line:
        write_a_model_and_its_records(tmp_path)
    if "loans" in line:
        write_loans(tmp_path / "loans.csv")
    if "data.root=scans" in line:
        write_scans(tmp_path / "scans")
    if "task=schema" in line or "task=plan" in line:
        jobs, smaller = 0, recorded
    if " -m recipe" in line:
        jobs = 3
    if "+sweep=epsilon" in line:
        jobs, smaller = 5, (*smaller, "seed=1")
    if "+sweep=search" in line:
        jobs = 8
    if "+sweep=mechanism" in line:  # all but PATE, which asks about public inputs
        few = ("seed=1", "privacy.epsilon=3", "attack=[membership_loss]", "model.components=40")
        jobs, smaller = 7, (*smaller, *few)
    if "+sweep=regularisation" in line:
        few = ("seed=1", "regulariser=[label_smoothing],[mix_up]", "attack=[membership_loss]")
        jobs, smaller = 2, (*smaller, *few)
    run(line, *smaller, cwd=tmp_path)
    assert len(list(tmp_path.glob("runs/**/report.json"))) == before + jobs


def run(line: str, *smaller: str, cwd: Path) -> None:
    """Carry out a command of the README, made smaller; sweeps, and what is one's own, by a process."""
    words = expanded(shlex.split(line)[3:])
    if any(word.startswith(("-", "+sweep", "task=schema", "model=own")) for word in words):
        # Launchers start processes by ways of their own, for which a new interpreter is needed.
        start = interpreter if any("launcher" in word for word in words) else command
        code, _, err = finish(start(*words, *smaller, cwd=cwd))
        assert code == 0, err
        return
    recipe = next(
        (word.removeprefix("recipe=") for word in words if word.startswith("recipe=")), "quickstart"
    )
    with contextlib.chdir(cwd):
        cli.main(
            order(*(word for word in words if not word.startswith("recipe=")), *smaller, recipe=recipe), None
        )


def write_a_model_and_its_records(folder: Path) -> None:
    """The user's own model, and files of what it was and what it was not trained on."""
    torch.save(Mlp(shape=(1, 8, 8), num_classes=2).state_dict(), folder / "mine.pt")
    rng = np.random.default_rng(0)
    for name in ("in", "out"):
        images = rng.integers(0, 256, (200, 8, 8), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=images, labels=rng.integers(0, 2, 200))


def write_loans(path: Path) -> None:
    """A bank's table as it comes: days as they are written there, empty cells, several rows a customer."""
    rng = np.random.default_rng(0)
    customers = rng.integers(0, 600, 1200)
    rows = ["customer;opened;income;housing;repaid"]
    for customer in customers:
        income = rng.integers(500, 9000)
        day = f"{rng.integers(1, 29):02d}.{rng.integers(1, 13):02d}.{rng.integers(2016, 2025)}"
        repaid = "yes" if income > 4000 else "no"
        told = "" if rng.random() < 0.1 else f"{income}.0"  # as a spreadsheet leaves it
        rows.append(f"K{customer:05d};{day};{told};{rng.choice(['rent', 'own', 'free'])};{repaid}")
    path.write_text("\n".join(rows))


def write_findings(path: Path) -> None:
    """Images of which each may show several findings."""
    rng = np.random.default_rng(0)
    found = rng.integers(0, 2, (900, 2), dtype=np.uint8)
    images = rng.integers(0, 100, (900, 8, 8)) + 70 * found[:, :1, None] + 50 * found[:, 1:, None]
    np.savez(path, train_images=images.astype(np.uint8), train_labels=found)


def write_scans(root: Path) -> None:
    """A hospital's folder: images of several sizes, and what systems leave between them."""
    rng = np.random.default_rng(0)
    for name, bright in (("healthy", 90), ("ill", 160)):
        for number in range(200):
            path = root / name / f"patient{bright}{number // 2:03d}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.normal(bright, 20, (rng.integers(30, 60), rng.integers(30, 60))).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        (root / name / "Thumbs.db").write_bytes(b"not an image")
        (root / name / ".ipynb_checkpoints").mkdir()
        shutil.copy(path, root / name / ".ipynb_checkpoints" / path.name)
    (root / "__MACOSX" / "ill").mkdir(parents=True)


@pytest.mark.parametrize("script", ["run.sh", "test.sh", "check.sh"])
def test_a_script_is_there_and_sound(script: str) -> None:
    path = ROOT / "scripts" / script
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_mlflow_ui_opens_on_a_folder_of_runs(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mlflow = shutil.which("mlflow", path=str(Path(sys.executable).parent))
    assert mlflow is not None
    with subprocess.Popen(
        [mlflow, "ui", "--port", str(port), "--workers", "1"],
        cwd=tmp_path,
        env={**os.environ, **QUIET},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as server:
        try:
            for _ in range(400):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as page:
                        assert b"MLflow" in page.read()
                        return
                except OSError:
                    time.sleep(0.5)
            raise AssertionError("mlflow ui did not answer within minutes")
        finally:
            os.killpg(server.pid, 15)
