"""`task=audit`: a finished run attacked again, a model of one's own, and what is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support import QUICK, QUICK_ATTACKS, order
from torch import nn

from dptrain.assembly.components import assemble
from dptrain.cli import main as cli
from dptrain.config import parse
from dptrain.contracts import Streams
from dptrain.evaluation.assignment import prepare
from dptrain.models.mlp import Mlp
from dptrain.report.document import read_json
from dptrain.runs import folder as runs

pytestmark = pytest.mark.run

BY_QUERY = "attack=[membership_loss,audit_losses]"


def carry_out(output: Path, *overrides: str) -> dict:
    """Carry out an order; the report of the folder that it made."""
    before = set(output.glob("*/report.json"))
    cli.main(order("tracking=none", f"output={output}", *overrides), None)
    (made,) = set(output.glob("*/report.json")) - before
    return read_json(made)


def refused(capsys, output: Path, *overrides: str, code: int = cli.FAILED) -> str:
    with pytest.raises(SystemExit) as caught:
        carry_out(output, *overrides)
    assert caught.value.code == code
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run's folder."""
    output = tmp_path_factory.mktemp("trained")
    cli.main(order("tracking=none", f"output={output}", *QUICK, *QUICK_ATTACKS, "evidence.probes=60"), None)
    (report,) = output.glob("*/report.json")
    return report.parent


def test_a_finished_run_is_attacked_again_without_being_trained_again(trained, tmp_path):
    report = carry_out(
        tmp_path, "task=audit", f"release={trained}", BY_QUERY, "attack.audit_losses.reference_steps=3"
    )
    first = read_json(trained / "report.json")
    assert report["seconds"]["train"] == 0.0
    assert report["utility"] == first["utility"]
    assert report["guarantee"]["epsilon"] == pytest.approx(first["guarantee"]["epsilon"])

    def lines(document, name):
        return [line for line in document["leakage"] if line["attack"] == name]

    for name in ("membership_loss", "audit_losses"):
        for old, new in zip(lines(first, name), lines(report, name), strict=True):
            assert new["value"] == old["value"]
            assert new["bound"] >= old["bound"]
            assert new["bound"] == pytest.approx(old["bound"], rel=0.03)


def test_what_needs_the_noisy_gradients_is_left_out_or_refused(trained, tmp_path, capsys):
    quick = (each for each in QUICK_ATTACKS if each.startswith("attack."))  # games stay as they were played
    report = carry_out(tmp_path, "task=audit", f"release={trained}", "control.enabled=false", *quick)
    made = {line["attack"] for line in report["leakage"]}
    assert "reconstruction_weights" in made
    assert "audit_canaries" not in made
    said = refused(capsys, tmp_path, "task=audit", f"release={trained}", "attack=[audit_canaries]")
    assert "attack=audit_canaries needs transcript" in said


def test_a_run_is_found_by_its_name_and_by_its_tracked_id(trained):
    assert runs.named(trained.name, trained.parent) == trained
    runs.remember(trained, tracked_as="abc123")
    assert runs.named("abc123", trained.parent) == trained
    assert runs.named("abc", trained.parent) is None
    assert runs.named("latest", trained.parent) == trained
    assert runs.named("latest", trained / "figures") is None


def test_other_records_than_those_trained_on_are_refused(trained, tmp_path, capsys):
    told = json.loads((trained / runs.ORDER).read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("weights.pt", "report.json", ".secret"):
        (copy / name).write_bytes((trained / name).read_bytes())
    told["config"]["seed"] = 5
    (copy / runs.ORDER).write_text(json.dumps(told))
    said = refused(capsys, tmp_path / "out", "task=audit", f"release={copy}", BY_QUERY)
    assert "was trained on other records" in said


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["task=audit"], "task=audit needs a model: give release=PATH"),
        (["release=somewhere"], "release=somewhere names a model to attack; add task=audit"),
        (["task=audit", "release=nowhere"], "release=nowhere is no run folder, no name or id of a run"),
    ],
)
def test_an_order_that_cannot_be_meant_is_refused(tmp_path, capsys, overrides, why):
    assert why in refused(capsys, tmp_path, *overrides)


