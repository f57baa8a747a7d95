"""Files of a run that are damaged or foreign, and odd words: one sentence each, and never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import QUICK, command, finish, order
from torch import nn

import dptrain
from dptrain.cli import main as cli
from dptrain.comparison.compare import compare
from dptrain.comparison.gather import Selection
from dptrain.contracts import ConfigError, DataError, DptrainError
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.runs.comparable import not_comparable
from dptrain.training import checkpoint

pytestmark = pytest.mark.run

FEW = (*QUICK, "attack=[]", "control.enabled=false", "tracking=none")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("damaged")
    cli.main(order(*FEW, f"output={output}"), None)
    (report,) = output.glob(f"*/{runs.REPORT}")
    return report.parent


# ---------------------------------------------------------------------- checkpoints


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was ended when it had written a checkpoint."""
    output, write = tmp_path_factory.mktemp("stopped"), checkpoint.save

    def save(state: dict[str, Any], folder: Path) -> None:
        write(state, folder)
        if state["step"] >= 1:
            raise Stopped

    asked = order(*FEW, "performance.checkpoint_seconds=0", f"output={output}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        with pytest.raises(Stopped):
            cli.main(asked, None)
    (found,) = output.glob(f"*/{checkpoint.CHECKPOINT}")
    return found.parent


def without(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        part: Any = state
        for key in path[:-1]:
            part = part[key]
        del part[path[-1]]

    return change


def put(value: object, *path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        part: Any = state
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value

    return change


CHANGES = {
    "plan without units": without("plan", "units"),
    "blocks without size": without("blocks", "size"),
    "a size of nothing": put(0, "blocks", "size"),
    "a step before the first": put(-5, "step"),
    "a history of words": put([("a", "b", "c")], "history"),
    "a best of nothing": put({"x": 1}, "best"),
    "no groups": put([], "optimizer", "param_groups"),
    "no schedule": put({}, "schedule"),
    "no key of noise": put({}, "noise"),
    "a key of noise that is none": put({"key": "zz"}, "noise"),
    "no sampler": put({}, "sampler"),
    "an audit of no steps": put({}, "audit"),
    "weights that are words": lambda state: state["model"].update(dict.fromkeys(state["model"], "x")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_part_of_a_checkpoint_that_is_changed_is_named(name: str, stopped: Path, tmp_path: Path) -> None:
    folder = tmp_path / stopped.name
    shutil.copytree(stopped, folder)
    state = torch.load(folder / checkpoint.CHECKPOINT, weights_only=True)
    CHANGES[name](state)
    torch.save(state, folder / checkpoint.CHECKPOINT)
    with pytest.raises(SystemExit) as ended:
        cli.main(order(f"resume={folder}"), None)
    assert ended.value.code == 2
    assert not (folder / runs.REPORT).exists()


def test_it_goes_on_where_nothing_was_changed(stopped: Path, tmp_path: Path) -> None:
    folder = tmp_path / stopped.name
    shutil.copytree(stopped, folder)
    cli.main(order(f"resume={folder}"), None)
    assert (folder / runs.REPORT).exists()


def test_a_ledger_beyond_the_plan_is_not_believed(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / stopped.name
    shutil.copytree(stopped, folder)
    (folder / checkpoint.LEDGER).write_text(json.dumps({"steps": 10**9}))
    with pytest.raises(SystemExit):
        cli.main(order(f"resume={folder}"), None)
    assert "1000000000 steps paid for, of 3 in all" in " ".join(capsys.readouterr().err.split())


# ---------------------------------------------------------------------- reports and orders


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_report_is_named(content: bytes, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "a")
    shutil.copytree(finished, tmp_path / "b")
    (tmp_path / "a" / runs.REPORT).write_bytes(content)
    with pytest.raises(DataError, match="is no report of dptrain"):
        read_json(tmp_path / "a" / runs.REPORT)
    with pytest.raises(SystemExit) as ended:
        cli.main(order("task=audit", f"release={tmp_path / 'a'}", f"output={tmp_path / 'out'}"), None)
    assert ended.value.code == 2
    (missing,) = compare(Selection(folders=(tmp_path / "a", tmp_path / "b")), command="").missing
    assert "its report.json cannot be read" in missing.why
    (tmp_path / "b" / runs.ORDER).write_bytes(content)
    with pytest.raises(DataError, match="no finished run"):
        compare(Selection(folders=(tmp_path,)), command="")


@pytest.mark.parametrize("key", ["tradeoff", "epsilon_by_step"])
@pytest.mark.parametrize("value", [None, ["x"], [[1]], [["a", "b"]]])
def test_a_report_without_its_curves_is_named(
    key: str, value: object, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "a")
    report = {**read_json(finished / runs.REPORT), key: value}
    (tmp_path / "a" / runs.REPORT).write_text(json.dumps(report))
    with pytest.raises(SystemExit) as ended:
        cli.main(order("task=audit", f"release={tmp_path / 'a'}", f"output={tmp_path / 'out'}"), None)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("recipe",), None),
        (("data",), {}),
        (("utility",), {}),
        (("utility", "accuracy"), "x"),
        (("utility", "accuracy"), float("-inf")),
        (("utility", "by_class"), [None]),
        (("utility", "by_subgroup"), "x"),
        (("leakage",), [None]),
    ],
)
def test_a_report_that_cannot_stand_beside_others_is_missing(
    where: tuple[str, ...], value: object, finished: Path
) -> None:
    report = read_json(finished / runs.REPORT)
    assert not_comparable(report) is None
    put(value, *where)(report)
    assert str(not_comparable(report)).startswith(where[0])


# ---------------------------------------------------------------------- odd words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("seed=1,2", "sweep.resume=nowhere"), "sweep.resume=nowhere is no folder of a sweep"),
        (("seed=range(0)",), "gives no value to sweep over"),
        (("seed=1,2", "hydra.sweep.dir=/etc/passwd/x"), "output: /etc/passwd/x cannot be made"),
        (("seed=1,2", "output=/etc/passwd/x"), "cannot be made"),
        (("seed=range(1,5,0)",), "seed=range(1,5,0)"),
        (("seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0"), "hydra.launcher.n_jobs=0"),
    ],
)
def test_a_sweep_over_nothing_is_refused(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    found = finish(command("-m", *FEW, *words, cwd=tmp_path))
    assert found[0] == 2
    assert said in " ".join(found[2].split())
    assert "Traceback" not in found[2]
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_of_hydra_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    found = finish(command(*FEW, "hydra.run.dir=/etc/passwd/x", cwd=tmp_path))
    assert (found[0], "Traceback" in found[2]) == (2, False)
    assert "hydra.run.dir" in found[2]


@pytest.mark.parametrize("model", [nn.Linear, "mlp", lambda inputs: inputs])
def test_what_is_no_network_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match=r"give a torch\.nn\.Module"):
        dptrain.plan("quickstart", model=model)


@pytest.mark.parametrize(
    "call",
    [
        lambda: dptrain.plan("quickstart", 5),  # type: ignore[arg-type]
        lambda: dptrain.plan("quickstart", config_dir="nowhere"),
        lambda: dptrain.plan("quickstart", config_dir=5),  # type: ignore[arg-type]
        lambda: dptrain.compare(5),  # type: ignore[arg-type]
        lambda: dptrain.compare(".", confidence=2),
        lambda: dptrain.predictor(5),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_argument_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(DptrainError):
        call()


# ---------------------------------------------------------------------- what lies beside a run


@pytest.mark.parametrize("content", ['{"foreign": 1}', "[]"])
def test_a_file_of_another_program_does_not_stand_in_the_way(
    content: str, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "a")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / runs.ORDER).write_text(content)
    assert runs.find("latest", tmp_path)[0] == tmp_path / "a"
    assert runs.named("a", tmp_path) == tmp_path / "a"
    assert runs.named("nonesuch", tmp_path) is None
    (tmp_path / "other" / runs.ORDER).write_text('{"recipe": ')  # of ours, it may be
    with pytest.raises(DptrainError, match="is no JSON object"):
        runs.find("latest", tmp_path)


@pytest.mark.parametrize("kind", ["gone", "a folder", "no salt"])
def test_a_run_without_its_secrets_says_so(kind: str, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "a")
    secret, state = tmp_path / "a" / ".secret", json.loads((tmp_path / "a" / runs.ORDER).read_text())
    if kind == "no salt":
        state["begun_with"]["salt"] = "zz"
        (tmp_path / "a" / runs.ORDER).write_text(json.dumps(state))
    else:
        secret.unlink()
    if kind == "a folder":
        secret.mkdir()
    said = {"gone": ".secret is gone", "a folder": "cannot be read", "no salt": "begun_with is not as"}[kind]
    with pytest.raises(DptrainError, match=said):
        runs.remember_records(tmp_path / "a", "x")
    if kind == "gone":
        assert not secret.exists()
