"""What privacy costs where labels are several, or numbers: pairs of digits, and tables made from runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import support

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def tasks() -> ModuleType:
    support.script("measured")
    return support.script("bench_tasks")


def keep_run(folder: Path, words: tuple[str, ...], *, control: float | None) -> None:
    """A run as the pipeline leaves it, as far as tables read it."""
    made = folder / f"run{len(list(folder.iterdir()))}"
    made.mkdir()
    (made / "run.json").write_text(json.dumps({"overrides": [*words, "output=elsewhere"]}))
    line = {
        "attack": "audit_canaries", "metric": "certified_epsilon", "value": 0.1, "low": 0.1, "high": None,
        "floor": 0.0, "control": None, "bound": 3.0, "verdict": "resisted",
    }  # fmt: skip
    report = {
        "utility": {"accuracy": 0.71, "metric": "mean_auroc"},
        "control": None if control is None else {"accuracy": control},
        "leakage": [line],
    }
    (made / "report.json").write_text(json.dumps(report))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    digits = np.arange(200) % 10
    images = np.repeat(digits.astype(np.uint8), 4).reshape(200, 2, 2)
    parts = {f"{part}_{what}": of for part in ("train", "test") for what, of in
             (("images", images), ("labels", digits))}  # fmt: skip
    np.savez(tmp_path / "mnist.npz", **parts)
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path))
    return tmp_path


def test_a_pair_has_the_labels_of_both_digits_and_no_digit_twice(tasks: ModuleType, data: Path) -> None:
    made = data / "pairs.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "PAIRS", {"train": 80, "test": 40})
        tasks.pairs(data / "mnist.npz", made)
    with np.load(made) as found:
        assert found["train_images"].shape == (80, 2, 4)
        assert found["test_labels"].shape == (40, 10)
        for image, labels in zip(found["train_images"], found["train_labels"], strict=True):
            assert set(np.flatnonzero(labels)) == {image[0, 0], image[0, 3]}


@pytest.mark.parametrize(("control", "code"), [(0.72, 0), (0.8, 1)])
def test_it_ends_with_tables_whatever_lies_beside(
    tasks: ModuleType,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    control: float,
    code: int,
) -> None:
    monkeypatch.setattr(tasks, "PAIRS", {"train": 80, "test": 40})
    started: list[tuple[str, ...]] = []

    def start(words: tuple[str, ...], folder: Path) -> None:
        started.append(words)
        keep_run(folder, words, control=control)

    monkeypatch.setattr(tasks, "start", start)
    output = data / "runs"
    (output / "unfinished").mkdir(parents=True)
    (output / "unfinished" / "run.json").write_text(json.dumps({"overrides": ["recipe=quickstart"]}))
    (output / "cache").mkdir()
    keep_run(output, ("recipe=quickstart", "seed=0"), control=0.9)
    asked = ["--seeds", "1", "--override", "training.steps=2", "--output", str(output)]
    assert tasks.main(asked) == code
    told = capsys.readouterr().out
    assert "| multi_label | mean_auroc | 0.7100 [0.7100, 0.7100] |" in told
    assert "audit_canaries certified_epsilon | 0.100 [0.100, ∞] |" in told
    assert len(started) == 2
    assert all({"training.steps=2", "seed=0"} <= set(words) for words in started)
    assert tasks.main(asked) == code
    assert len(started) == 2, "runs that are there are taken as they are"


def test_a_run_without_a_control_model_is_named(tasks: ModuleType, tmp_path: Path) -> None:
    keep_run(tmp_path, ("data=adult_age", "seed=0"), control=None)
    with pytest.raises(SystemExit, match="run0 has no control model to compare with"):
        tasks.measure(("data=adult_age",), 0, tmp_path)
