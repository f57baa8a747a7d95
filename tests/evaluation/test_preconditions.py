"""What attacks ask of the data is found before anything is spent on a training, all of it at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import QUICK, order

from dptrain.assembly.components import Parts
from dptrain.attacks.attribute_inference import AttributeInference
from dptrain.attacks.canary_audit import CanaryAudit
from dptrain.attacks.class_inversion import ClassInversion
from dptrain.attacks.gradient_audit import GradientAudit
from dptrain.attacks.lira import Lira
from dptrain.attacks.membership import LossBets, LossThreshold
from dptrain.attacks.rmia import Rmia
from dptrain.cli import main as cli
from dptrain.config import Evidence
from dptrain.contracts import Budget, Canaries, ConfigError, Records, Splits
from dptrain.evaluation import preconditions
from dptrain.evaluation.assignment import Assignments
from dptrain.evaluation.games.attribute.game import AttributeInference as AttributeGame
from dptrain.evaluation.games.audit.canaries import AuditOfCanaries, CanaryAssignment
from dptrain.evaluation.games.audit.records import AuditOfRecords
from dptrain.evaluation.games.class_inversion.evaluator import train_evaluator
from dptrain.evaluation.games.class_inversion.game import ClassInversion as InversionGame
from dptrain.evaluation.games.membership.game import Membership
from dptrain.evidence.probes import ProbeAssignment
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.tasks.classification import measure_utility
from dptrain.tracking import NoTracking

EVIDENCE = Evidence()
GAMES = {
    "membership": Membership(evidence=EVIDENCE),
    "attribute": AttributeGame(evidence=EVIDENCE),
    "audit_records": AuditOfRecords(evidence=EVIDENCE),
    "audit_canaries": AuditOfCanaries(evidence=EVIDENCE),
    "class_inversion": InversionGame(evidence=EVIDENCE, evaluator_steps=3),
}
BUDGET = Budget(epsilon=None, delta=1e-5, noise_multiplier=1.0)


@pytest.fixture
def checked(splits, settings_of):
    """Check these attacks on the splits of the tests, some of them changed."""

    def run(attacks, *, data=splits, members=None, canaries=None, rates=None, asked=("attack",), **changes):
        settings = settings_of(rates=rates or {})
        plain = NonPrivate(settings=settings)
        parts = Parts(
            source=None, mechanism=DPSGD(settings=settings), plain=plain, control=plain, attacks=attacks,
            games=GAMES, tracking=NoTracking(),
        )  # fmt: skip
        members = torch.arange(20) % 2 == 0 if members is None else members
        probes = ProbeAssignment(
            probes=splits.train.take(torch.arange(20)),
            members=members,
            positions=tuple(range(60 - int(members.sum()), 60)),
            mislabelled=torch.zeros(20, dtype=torch.bool),
            origin=("",) * 20,
        )
        canary_assignment = None
        if canaries:
            canary_assignment = CanaryAssignment(
                canaries=Canaries(coordinates=torch.arange(canaries), norm=1.0),
                members=torch.arange(canaries) % 2 == 0,
            )
        assigned = {"probes": probes} | ({"canaries": canary_assignment} if canary_assignment else {})
        assignments = Assignments(drawn=assigned)
        return preconditions.check(
            parts, replace(data, **changes), assignments, BUDGET, evidence=EVIDENCE, asked=asked
        )

    return run


def without(records: Records, label: int) -> Records:
    return records.take((records.labels != label).nonzero().flatten())


def test_what_can_be_judged_passes(checked):
    checked(
        {
            "class_inversion": ClassInversion(), "membership_loss": LossThreshold(), "rmia": Rmia(),
            "audit_losses": LossBets(guesses=20), "audit_gradients": GradientAudit(guesses=20),
            "audit_canaries": CanaryAudit(guesses=40), "lira": Lira(private_shadows=True),
        },
        canaries=40,
    )  # fmt: skip


@pytest.mark.parametrize("part", ["train", "holdout"])
def test_a_class_that_is_missing(checked, splits, part):
    with pytest.raises(ConfigError, match=r"attack=inversion: the \w+ records hold none of class 'c'"):
        checked({"inversion": ClassInversion()}, **{part: without(getattr(splits, part), 2)})
    checked({"membership_loss": LossThreshold()}, **{part: without(getattr(splits, part), 2)})


@pytest.mark.parametrize("part", ["holdout", "test"])
def test_a_split_without_records(checked, splits, part):
    with pytest.raises(ConfigError, match=f"has no {part} records"):
        checked({}, **{part: splits.test.take(torch.tensor([], dtype=torch.int64))})


def test_one_test_record(checked, splits):
    with pytest.raises(ConfigError, match="1 test records are too few to judge class inversion"):
        checked({"inversion": ClassInversion()}, test=splits.test.take(torch.tensor([0])))


@pytest.mark.parametrize("inside", [True, False])
def test_probes_that_all_fell_alike(checked, inside):
    with pytest.raises(ConfigError, match=r"attack=loss: of the 20 probes (20|0) are trained on"):
        checked({"loss": LossThreshold()}, members=torch.full((20,), inside))


@pytest.mark.parametrize(
    ("attack", "there"),
    [(LossBets(guesses=22), "20 probes"), (GradientAudit(guesses=22), "20 probes"),
     (CanaryAudit(guesses=42), "40 canaries")],
)  # fmt: skip
def test_more_bets_than_there_is_to_bet_on(checked, attack, there):
    with pytest.raises(ConfigError, match=f"attack.it.guesses=[24]2 is more than the {there}"):
        checked({"it": attack}, canaries=40)


def test_fewer_records_than_folds(checked, splits):
    with pytest.raises(ConfigError, match=r"attack.it.folds=5 is more than the 4 held-out records"):
        checked({"it": AttributeInference()}, holdout=splits.holdout.take(torch.arange(4)))


@pytest.mark.parametrize("attack", [Lira(), Rmia(), Rmia(private_shadows=True)])
def test_shadow_models_with_too_few_records(checked, attack):
    """60 records serve a batch of 60, and 50 + 10 do; with more members among the probes they would not."""
    checked({"it": attack}, rates={"expected_batch_size": 60})
    with pytest.raises(ConfigError, match=r"attack=it: its shadow models, of 55 units each"):
        checked({"it": attack}, rates={"expected_batch_size": 60}, members=torch.arange(20) < 15)


def test_all_problems_are_told_at_once(checked, splits):
    with pytest.raises(ConfigError) as caught:
        checked(
            {"inversion": ClassInversion(), "bets": LossBets(guesses=22)},
            holdout=without(splits.holdout, 2),
            test=splits.test.take(torch.tensor([0])),
        )
    assert len(str(caught.value).splitlines()) == 3


def test_what_nobody_asked_for_is_left_out_with_the_reason(checked, splits):
    attacks = {"inversion": ClassInversion(), "bets": LossBets(guesses=22), "losses": LossThreshold()}
    few = {"holdout": without(splits.holdout, 2)}
    left_out = checked(attacks, asked=("training.steps", "evidence.slots"), **few)
    assert list(left_out) == ["inversion", "bets"]
    assert left_out["inversion"].startswith("the holdout records hold none of class 'c'")
    assert "leave the attack out" not in left_out["inversion"]
    for asked in ("attack.inversion.steps", "attack"):
        with pytest.raises(ConfigError, match=r"attack=inversion: the holdout .* or leave the attack out"):
            checked(attacks, asked=(asked,), **few)
    with pytest.raises(ConfigError, match=r"attack\.bets\.guesses=22"):
        checked(attacks, asked=("evidence.probes",))


def test_a_run_is_refused_before_it_pays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)

    def some(count: int, classes: int):
        labels = np.arange(count) % classes
        return (rng.random((count, 8, 8)) * 120 + labels[:, None, None] * 40).astype(np.uint8), labels

    (x, y), (vx, vy) = some(400, 3), some(60, 2)
    np.savez(tmp_path / "data.npz", train_images=x, train_labels=y, val_images=vx, val_labels=vy)
    asked = order(
        "tracking=none", f"output={tmp_path}/runs", "data=npz", f"data.path={tmp_path}/data.npz",
        "data.classes=[a,b,c]", "attack=[membership_loss,class_inversion]", "evidence.probes=40", *QUICK,
        "training.expected_batch_size=64",
    )  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        cli.main(asked, None)
    assert caught.value.code == cli.FAILED
    assert "the holdout records hold none of class 'c'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists(), "nothing was begun, so nothing was spent"


# ------------------------------------------------------------------ what can be mended need not be refused


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_the_evaluator_judges_images_of_any_size(splits: Splits, rng: torch.Generator, side: int) -> None:
    small = {
        part: Records(getattr(splits, part).inputs[..., :side, :side], getattr(splits, part).labels)
        for part in ("train", "holdout", "test")
    }
    judge = train_evaluator(replace(splits, **small), rng, steps=2)
    assert judge.classify(small["test"].inputs).shape == (20,)


def test_utility_is_told_where_answers_are_no_numbers_and_where_a_class_is_alone(splits: Splits) -> None:
    right = torch.nn.functional.one_hot(splits.test.labels, 3).float()
    assert (
        measure_utility(right, splits.test.labels, confidence=0.95, names=splits.classes).accuracy.value
        == 1.0
    )
    broken = right.clone()
    broken[0] = torch.nan
    found = measure_utility(broken, splits.test.labels, confidence=0.95, names=splits.classes)
    assert found.accuracy.value == 0.95
    assert np.isnan(found.auroc.value)
    alone = splits.test.take((splits.test.labels == 0).nonzero().flatten())
    certain = torch.tensor([[1.0, 0, 0]] * len(alone))
    only = measure_utility(certain, alone.labels, confidence=0.95, names=splits.classes)
    assert only.accuracy.value == 1.0
    assert np.isnan(only.auroc.value)
