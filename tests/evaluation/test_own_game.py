"""A game of one's own, with attack and YAML files: prepared, scored and reported, the package untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import QUICK, order

from dptrain.cli import main as cli
from dptrain.report.document import read_json

pytestmark = pytest.mark.run

PARTS = '''
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dptrain.config import Evidence
from dptrain.contracts import Access, Assigned, Game, Leakage, Records, Scored, Targets, keyed_uniform
from dptrain.evidence.held_out import keep_held_out, train_on
from dptrain.evidence.intervals import clopper_pearson, detection_limit
from dptrain.evidence.verdict import BEYOND_DOUBT, verdict


@dataclass(frozen=True, kw_only=True)
class Labels:
    named: Tensor  # (records,) int64


@dataclass(frozen=True, kw_only=True)
class Unlabelled(Targets):
    inputs: Tensor


@dataclass(frozen=True, kw_only=True)
class Relabelled(Assigned):
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class LabelInference(Game):
    """Held-out records are trained on under random labels; the attack names the labels."""

    assignment: ClassVar = "labels"
    untrained: ClassVar = 1
    findings: ClassVar = Labels

    evidence: Evidence
    records: int

    @property
    def held_out(self):
        return self.records

    def prepare(self, splits, *, key):
        order = keyed_uniform(key, "label inference", splits.holdout.digests()).argsort()
        chosen = splits.holdout.take(order[: self.records]).read()
        chance = keyed_uniform(key, "secret label", chosen.digests())
        labels = (chance * splits.num_classes).long()
        after = replace(
            splits,
            **train_on(splits, Records(chosen.inputs, labels)),
            **keep_held_out(splits, order[self.records :].sort().values),
        )
        return after, Relabelled(inputs=chosen.inputs, labels=labels)

    def public(self, splits, assigned):
        return Unlabelled(**vars(Targets.of(splits)), inputs=assigned.inputs)

    def problems(self, splits, assigned):
        if len(splits.holdout) < len(assigned.labels):
            yield "too many held-out records are relabelled; lower game.label_inference.records"

    def score(self, attempt, scoring):
        truth, confidence = scoring.assigned.labels, self.evidence.confidence

        def success(found, confidence=confidence):
            return clopper_pearson(int((found.named == truth).sum()), len(truth), confidence)

        blind = 1 / scoring.splits.num_classes
        floor = max([blind, *(success(each).value for each in attempt.baseline)])
        value = success(attempt.found)
        control = None if attempt.control is None else success(attempt.control)
        bound = scoring.guarantee.reconstruction_bound(blind)
        return Scored(
            leakage=[
                Leakage(
                    attack=attempt.attack,
                    metric="labels_named",
                    value=value,
                    floor=floor,
                    control=control,
                    bound=bound,
                    detection_limit=detection_limit(len(truth), confidence),
                    verdict=verdict(
                        value=value,
                        floor=floor,
                        control=control,
                        bound=bound,
                        beyond_doubt=success(attempt.found, BEYOND_DOUBT).low > bound,
                    ),
                    trials=len(truth),
                    confidence=confidence,
                    interface=attempt.interface,
                    notes="a label of each record drawn at random",
                )
            ]
        )


@dataclass(frozen=True, kw_only=True)
class MostConfident:
    needs: ClassVar = frozenset({Access.CONFIDENCES})
    game: ClassVar = "label_inference"

    def run(self, release, targets, rng):
        return Labels(named=release.predict(targets.inputs).argmax(1))


class OfAnotherGame(MostConfident):
    game: ClassVar = "membership"

    def run(self, release, targets, rng):
        return Labels(named=torch.zeros(len(targets.probes), dtype=torch.int64))


class OfNoGame(MostConfident):
    game: ClassVar = "hide_and_seek"


@dataclass(frozen=True, kw_only=True)
class Unscored:
    evidence: object
'''


@pytest.fixture
def config_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own YAML files, and the module that they name."""
    (tmp_path / "own_game.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in {
        "game/label_inference.yaml": (
            "# @package game.label_inference\n_target_: own_game.LabelInference\nrecords: 40\n"
        ),
        "game/unscored.yaml": "# @package game.unscored\n_target_: own_game.Unscored\n",
        "attack/labels.yaml": "# @package attack.labels\n_target_: own_game.MostConfident\n",
        "attack/of_another_game.yaml": (
            "# @package attack.of_another_game\n_target_: own_game.OfAnotherGame\n"
        ),
        "attack/of_no_game.yaml": "# @package attack.of_no_game\n_target_: own_game.OfNoGame\n",
    }.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "conf"


