"""The command line, from asking to ending: runs, refusals, interruptions, one's own parts."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest
import torch
from support import QUICK, QUICK_ATTACKS, command, finish, interpreter, order

import dptrain
from dptrain.assembly.components import assemble
from dptrain.cli import main as cli
from dptrain.config import parse
from dptrain.contracts import ConfigError
from dptrain.privacy.plan import default_delta
from dptrain.report.document import read_json
from dptrain.runs import folder as runs

pytestmark = pytest.mark.e2e


def carry_out(tmp_path: Path, *overrides: str, **options: Any) -> dict[str, Any]:
    """Carry out an order in this process; returns its report."""
    attacks = () if any(each.startswith("attack=") for each in overrides) else QUICK_ATTACKS
    cli.main(order("tracking=none", f"output={tmp_path}/runs", *QUICK, *attacks, *overrides, **options), None)
    (report,) = (tmp_path / "runs").glob("*/report.json")
    return read_json(report)


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *overrides: str, **options: Any) -> str:
    """What is said about an order that cannot be carried out; nothing may be left behind."""
    with pytest.raises(SystemExit) as caught:
        carry_out(tmp_path, *overrides, **options)
    assert caught.value.code == cli.FAILED
    assert not (tmp_path / "runs").exists()
    return capsys.readouterr().err


# ------------------------------------------------------------------ what a run leaves


def test_a_run_leaves_report_figures_weights_and_no_secret(tmp_path: Path) -> None:
    report = carry_out(tmp_path, "privacy.epsilon=2")
    assert 1.98 < report["guarantee"]["epsilon"] <= 2.0
    assert report["guarantee"]["steps"] == 3
    assert {line["attack"] for line in report["leakage"]} == {
        "class_inversion", "reconstruction_transcript", "reconstruction_weights", "membership_loss",
        "membership_rmia", "audit_canaries", "audit_losses",
    }  # fmt: skip
    assert set(report["seconds"]) == {"train", "attack", "total", "twin", "evaluator", "shadow"}
    folder = next((tmp_path / "runs").glob("*/report.json")).parent
    assert not (folder / "checkpoint.pt").exists()
    assert (folder / "report.md").exists()
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "epsilon.svg", "utility.svg", "costs.svg", "calibration.svg", "reconstruction.svg",
        "class_inversion.png",
    }  # fmt: skip
    assert json.loads((folder / "ledger.json").read_text())["steps"] == 3
    weights = torch.load(folder / "weights.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_two_runs_of_one_seed_start_alike_and_draw_different_noise(tmp_path: Path) -> None:
    for name in ("a", "b"):
        carry_out(tmp_path / name, "attack=[]", "control.enabled=false")
    first, second = (
        torch.load(next((tmp_path / name / "runs").glob("*/weights.pt")), weights_only=True) for name in "ab"
    )
    assert any(not torch.equal(first[key], second[key]) for key in first)


def test_a_deterministic_run_repeats_itself_and_is_void(tmp_path: Path) -> None:
    reports = [carry_out(tmp_path / name, "deterministic=true") for name in "ab"]
    assert reports[0]["leakage"] == reports[1]["leakage"]
    assert all(report["guarantee"]["void"] for report in reports)
    assert reports[0]["guarantee"]["sentence"].startswith("VOID")


def test_without_privacy_nothing_is_proved(tmp_path: Path) -> None:
    report = carry_out(tmp_path, "mechanism=non_private")
    assert report["guarantee"]["epsilon"] is None
    assert report["control"] is None
    assert all(line["bound"] is None for line in report["leakage"])
    assert report["epsilon_by_step"] == []


def test_patients_are_the_unit_where_asked(tmp_path: Path) -> None:
    report = carry_out(
        tmp_path, "data=phantom", "data.train=240", "data.holdout=120", "data.test=60",
        "data.records_per_patient=4", "privacy.unit=patient", "training.expected_batch_size=20",
        "attack=[reconstruction_transcript]",
    )  # fmt: skip
    assert report["guarantee"]["unit"] == "patient"
    assert report["guarantee"]["units"] == 60 + 3  # a planted record is a patient of its own
    assert report["guarantee"]["delta"] == default_delta(63)


@pytest.mark.parametrize(
    "overrides",
    [
        ("mechanism.clipping=per_layer",),
        ("mechanism.clipping=automatic",),
        ("mechanism.engine=hooks",),
        ("optimizer=adam", "training.schedule=cosine", "training.warmup_steps=1"),
        ("optimizer=adamw", "training.average_decay=0"),
        ("training.sampling=shuffle",),
        ("privacy.adjacency=replace_one",),
        ("privacy.epsilon=null", "privacy.noise_multiplier=2.5", "privacy.delta=1e-4"),
        ("training.steps=null", "training.epochs=1", "performance.physical_batch_size=100"),
        ("dtype=float64", "performance.threads=1"),
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_every_choice_of_the_configuration_runs(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    report = carry_out(tmp_path, "attack=[]", "control.enabled=false", *overrides)
    assert 0 < report["guarantee"]["epsilon"] < 1000


def test_tables_are_trained_on_and_their_sensitive_column_attacked(tmp_path: Path) -> None:
    report = carry_out(
        tmp_path, "attack=[attribute_inference,audit_gradients,class_inversion]",
        "attack.class_inversion.steps=3", recipe="health_mlp",
    )  # fmt: skip
    metrics = {(line["attack"], line["metric"]) for line in report["leakage"]}
    assert {
        ("attribute_inference", "mean_texture.advantage"),
        ("attribute_inference", "mean_texture.members"),
        ("audit_gradients", "certified_epsilon"),
        ("class_inversion", "evaluator_accuracy"),
    } <= metrics
    assert not next((tmp_path / "runs").glob("*/figures/class_inversion.png"), None)


def test_attacks_by_query_meet_every_interface_asked_for(tmp_path: Path) -> None:
    report = carry_out(
        tmp_path, "attack=[membership_loss,audit_canaries]", "release.output=labels_only",
        "release.compare=[top_k,labels_only]", "control.enabled=false",
    )  # fmt: skip
    met = [(line["attack"], line["interface"]) for line in report["leakage"] if line["metric"] != "auc"]
    assert [pair for pair in met if pair[0] == "audit_canaries"] == [("audit_canaries", "")]
    areas = {line["interface"]: line["value"] for line in report["leakage"] if line["metric"] == "auc"}
    assert list(areas) == ["confidences", "labels_only", "top_1"]
    assert report["guarantee"]["interface"] == "labels_only"


def test_a_limit_that_is_passed_ends_a_complete_run_with_its_own_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        carry_out(tmp_path, "attack=[]", "control.enabled=false", 'fail_if=["epsilon > 1","accuracy > 2"]')
    assert caught.value.code == cli.BEYOND
    assert "epsilon=2.999 > 1 (fail_if: epsilon > 1)" in capsys.readouterr().err
    assert list((tmp_path / "runs").glob("*/report.json"))


def test_a_statement_tells_how_much_coins_decided(tmp_path: Path) -> None:
    report = carry_out(tmp_path, "attack=[reconstruction_transcript,audit_canaries,membership_loss]")
    told = report["guarantee"]["assignment"]
    assert told["slots"] == 3
    assert told["probes"] == 240
    assert 80 < told["probes_trained_on"] < 160
    assert told["canaries"] // 4 < told["canaries_trained_on"] < told["canaries"]


def test_a_failing_attack_leaves_the_weights_that_were_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the attack stumbles")

    monkeypatch.setattr("dptrain.attacks.membership.LossThreshold.run", fail)
    report = carry_out(tmp_path, "attack=[membership_loss]", "control.enabled=false")
    assert [each["attack"] for each in report["not_run"]] == ["membership_loss"]
    assert "the attack stumbles" in report["not_run"][0]["reason"]
    assert list((tmp_path / "runs").glob("*/weights.pt"))


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["attack=[attribute_inference]"], "needs a sensitive column, and data `digits` declares none"),
        (["attack=[audit_gradients]", "attack.audit_gradients.every=0"], "attack.audit_gradients.every=0"),
        (["attack=[audit_losses]", "attack.audit_losses.guesses=3"], "attack.audit_losses.guesses=3"),
        (
            ["attack=[class_inversion_queries]", "attack.class_inversion_queries.keep=3"],
            "attack.class_inversion_queries.keep=3",
        ),
        (["attack=[audit_canaries]", "evidence.canaries=3"], "fewer than 20 certify nothing"),
        (['fail_if=["leakage.membership_lira.auc > 0.6"]'], "which this run does not make"),
    ],
)
def test_an_attack_that_cannot_be_made_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], why: str
) -> None:
    assert why in refused(tmp_path, capsys, *overrides)


def test_everything_that_cannot_be_built_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(
        tmp_path,
        capsys,
        "data._target_=no.such.Data",
        "optimizer._target_=none.Such",
        "+mechanism.colour=red",
    )
    assert "data._target_=no.such.Data cannot be found" in said
    assert "optimizer._target_=none.Such cannot be found" in said
    assert "mechanism.colour=red: `dptrain.mechanisms.dpsgd.DPSGD` has no such argument" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("evidence.slots=200",), "choose fewer of either"),
        (("training.expected_batch_size=5000",), "choose at most"),
        (("privacy.unit=patient",), "choose data with group ids, or privacy.unit=record"),
        (("model._target_=torch.nn.Identity",), "must return logits"),
        (("data=pneumoniamnist", "data.root=/nowhere", "data.url=http://127.0.0.1:9/x"), "data=phantom"),
        (("mechanism.clipping=round",), "choose one of flat"),
        (("mechanism.engine=ghost",), "use bookkeeping, which does all that it did"),
        (("resume=latest",), "resume=latest"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_refusal_names_the_cure(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.delenv("DPTRAIN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert said in refused(tmp_path, capsys, *overrides)


def test_a_run_folder_that_cannot_be_written_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        cli.main(order("tracking=none", f"output={tmp_path}/file/runs", *QUICK), None)
    assert "set output to another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.lr=-1", "optimizer.lr=-1: `torch.optim.SGD` cannot be made of it"),
        ("optimizer.lr=abc", "optimizer.lr=abc should be a valid number"),
        ("optimizer.lr=true", "optimizer.lr=true should be a valid number"),
        ("control.optimizer.lr=nan", "control.optimizer.lr=nan should be a finite number"),
        ("+optimizer.momentun=0.9", "has no such argument; did you mean momentum?"),
        ("+optimizer.params=[]", "optimizer.params=[] is filled in by dptrain itself"),
        ("optimizer={_target_:torch.optim.LBFGS,lr:1}", "computes gradients anew within a step"),
        ("optimizer={_target_:torch.optim.SparseAdam,lr:1}", "cannot take a step with ordinary parameters"),
        ("optimizer={_target_:torch.nn.Identity}", "torch.nn.Identity is no optimizer"),
        ("mechanism.max_grad_norm=0", "mechanism.max_grad_norm=0 should be greater than 0"),
        ("model.channels=[8,0]", "model.channels[1]=0 should be greater than or equal to 1"),
        ("data.mean=abc", "data.mean=abc should be a list"),
        (
            "attack.class_inversion.steps=0",
            "attack.class_inversion.steps=0 should be greater than or equal to 1",
        ),
        (
            "game.class_inversion.evaluator_steps=x",
            "game.class_inversion.evaluator_steps=x should be a valid",
        ),
        ("+tracking.experiment=5", "tracking.experiment=5"),
    ],
)
def test_a_value_of_a_component_is_refused_before_any_data_are_read(override: str, said: str) -> None:
    key, _, node = override.partition("={")
    asked = order("tracking=none", *(() if node else (override,)))
    if node:
        pairs = (each.split(":") for each in node.rstrip("}").split(","))
        asked.config[key] = {name: float(value) if name == "lr" else value for name, value in pairs}
    with pytest.raises(ConfigError) as refused:
        assemble(parse(asked.config))
    assert said in str(refused.value)
    assert "NoneType" not in str(refused.value)  # nothing is built on what is wrong


# ------------------------------------------------------------------ one's own parts

PARTS = '''
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from dptrain.contracts import Access, Guesses, Records, Splits
from dptrain.privacy.guarantee import DPGuarantee
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate


class MyNet(nn.Sequential):
    def __init__(self, shape, num_classes, width):
        super().__init__(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], width), nn.Tanh(),
                         nn.Linear(width, num_classes))


@dataclass(frozen=True, kw_only=True)
class MyData:
    records: int

    def load(self, rng):
        def some(count):
            labels = torch.randint(2, (count,), generator=rng)
            inputs = torch.rand(count, 1, 6, 6, generator=rng) * 0.5 + labels.view(-1, 1, 1, 1) * 0.5
            return Records(inputs, labels)
        return Splits(name="mine", source="made up", train=some(self.records), holdout=some(400),
                      test=some(60), classes=("no", "yes"), bounds=(0.0, 1.0), mean=(0.5,), std=(0.3,))


@dataclass(frozen=True, kw_only=True)
class Guessing:
    needs: ClassVar = frozenset()
    game: ClassVar = "reconstruction"

    def run(self, release, targets, rng):
        return Guesses(guesses=torch.randint(targets.slots.candidates, (targets.slots.count,), generator=rng))


class MySGD(torch.optim.SGD):
    pass


@dataclass(frozen=True, kw_only=True)
class Liar(DPSGD):
    """Claims the guarantee of DP-SGD and trains without any noise."""

    def fit(self, model, splits, budget, context):
        release, _ = NonPrivate(settings=self.settings).fit(model, splits, budget, context)
        plan = self.plan(splits, budget)
        return release, DPGuarantee(plan=plan, budget=budget)
'''


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own YAML files, and the module that they name."""
    (tmp_path / "my_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in {
        "model/mine.yaml": "_target_: my_parts.MyNet\nwidth: 8\n",
        "data/mine.yaml": "_target_: my_parts.MyData\nrecords: 300\n",
        "optimizer/mine.yaml": "_target_: my_parts.MySGD\nlr: 0.1\n",
        "mechanism/liar.yaml": "_target_: my_parts.Liar\n",
        "attack/guessing.yaml": "# @package attack.guessing\n_target_: my_parts.Guessing\n",
    }.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "conf"


