"""What several tests need: a run composed here or started in another process, and what Opacus says."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from opacus.accountants.analysis import rdp
from programs import Program

from dptrain.cli.files import folder
from dptrain.cli.hydra import register
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.runs.folder import Order

# From the report of a run, by its number, to the words of all that are asked for.
Started = Callable[[Callable[[int], dict[str, Any]]], list[tuple[str, ...]]]

# Enough of everything to pass through every stage, and no more.
QUICK = (
    "training.steps=3",
    "performance.estimate=false",  # which takes longer than such a run
    "performance.physical_batch_size=64",  # as many units are looked at by the sensitivity audit
    "training.evaluations=1",
    "evidence.slots=3",
    "evidence.candidates=3",
    "evidence.permutations=100",
)
QUICK_ATTACKS = (
    "attack.class_inversion.steps=3",
    "attack.class_inversion.restarts=4",
    "attack.reconstruction_weights.reference_steps=3",
    "attack.audit_losses.reference_steps=3",
    "attack.membership_rmia.shadows=2",
    "game.class_inversion.evaluator_steps=10",
)


registered = cache(register)  # once, for Hydra keeps it


def order(*overrides: str, recipe: str = "quickstart", config_dir: Path | None = None) -> Order:
    """What `python -m dptrain recipe=... overrides` asks for."""
    registered()
    extra = [f"hydra.searchpath=[file://{config_dir}]"] if config_dir else []
    with initialize_config_dir(str(folder("conf")), version_base="1.3"):
        config = compose("config", overrides=[*extra, f"recipe={recipe}", *overrides])
    values: Any = OmegaConf.to_container(config, resolve=True)
    return Order(recipe=recipe, overrides=overrides, config=values)


def command(
    *overrides: str, cwd: Path, env: Mapping[str, str] | None = None, start_new_session: bool = False
) -> Program:
    """`python -m dptrain overrides`, started in this folder, by a process that has imported it already."""
    return Program(
        overrides, cwd=cwd, env=os.environ if env is None else env, start_new_session=start_new_session
    )


def interpreter(*overrides: str, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """`python -m dptrain overrides`, started in this folder by a new interpreter, its output as text."""
    return subprocess.Popen(
        [sys.executable, "-m", "dptrain", *overrides],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs deaf to Ctrl-C, and their children with them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def finish(process: subprocess.Popen[str] | Program, seconds: float = 240) -> tuple[int, str, str]:
    """Exit code, output and errors of a process."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode is not None
    return process.returncode, out, err


def script(name: str) -> ModuleType:
    """A file of scripts/ as a module."""
    path = Path(__file__).parents[1] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def by_opacus(plans: Iterable[DPSGDPlan], order: float, delta: float = 1e-5) -> float:
    """Epsilon of these plans by the sum of Opacus' divergences of one order; orders like 3.4 roughly."""
    total = sum(
        rdp.compute_rdp(
            q=plan.sample_rate, noise_multiplier=plan.noise_multiplier, steps=plan.steps, orders=[order]
        )[0]
        for plan in plans
    )
    return float(rdp.get_privacy_spent(orders=[order], rdp=[total], delta=delta)[0])