def carry_out(tmp_path: Path, config_dir: Path, *overrides: str) -> dict[str, Any]:
    """Carry out an order in this process; the newest report."""
    quick = () if "task=audit" in overrides else QUICK
    asked = order("tracking=none", f"output={tmp_path}/runs", *quick, *overrides, config_dir=config_dir)
    cli.main(asked, None)
    return read_json(max((tmp_path / "runs").glob("*/report.json"), key=lambda path: path.stat().st_mtime))


def refused(tmp_path: Path, config_dir: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """What is said of an order that is refused before anything is begun."""
    with pytest.raises(SystemExit) as caught:
        carry_out(tmp_path, config_dir, *overrides)
    assert caught.value.code == cli.FAILED
    assert not (tmp_path / "runs").exists()
    return " ".join(capsys.readouterr().err.split())


def test_a_game_of_ones_own_is_prepared_scored_and_reported(
    tmp_path: Path, config_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = carry_out(tmp_path, config_dir, "attack=[of_another_game]", "control.enabled=false")
    (lost,) = plain["not_run"]
    assert lost["reason"] == "it returned Labels, and game `membership` is played with Scores"
    report = carry_out(
        tmp_path, config_dir, "+game=label_inference", "attack=[labels,membership_loss]",
        "release.compare=[labels_only]", "privacy.epsilon=2",
    )  # fmt: skip
    assert report["not_run"] == []
    assert report["data"]["train"] - plain["data"]["train"] in range(20, 61)  # 40, and another half of probes
    lines = [line for line in report["leakage"] if line["attack"] == "labels"]
    assert [(line["metric"], line["interface"]) for line in lines] == [
        ("labels_named", "confidences"), ("labels_named", "labels_only"),
    ]  # fmt: skip
    for line in lines:
        assert line["trials"] == 40
        assert line["floor"] >= 0.1
        assert 0.1 < line["bound"] < 0.9
        assert line["control"] is not None, "the control is trained on the same labels"
    assert {line["metric"] for line in report["leakage"] if line["attack"] == "membership_loss"} >= {"auc"}
    said = capsys.readouterr().out
    assert "labels" in said
    folder = Path(report["folder"])
    assert "labels" in (folder / "report.md").read_text()
    assert "labels" in (folder / "report.html").read_text()

    # The finished run is audited by the same game, which finds the same assignment.
    audit = carry_out(
        tmp_path, config_dir, "task=audit", f"release={folder}", "attack=[labels]", "+game=label_inference"
    )
    (line,) = audit["leakage"]
    assert {key: line[key] for key in ("value", "bound")} == {
        key: lines[0][key] for key in ("value", "bound")
    }


def test_what_a_game_finds_wrong_is_told_before_the_budget_is_spent(
    tmp_path: Path, config_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(
        tmp_path, config_dir, capsys, "+game=label_inference", "attack=[labels]",
        "game.label_inference.records=250",
    )  # fmt: skip
    assert "attack=labels: too many held-out records are relabelled" in said


def test_games_that_are_not_there_and_games_that_are_none_are_refused(
    tmp_path: Path, config_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(tmp_path, config_dir, capsys, "+game=unscored", "attack=[labels,of_no_game]")
    assert "game.unscored: `own_game.Unscored` is no game" in said
    assert "attack.labels: `own_game.MostConfident` has game=label_inference" in said
    assert "attack.of_no_game: `own_game.OfNoGame` has game=hide_and_seek" in said
    assert "one of membership, attribute, audit_records" in said
