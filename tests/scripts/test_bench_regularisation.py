"""The table of defences: what stands beside what, at equal accuracy, and one model trained and attacked."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import support

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def defended() -> ModuleType:
    return support.script("defended")


@pytest.fixture(scope="module")
def script(measured: ModuleType, defended: ModuleType) -> ModuleType:  # noqa: ARG001 - imported by name
    return support.script("bench_regularisation")


def of(script: ModuleType, accuracy: float, value: float):
    each = dict.fromkeys(script.METRICS, value)
    return script.Measured(accuracy=accuracy, **each)


def test_a_defence_is_held_against_an_undefended_model_that_stopped_as_soon_as_it_was_as_accurate(
    script: ModuleType,
) -> None:
    lengths = [of(script, *each) for each in ((0.5, 0.1), (0.7, 0.3), (0.9, 0.5), (0.8, 0.9))]
    found = [script.matched(accuracy, lengths, "tpr") for accuracy in (0.5, 0.6, 0.8, 0.9, 0.95)]
    assert found == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])
    assert script.beside([of(script, 0.6, 0.5)], [[each] for each in lengths], "tpr") == [pytest.approx(0.3)]


def test_lines_say_bound_interval_and_difference(script: ModuleType) -> None:
    rows = [f"{script.NONE}, {share:g} of the steps" for share in script.LENGTHS[:-1]]
    found = {row: [of(script, 0.1 * n, 0.1 * n)] * 3 for n, row in enumerate(rows, 1)}
    found[script.NONE] = [of(script, 0.9, 0.9)] * 3
    found["dropout .5"] = [of(script, 0.2, value) for value in (0.1, 0.2, 0.3)]
    found["DP-SGD, epsilon 8"] = [of(script, 0.2, 0.0)] * 3
    *_, dropout, private = script.told("faces", found)
    assert dropout[:2] == ("faces, dropout .5", "no bound")
    assert dropout[3] == "0.20 [0.00, 0.45]; +0.00 [-0.25, +0.25]"
    assert private[:2] == ("faces, DP-SGD", "epsilon 8")
    assert private[3] == "0.00 (0.00 to 0.00); -0.20 (-0.20 to -0.20)"


def test_a_defence_less_accurate_than_every_undefended_model_is_held_against_none(script: ModuleType) -> None:
    lengths = [of(script, *each) for each in ((0.6, 0.3), (0.5, 0.1), (0.7, 0.3), (0.9, 0.5))]
    assert script.matched(0.49, lengths, "tpr") is None
    assert script.matched(0.5, lengths, "tpr") is not None
    rows = [f"{script.NONE}, {share:g} of the steps" for share in script.LENGTHS[:-1]]
    found = {row: [one] * 3 for row, one in zip((*rows, script.NONE), lengths, strict=True)}
    found["DP-SGD, epsilon 8"] = [of(script, accuracy, 0.0) for accuracy in (0.55, 0.55, 0.1)]
    *others, private = script.told("faces", found)
    assert set(private[3:]) == {"0.00 (0.00 to 0.00); no undefended model so inaccurate"}
    assert not any(";" in cell for line in others for cell in line)


def test_words_that_are_said_anew_replace_what_was_said(script: ModuleType) -> None:
    usual = ["model=mlp", "model.widths=[8]", "optimizer.lr=1"]
    assert script.later(usual, ["model=small_cnn"]) == ["optimizer.lr=1", "model=small_cnn"]
    assert script.later(usual, ["optimizer.lr=2"]) == ["model=mlp", "model.widths=[8]", "optimizer.lr=2"]


def test_faces_are_divided_person_by_person_whatever_else_there_is(
    defended: ModuleType, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (400, 64, 64), dtype=np.uint8)
    np.savez(tmp_path / "olivetti64.npz", images=images, labels=np.repeat(np.arange(40), 10))
    found, other = defended.faces(tmp_path, 0), defended.faces(tmp_path, 1)
    for part, count in defended.PARTS.items():
        assert (np.bincount(found[f"{part}_labels"], minlength=40) == count).all()
    assert found["train_images"].shape == (240, 32, 32)
    assert not np.array_equal(found["train_images"], other["train_images"])


def test_a_model_is_trained_and_attacked_as_its_row_says(
    script: ModuleType, defended: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)

    def some(_: Path, seed: int) -> dict[str, np.ndarray]:  # noqa: ARG001
        made = {}
        for part, count in (("train", 240), ("val", 30), ("test", 60)):
            labels = np.arange(count) % 3
            images = rng.integers(0, 60, (count, 6, 6)) + 60 * labels[:, None, None]
            made |= {f"{part}_images": images.astype(np.uint8), f"{part}_labels": labels}
        return made

    words = ("model=mlp", "model.widths=[4]", "training.steps=3", "training.expected_batch_size=40")
    made = defended.Set(make=some, classes=3, words=words, shadows=4, epsilons=(), private=())
    monkeypatch.setitem(script.SETS, "little", made)
    monkeypatch.setattr(defended, "QUERIES", 200)
    monkeypatch.setattr(defended, "JUDGED", 3)
    monkeypatch.setattr(defended, "LIMITS", {"restarts": 1, "keep": 1, "steps": 2, "copies": 1, "trials": 1})
    for row, shown in (("dropout .5", True), (defended.LABELS, False)):
        asked = script.DEFENCES.get(row, ())
        for turn in range(2):  # the second time from the file
            found = script.measured(
                "little", row, asked, 0, folder=tmp_path, output=tmp_path / "runs", more=[], make=turn == 0
            )
            assert (found.adaptive is not None) is (found.by_queries is not None) is shown
            assert 0 <= found.tpr <= 1
    assert len(list((tmp_path / "runs").glob("*.json"))) == 2
