"""Tables of accuracy are made from runs: those that are there, and those that are made."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import support

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def accuracy(measured: ModuleType) -> ModuleType:  # noqa: ARG001 - the script imports it by name
    return support.script("bench_accuracy")


@pytest.fixture(scope="module")
def ablation(measured: ModuleType) -> ModuleType:  # noqa: ARG001
    return support.script("ablation")


def keep_run(folder: Path, words: tuple[str, ...], *, accuracy: float, auroc: float = 0.5, name: str) -> None:
    """A run as the pipeline leaves it, as far as tables read it."""
    made = folder / name
    made.mkdir(parents=True)
    (made / "run.json").write_text(json.dumps({"overrides": [*words, "output=elsewhere"]}))
    report = {
        "utility": {"accuracy": accuracy, "auroc": auroc},
        "holdout_by_step": [[1, 0.1, 2.0], [2, accuracy - 0.01, 1.0]],
        "guarantee": {"epsilon": 2.9999, "delta": 1e-5, "noise_multiplier": 3.0},
        "seconds": {"train": 90.0},
    }
    (made / "report.json").write_text(json.dumps(report))


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch, measured: ModuleType) -> list[tuple[str, ...]]:
    """Runs that take no time; what was asked of them."""
    started: list[tuple[str, ...]] = []

    def start(words: tuple[str, ...], folder: Path) -> None:
        started.append(words)
        keep_run(folder, words, accuracy=0.9 + 0.01 * len(started), auroc=0.95, name=f"run{len(started)}")

    monkeypatch.setattr(measured, "start", start)
    return started


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("mnist", "pneumoniamnist"):
        np.savez(tmp_path / f"{name}.npz", nothing=np.zeros(1))
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path))
    return tmp_path


def test_the_table_is_the_median_of_runs_that_are_made_once(accuracy, invented, data, capsys) -> None:
    words = ["--output", str(data / "runs"), "--fashion", str(data), "--json"]
    assert accuracy.main(words) == 0
    shown = capsys.readouterr()
    assert len(invented) == 21  # seven rows of three seeds; CIFAR-10 and Fashion-MNIST are not there
    assert "| MNIST, `mnist_scatter` | 3.00 | 92.00 [91.00, 93.00] % |" in shown.out
    assert "AUROC 0.950 [0.950, 0.950]" in shown.out
    assert "left out: cifar10_scatter@3, for there are no cifar10.npz in DPTRAIN_DATA" in shown.err
    assert "left out: fashion_scatter@2.7" in shown.err
    found = json.loads(shown.out.splitlines()[-1])
    assert found["mnist_scatter@3"] == {"accuracy": 0.92, "runs": 3}
    for asked in invented:
        assert {"attack=[]", "control.enabled=false", "tracking=none"} <= set(asked)
    assert accuracy.main(words) == 0
    assert len(invented) == 21


def test_rows_are_chosen_by_recipe_or_with_epsilon(accuracy, invented, data) -> None:
    options = ["--output", str(data / "runs"), "--seeds", "1"]
    assert accuracy.main([*options, "--rows", "medical_scatter@1"]) == 0
    assert [words[:2] for words in invented] == [("recipe=medical_scatter", "privacy.epsilon=1")]
    assert accuracy.main([*options, "--rows", "medical_scatter"]) == 0
    assert len(invented) == 2
    assert accuracy.main([*options, "--rows", "cifar10_scatter"]) == 2
    assert accuracy.main([*options, "--recipes", "cifar10_wrn"]) == 2


def test_what_takes_a_gpu_is_run_on_one_where_it_is_asked_for(accuracy, invented, data, capsys) -> None:
    np.savez(data / "cifar10.npz", nothing=np.zeros(1))
    options = ["--output", str(data / "runs"), "--fashion", str(data), "--seeds", "1"]
    assert accuracy.main(options) == 0
    assert not any("recipe=cifar10_wrn" in words for words in invented)
    assert "left out: cifar10_wrn@2, which takes a GPU; --rows cifar10_wrn" in capsys.readouterr().err
    assert accuracy.main([*options, "--recipes", "cifar10_wrn"]) == 0
    assert {"recipe=cifar10_wrn", "privacy.epsilon=2", "training.steps=1125", "device=cuda"} <= set(
        invented[-1]
    )


def test_the_table_is_written_between_its_markers(accuracy, measured, invented, data) -> None:  # noqa: ARG001
    page = data / "page.md"
    page.write_text(f"before\n{accuracy.BEGIN}\nold\n{accuracy.END}\nafter\n")
    options = [
        "--output",
        str(data / "runs"),
        "--seeds",
        "1",
        "--rows",
        "mnist_scatter",
        "--write",
        str(page),
    ]
    assert accuracy.main(options) == 0
    text = page.read_text()
    assert text.startswith("before\n<!--")
    assert text.endswith("<!-- /accuracy -->\nafter\n")
    assert "91.00" in text
    assert "old" not in text
    (data / "other.md").write_text("no markers")
    with pytest.raises(SystemExit, match="has no lines"):
        measured.write("table", data / "other.md", accuracy.BEGIN, accuracy.END)


def test_a_run_is_known_by_its_words_wherever_it_lies(measured, tmp_path) -> None:
    words = ("recipe=a", "seed=1", "data.root=/here")
    keep_run(tmp_path, words, accuracy=0.5, name="one")
    assert measured.find(("seed=1", "data.root=/there", "recipe=a"), tmp_path) == tmp_path / "one"
    assert measured.find(("recipe=a", "seed=2"), tmp_path) is None
    assert measured.find((*words, "model=b"), tmp_path) is None
    run = measured.read(tmp_path / "one")
    assert (run.accuracy, run.holdout, run.minutes, run.peak_gib) == (0.5, 0.49, 1.5, None)


def test_a_real_run_is_measured_with_its_memory(measured, tmp_path) -> None:
    words = ("recipe=quickstart", "training.steps=2", "training.evaluations=1")
    (run,) = measured.measure(words, 1, tmp_path)
    assert run.epsilon <= 3.0
    assert 0.1 < run.peak_gib < 4
    (again,) = measured.measure(words, 1, tmp_path)
    assert again == run


def test_the_ablation_changes_one_thing_at_a_time(ablation, invented, data, capsys) -> None:
    assert ablation.main(["--output", str(data / "runs"), "--seeds", "1"]) == 0
    assert len(invented) == len(ablation.CHANGES)
    plain = set(invented[0])
    for name, asked in list(zip(ablation.CHANGES, invented, strict=True))[1:]:
        assert set(ablation.CHANGES[name]) == set(asked) - plain
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| as it is")
    assert "| +1.00 |" in lines[3]


def test_every_change_is_a_valid_configuration(ablation) -> None:
    from dptrain.assembly.components import assemble
    from dptrain.config import parse

    for words in ablation.CHANGES.values():
        recipe, *others = ablation.merged(words)
        assemble(parse(support.order(*others, "tracking=none", recipe=recipe.partition("=")[2]).config))