def test_what_a_run_was_is_not_changed_by_an_audit(trained, tmp_path, capsys):
    said = refused(
        capsys, tmp_path, "task=audit", f"release={trained}", BY_QUERY, "seed=3", "evidence.probes=30",
    )  # fmt: skip
    assert "leave out seed=3 evidence.probes=30" in said


def test_a_run_that_does_not_tell_its_records_is_refused(trained, tmp_path, capsys):
    told = json.loads((trained / runs.ORDER).read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("weights.pt", "report.json"):
        (copy / name).write_bytes((trained / name).read_bytes())
    del told["records"]
    (copy / runs.ORDER).write_text(json.dumps(told))
    said = refused(capsys, tmp_path / "out", "task=audit", f"release={copy}", BY_QUERY)
    assert "does not tell which records" in said


def test_what_a_run_keeps_of_its_records_confirms_none_without_its_secret(trained, tmp_path, capsys):
    """An unkeyed hash of the training set tells whoever knows the others if a record was among them."""
    kept = json.loads((trained / runs.ORDER).read_text())["records"]
    secret = trained / ".secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    config = parse(runs.read(trained).config)
    parts, streams = assemble(config), Streams(config.seed)
    splits, assignments = prepare(
        parts.source.load(streams.seeded("data")), parts.played, config.evidence, streams
    )
    fingerprint = assignments.fingerprint(splits)
    assert runs.same_records(trained, fingerprint)
    assert not runs.same_records(trained, fingerprint[::-1])
    assert kept == hmac.new(secret.read_bytes(), fingerprint.encode(), "sha256").hexdigest()[:40]
    assert kept != hashlib.sha256(fingerprint.encode()).hexdigest()[:40]
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("weights.pt", "report.json", runs.ORDER):
        (copy / name).write_bytes((trained / name).read_bytes())
    for path in trained.rglob("*"):
        if path.is_file():
            assert fingerprint.encode() not in path.read_bytes()
            assert path == secret or secret.read_bytes() not in path.read_bytes()
    said = refused(capsys, tmp_path / "out", "task=audit", f"release={copy}", BY_QUERY)
    assert "does not tell which records" in said


def test_an_audit_holds_no_model(trained, tmp_path, capsys):
    carry_out(tmp_path, "task=audit", f"release={trained}", BY_QUERY, "control.enabled=false")
    (audited,) = tmp_path.glob("*_audit")
    said = refused(capsys, tmp_path, "task=audit", f"release={audited}", BY_QUERY)
    assert "is an audit itself" in said


def test_an_unfinished_run_is_refused(trained, tmp_path, capsys):
    folder = tmp_path / "begun"
    folder.mkdir()
    (folder / runs.ORDER).write_bytes((trained / runs.ORDER).read_bytes())
    assert "has no report.json; finish the run first" in refused(
        capsys, tmp_path, "task=audit", f"release={folder}"
    )


# ------------------------------------------------------------------ a model of one's own


@pytest.fixture
def own(tmp_path):
    """An overfit model and the files of what it was trained on and what not: overrides that name them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (800, 8, 8), dtype=np.uint8)
    labels = rng.integers(0, 3, 800)
    for name, part in (("in", slice(300)), ("out", slice(300, 800))):
        np.savez(tmp_path / f"{name}.npz", images=images[part], labels=labels[part])
    torch.manual_seed(0)
    model = Mlp(shape=(1, 8, 8), num_classes=3, widths=(64,))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    inputs, targets = torch.from_numpy(images[:300])[:, None].float() / 255, torch.from_numpy(labels[:300])
    for _ in range(200):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(model.state_dict(), tmp_path / "mine.pt")
    return [
        "task=audit",
        f"release={tmp_path}/mine.pt",
        "model=mlp",
        "model.widths=[64]",
        "data=member_files",
        f"data.members={tmp_path}/in.npz",
        f"data.non_members={tmp_path}/out.npz",
        "data.classes=[a,b,c]",
        "evidence.probes=250",
    ]


def test_a_model_of_ones_own_is_told_to_leak_by_an_exit_code(own, tmp_path, capsys):
    """Random labels can only be learned by heart: the positive control of the membership attacks."""
    condition = 'fail_if=["leakage.membership.auc.low > 0.7"]'
    said = refused(
        capsys, tmp_path / "out", *own, "attack=[membership_loss]", condition, code=cli.BEYOND
    )  # fmt: skip
    assert "leakage.membership_loss.auc.low=" in said
    (report,) = (tmp_path / "out").glob("*/report.json")
    document = read_json(report)
    assert document["guarantee"]["sentence"].startswith("Nothing is proved: it is not known")
    assert all(line["bound"] is None and line["control"] is None for line in document["leakage"])


def test_an_attack_that_needs_our_own_training_is_refused_for_it(own, tmp_path, capsys):
    said = refused(capsys, tmp_path / "out", *own, "attack=[membership_lira,reconstruction_weights]")
    assert "attack=membership_lira needs shadows" in said
    assert "attack=reconstruction_weights needs slots" in said


def test_a_table_of_ones_own_is_audited_as_flat_inputs(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("in", "out"):
        np.savez(tmp_path / f"{name}.npz", inputs=rng.normal(size=(120, 5)), labels=rng.integers(0, 2, 120))
    torch.save(Mlp(shape=(5,), num_classes=2).state_dict(), tmp_path / "mine.pt")
    report = carry_out(
        tmp_path / "out", "task=audit", f"release={tmp_path}/mine.pt", "model=mlp", "data=member_files",
        f"data.members={tmp_path}/in.npz", f"data.non_members={tmp_path}/out.npz", "data.classes=[a,b]",
        "data.bounds=[-9,9]", "attack=[membership_loss]",
    )  # fmt: skip
    (area,) = report["leakage"]
    assert area["low"] < 0.5 < area["high"]
    assert "not chance" in area["notes"]


def test_a_model_with_batch_norm_is_audited_as_it_is(own, tmp_path):
    torch.save(normed_model((1, 8, 8), 3).state_dict(), tmp_path / "mine.pt")
    own = [*own, "model=own", "model._target_=test_audit.normed_model"]
    own = [override for override in own if override not in ("model=mlp", "model.widths=[64]")]
    report = carry_out(tmp_path / "out", *own, "attack=[membership_loss]")
    assert report["leakage"]


def normed_model(shape, num_classes):
    return nn.Sequential(nn.BatchNorm2d(shape[0]), nn.Flatten(), nn.Linear(64, num_classes))


def test_files_that_overlap_or_are_swapped_are_told(own, tmp_path, capsys):
    """Members of the one are among the non-members of the other; then each stands for the other."""
    inside, outside = np.load(tmp_path / "in.npz"), np.load(tmp_path / "out.npz")
    np.savez(
        tmp_path / "half.npz",
        **{name: np.concatenate([inside[name][:60], outside[name][:300]]) for name in ("images", "labels")},
    )
    report = carry_out(
        tmp_path / "out", *own, f"data.non_members={tmp_path}/half.npz", "attack=[membership_loss]"
    )
    told = "60 of the 360 non-members have the inputs of a member"
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert told in said
    assert all(told in line["notes"] for line in report["leakage"])
    assert any(told in note for note in report["data"]["notes"])
    assert report["leakage"][0]["low"] > 0.5
    swapped = [each for each in own if not each.startswith(("data.members", "data.non_members"))]
    files = (f"data.members={tmp_path}/out.npz", f"data.non_members={tmp_path}/in.npz")
    area, *_ = carry_out(tmp_path / "other", *swapped, *files, "attack=[membership_loss]")["leakage"]
    assert area["high"] < 0.5
    assert "may be swapped" in area["verdict"]


@pytest.mark.parametrize("damage", ["other", "text", "nan"])
def test_weights_that_do_not_fit_are_refused(own, tmp_path, capsys, damage):
    path = tmp_path / "mine.pt"
    if damage == "text":
        path.write_text("not weights")
    else:
        state = torch.load(path, weights_only=True)
        first = next(iter(state))
        state[first] = state[first] * float("nan") if damage == "nan" else state[first][:3]
        torch.save(state, path)
    why = {"other": "does not fit the model", "text": "cannot be read as weights", "nan": "is not finite"}
    assert why[damage] in refused(capsys, tmp_path / "out", *own, BY_QUERY)
