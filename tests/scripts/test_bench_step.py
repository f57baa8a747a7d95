from __future__ import annotations

import json
from types import ModuleType

import pytest
import support
import torch

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return support.script("bench_step")


SECONDS = {"plain": 1.0, "opacus_hooks": 4.0, "opacus_ghost": 2.0, "dptrain": 1.25, "plain_compiled": 0.8}


class FakeWorker:
    """Answers at once: a mode's steps take its own seconds, of which the first pair is an outlier."""

    def __init__(self, _model, mode, _options) -> None:
        self.mode, self.steps = mode, 0

    def ready(self) -> float:
        if self.mode == "dptrain_compiled":
            raise RuntimeError("a process ended early")
        return 30.0

    def step(self) -> float:
        self.steps += 1
        return SECONDS[self.mode] * (100 if self.steps == 1 and self.mode != "plain" else 1)

    def finish(self) -> float:
        return 100 * SECONDS[self.mode]


def test_speeds_are_medians_of_pairs_and_memory_is_relative_to_plain(script, monkeypatch, capsys) -> None:
    monkeypatch.setattr(script, "Worker", FakeWorker)
    assert script.main(["--json", "--models", "mlp,linear", "--repeats", "3"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = {
        "opacus_hooks": 0.25,
        "opacus_ghost": 0.5,
        "dptrain": 0.8,
        "memory": {"opacus_hooks": 4.0, "opacus_ghost": 2.0, "dptrain": 1.25},
    }
    assert found == {"mlp": expected, "linear": expected}


def test_compiled_steps_are_compared_and_what_does_not_compile_is_left_out(
    script, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(script, "Worker", FakeWorker)
    assert script.main(["--json", "--models", "mlp", "--repeats", "3", "--compiled"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "mlp         plain_compiled        30.0 s for the first step" in shown
    assert any(line.startswith("mlp         dptrain_compiled   does not compile") for line in shown)
    found = json.loads(shown[-1])["mlp"]
    assert found["plain_compiled"] == 1.25
    assert "dptrain_compiled" not in found


def test_what_is_compiled_is_the_model_and_the_way_to_gradients(script, monkeypatch) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda call: compiled.append(call) or call)
    for mode in ("plain_compiled", "dptrain_compiled"):
        script.make_step(script.TASKS["mlp"], mode, torch.device("cpu"), torch.float32)()
    model, gradients = compiled
    assert type(model).__name__ == "Mlp"
    assert type(gradients.__self__).__name__ == "ByRules"


def test_a_process_takes_steps_and_tells_its_peak(script) -> None:
    worker = script.Worker("cnn", "dptrain", script.parse(["--threads", "1"]))
    assert worker.ready() > 0
    assert 0 < worker.step() < 60
    assert worker.finish() > 100  # MiB: PyTorch alone needs more


@pytest.mark.parametrize("mode", ["plain", "opacus_hooks", "opacus_ghost", "dptrain"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_mode_trains(script, model, mode, dtype) -> None:
    step = script.make_step(script.TASKS[model], mode, torch.device("cpu"), dtype)
    step()


def test_every_model_classifies_its_inputs(script) -> None:
    for task in script.TASKS.values():
        inputs = task.inputs()[:2]
        assert task.build()(inputs).shape == (2, task.classes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--models", "vgg"], "vgg is unknown"), (["--repeats", "0"], "must be at least 1")],
)
def test_options_are_checked(script, capsys, arguments, message) -> None:
    with pytest.raises(SystemExit):
        script.main(arguments)
    assert message in capsys.readouterr().err