def test_ones_own_model_data_optimizer_and_attack_come_in_by_yaml(tmp_path: Path, parts: Path) -> None:
    cli.main(
        order(
            "tracking=none", f"output={tmp_path}/runs", "model=mine", "data=mine", "optimizer=mine",
            "attack=[guessing]", "training.expected_batch_size=60", *QUICK, recipe="medical_cnn",
            config_dir=parts,
        ),
        None,
    )  # fmt: skip
    (path,) = (tmp_path / "runs").glob("*/report.json")
    report = read_json(path)
    assert report["data"]["name"] == "mine"
    assert [line["attack"] for line in report["leakage"]] == ["guessing"]


def test_a_mechanism_that_lies_about_its_noise_is_caught_loudly(
    tmp_path: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = order(
        "tracking=none", f"output={tmp_path}/runs", "model=mine", "data=mine", "mechanism=liar",
        "attack=[reconstruction_transcript]", "training.expected_batch_size=60", "training.steps=20",
        "evidence.slots=20", "evidence.candidates=10", "privacy.epsilon=1", recipe="medical_cnn",
        config_dir=parts,
    )  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        cli.main(asked, None)
    assert caught.value.code == cli.BROKEN
    assert "not as private as its guarantee says" in capsys.readouterr().err
    (path,) = (tmp_path / "runs").glob("*/report.json")
    assert read_json(path)["leakage"][0]["verdict"] == "exceeds the bound: broken"


# ------------------------------------------------------------------ interruptions


def wait_for_step(folder: Path, step: int) -> Path:
    """The run folder below this one, once its ledger has reached a step."""
    for _ in range(6000):
        for ledger in folder.glob("*/ledger.json"):
            if json.loads(ledger.read_text())["steps"] >= step:
                return ledger.parent
        time.sleep(0.05)
    raise AssertionError("the run did not get that far")


LONG = (
    "tracking=none", "training.steps=150", "training.evaluations=2", "training.expected_batch_size=200",
    "performance.checkpoint_seconds=0.2", "attack=[]", "control.enabled=false", "deterministic=true",
    "performance.threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert finish(command(*LONG, cwd=folder))[0] == 0
    (found,) = (folder / "runs").iterdir()
    return found


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, whole: Path, way: signal.Signals) -> None:
    cut = interpreter("output=cut", *LONG, cwd=tmp_path)
    folder = wait_for_step(tmp_path / "cut", 30)
    os.kill(cut.pid, way)
    code, _, err = finish(cut)
    if way == signal.SIGINT:
        assert code == cli.INTERRUPTED
        assert "python -m dptrain resume=" in err
        assert "Traceback" not in err
    assert not (folder / "report.json").exists()
    assert (folder / "checkpoint.pt").stat().st_mode & 0o077 == 0

    resumed = command("resume=latest", "output=cut", cwd=tmp_path)
    code, out, err = finish(resumed)
    assert code == 0, err
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [folder.name]
    assert "150 steps" in out
    report = read_json(folder / "report.json")
    assert report["guarantee"]["steps"] == 150
    assert report["guarantee"]["epsilon"] == read_json(whole / "report.json")["guarantee"]["epsilon"]
    assert json.loads((folder / "ledger.json").read_text())["steps"] == 150
    mine, theirs = (torch.load(path / "weights.pt", weights_only=True) for path in (folder, whole))
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_resumed_run_may_not_be_changed_nor_a_complete_one_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    carry_out(tmp_path, "attack=[]", "control.enabled=false")
    (folder,) = (tmp_path / "runs").iterdir()
    asked = order(f"resume={folder}", f"output={tmp_path}/runs")
    with pytest.raises(SystemExit):
        cli.main(asked, None)
    assert "is complete" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(order(f"resume={folder}", "privacy.epsilon=8"), None)
    assert "leave out privacy.epsilon=8" in capsys.readouterr().err


def test_a_resumed_run_is_tracked_where_it_was(tmp_path: Path) -> None:
    asked = order("tracking=none")
    runs.start(tmp_path, asked)
    runs.remember(tmp_path, tracked_as="abc")
    _, resumed = runs.find(str(tmp_path), tmp_path)
    runs.start(tmp_path, resumed)
    assert runs.read_state(tmp_path).tracked_as == "abc"
    assert resumed == asked


def test_run_folders_never_coincide(tmp_path: Path) -> None:
    with ThreadPool(8) as threads:
        made = threads.map(lambda _: runs.new_folder(tmp_path, "x"), range(40))
    assert len(set(made)) == 40
    assert all(folder.is_dir() for folder in made)


# ------------------------------------------------------------------ words


def test_help_an_unknown_recipe_and_the_configuration_read_well(tmp_path: Path) -> None:
    asked = (["--help"], ["recipe=nonsense"], ["--cfg", "job"], ["privacy.epsilon=3,0"])
    started = [command(*words, cwd=tmp_path) for words in asked]
    (_, helped, _), (code, _, unknown), (_, shown, _), (failed, _, several) = map(finish, started)
    for word in ("medical_cnn", "pneumoniamnist", "privacy:", "python -m dptrain resume=latest"):
        assert word in helped
    assert code == cli.FAILED
    assert "recipe=nonsense: the group recipe has no nonsense" in " ".join(unknown.split())
    assert "medical_cnn" in unknown
    assert "Traceback" not in unknown
    assert "epsilon: 3.0" in shown
    assert failed == cli.FAILED
    assert "privacy.epsilon=3,0: several values for one run" in " ".join(several.split())
    assert "Traceback" not in several
    assert list(tmp_path.iterdir()) == [], "asking leaves nothing behind"


def test_a_sweep_states_what_its_models_spend_together(tmp_path: Path) -> None:
    sweep = command(
        "-m", "privacy.epsilon=1,2", "tracking=none", *QUICK, "attack=[]", "control.enabled=false",
        cwd=tmp_path,
    )  # fmt: skip
    code, out, err = finish(sweep)
    assert code == 0, err
    first, second = (
        read_json(path)["guarantee"] for path in sorted(tmp_path.glob("runs/sweep_*/*/report.json"))
    )
    assert first["sweep"]["runs"] == 1
    assert second["sweep"]["runs"] == 2
    assert second["sweep"]["epsilon_together"] > second["epsilon"]
    assert "picks one" in out


def test_a_run_that_is_at_work_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "mine"
    runs.start(folder, order("tracking=none", *QUICK, "attack=[]", "control.enabled=false"))
    asked = order(f"resume={folder}", f"output={tmp_path}/runs")
    with runs.alone(folder):
        with pytest.raises(SystemExit) as caught:
            cli.main(asked, None)
        assert caught.value.code == cli.FAILED
        assert f"resume={folder}: another process is at work on this run" in capsys.readouterr().err
        assert not (folder / runs.REPORT).exists()
    cli.main(asked, None)
    assert (folder / runs.REPORT).exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("privacy.delta=1/N",), "privacy.delta=1/N should be a valid number"),
        (("privacy.delta=0.01",), "privacy.delta=0.01 is not below 1 / "),
        (("privacy.epsilon=null", "privacy.advantage=0.1", "privacy.delta=0.01"), "is not below 1 / "),
    ],
)
def test_a_budget_that_means_nothing_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    err = refused(tmp_path, capsys, "attack=[]", *words)
    assert says in " ".join(err.split())
    assert err.count("error") == 1
    assert "Traceback" not in err


def test_an_option_that_is_never_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mlp.yaml").write_text("_target_: mine.Net\n")
    (tmp_path / "config.yaml").write_text("of: another project\n")
    code, _, said = finish(command(f"--config-dir={tmp_path}", "model=mlp", cwd=tmp_path))
    assert (code, "Traceback" in said) == (2, False)
    assert f"{tmp_path}/model/mlp.yaml is never read" in said.replace("\n", "")
    with pytest.raises(ConfigError, match="give yours another name"):
        dptrain.plan("quickstart", config_dir=tmp_path)
