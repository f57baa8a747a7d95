"""Of a private selection nothing but the selected trial is verified, audited and served, by its epsilon."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import QUICK, QUICK_ATTACKS, order

from dptrain.cli import main as cli
from dptrain.cli import multirun
from dptrain.config import parse
from dptrain.contracts import ConfigError
from dptrain.pipeline import case, verify
from dptrain.pipeline.serve import make_service
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.sweep.selection import trials

pytestmark = pytest.mark.run

QUICKLY = (
    *QUICK, "tracking=none", "attack=[]", "control.enabled=false", "performance.threads=1",
    "privacy.delta=1e-4", "sweep.candidates={optimizer.lr:[0.1,0.2],mechanism.max_grad_norm:[1.0,2.0]}",
)  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A selection among two trials, the second of which was finished last."""
    folder = tmp_path_factory.mktemp("selection") / "sweep_a"
    words = ("+sweep=private_selection", f"output={folder.parent}", *QUICKLY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "draw_count", lambda _: 2)
        trials.begin(folder, order(*words).config)
        for number in (1, 2):
            cli.main(replace(order(*words, f"sweep.trial={number}"), sweep=True), folder)
        multirun.conclude(folder)
    return folder


@pytest.fixture
def names(sweep: Path) -> tuple[str, str]:
    """The selected trial, and the other."""
    chosen = json.loads((sweep / trials.SELECTED).read_text())["trial"]
    (other,) = {path.parent.name for path in sweep.glob(f"*/{runs.REPORT}")} - {chosen}
    return chosen, other


def asked(sweep: Path, release: object, *words: str) -> Any:
    return parse(order(f"release.source={release}", f"output={sweep.parent}", *words).config)


def epsilon(sweep: Path) -> float:
    return float(json.loads((sweep / trials.SELECTED).read_text())["epsilon"])


def test_the_latest_release_of_a_selection_is_the_one_that_it_selected(sweep: Path) -> None:
    assert runs.named("latest", sweep.parent) == sweep / trials.RELEASE


def test_what_was_selected_is_served_and_attacked_by_the_selection_s_epsilon(
    sweep: Path, names: tuple[str, str]
) -> None:
    for release in ("latest", sweep / trials.RELEASE, sweep / names[0], names[0]):
        found = case.find(asked(sweep, release, "task=audit"), ())
        assert found.weights == sweep / names[0] / runs.WEIGHTS
        assert found.guarantee is not None
        stated = found.guarantee.statement()
        own = read_json(sweep / names[0] / runs.REPORT)
        assert stated.epsilon == epsilon(sweep) > own["guarantee"]["epsilon"]
        assert all(
            found.guarantee.membership_tpr(rate) >= most
            for rate, most in [*own["tradeoff"], *((float(at), tpr) for at, tpr in stated.tpr_at_fpr.items())]
        )
    service = make_service(asked(sweep, sweep / trials.RELEASE, "task=serve", "serve.keys=false"))
    try:
        assert service.model.statement["proved"]["epsilon"] == epsilon(sweep)
        assert names[0] not in service.model.title
    finally:
        service.close()


def test_what_was_selected_is_verified_as_such(sweep: Path, names: tuple[str, str], tmp_path: Path) -> None:
    for release in (sweep / trials.RELEASE, sweep / names[0]):
        checks = {each.name: each for each in verify.run(asked(sweep, release, "task=verify"))[1]}
        assert not [each for each in checks.values() if each.holds is False]
        assert checks["selection"].holds
    given = shutil.copytree(sweep / trials.RELEASE, tmp_path / "given")
    checks = {each.name: each for each in verify.run(asked(sweep, given, "task=verify"))[1]}
    assert checks["selection"].holds is None
    shutil.copytree(sweep, tmp_path / "sweep_a")
    other = tmp_path / "sweep_a" / names[1]
    for name in trials.RELEASED:
        shutil.copyfile(other / name, other.parent / trials.RELEASE / name)
    checked = verify.run(asked(sweep, other.parent / trials.RELEASE, "task=verify"))[1]
    assert [each.name for each in checked if each.holds is False] == ["selection"]


def test_a_trial_that_was_not_selected_is_refused(
    sweep: Path, names: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "did not select, and must not leave the team; give release="
    for release in (sweep / names[1], names[1]):
        with pytest.raises(ConfigError, match=said):
            verify.run(asked(sweep, release, "task=verify"))
        with pytest.raises(ConfigError, match=said):
            case.find(asked(sweep, release, "task=audit"), ())
    with pytest.raises(SystemExit) as caught:
        cli.main(order("task=serve", f"release={sweep / names[1]}", f"output={sweep.parent}"), None)
    assert caught.value.code == cli.FAILED
    assert "did not select" in " ".join(capsys.readouterr().err.split())
    alone = shutil.copytree(sweep / names[0], tmp_path / names[0])
    with pytest.raises(ConfigError, match=r"no selected\.json that says which was selected"):
        verify.run(asked(sweep, alone, "task=verify"))
    assert runs.named("latest", tmp_path) is None


def test_a_selection_of_none_or_one_that_cannot_be_read_allows_nothing(
    sweep: Path, names: tuple[str, str], tmp_path: Path
) -> None:
    copied = shutil.copytree(sweep, tmp_path / "sweep_a")
    for text, said in (
        ('{"trial": null}', "selected none of them"),
        ("[1]", "no JSON object"),
        ("{", "cannot be read"),
    ):
        (copied / trials.SELECTED).write_text(text)
        with pytest.raises(ConfigError, match=said):
            case.find(asked(sweep, copied / names[0], "task=audit"), ())
    (copied / trials.SELECTED).write_text('{"trial": "gone"}')
    with pytest.raises(ConfigError, match="names trial=gone, which is no run folder"):
        case.find(asked(sweep, copied / trials.RELEASE, "task=audit"), ())


def test_an_audit_of_what_was_selected_reports_the_selection_s_epsilon(sweep: Path) -> None:
    words = ("task=audit", "release=latest", f"output={sweep.parent}", "tracking=none")
    quickly = ("attack=[class_inversion]", *(each for each in QUICK_ATTACKS if "attack.class" in each))
    cli.main(order(*words, *quickly, "control.enabled=false"), None)
    (path,) = sweep.parent.glob(f"*_audit/{runs.REPORT}")
    report = read_json(path)
    assert report["guarantee"]["epsilon"] == epsilon(sweep)
    assert report["leakage"]
    shutil.rmtree(path.parent)


def test_jobs_of_a_plain_sweep_are_still_found(sweep: Path, names: tuple[str, str], tmp_path: Path) -> None:
    job = shutil.copytree(sweep / names[1], tmp_path / "sweep_b" / "job")
    state = runs.read_state(job)
    state.config = {**state.config, "sweep": {**state.config["sweep"], "trial": None}}
    state.write(job / runs.ORDER)
    assert runs.named("latest", tmp_path) == job
