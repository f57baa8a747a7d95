"""Attacks that were not shown what they look at, or that fail: what a report says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import QUICK, order

from dptrain.assembly.components import assemble
from dptrain.cli import main as cli
from dptrain.config import parse
from dptrain.contracts import ConfigError
from dptrain.report.document import read_json

pytestmark = pytest.mark.run

PARTS = '''
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from dptrain.contracts import Access, Scores
from dptrain.mechanisms.dpsgd import DPSGD

SEEN_BY_ALL = frozenset({Access.WEIGHTS, Access.CONFIDENCES, Access.LABELS})


@dataclass(frozen=True, kw_only=True)
class Blind(DPSGD):
    """Trains as DP-SGD does, and shows its steps to nobody."""

    def fit(self, model, splits, budget, context):
        return super().fit(model, splits, budget, replace(context, observers=()))


class EveryOther:
    def __init__(self, observer):
        self.observer = observer

    def observe(self, step):
        if step.step % 2:
            self.observer.observe(step)

    def state_dict(self):
        return self.observer.state_dict()

    def load_state_dict(self, state):
        self.observer.load_state_dict(state)


@dataclass(frozen=True, kw_only=True)
class HalfBlind(DPSGD):
    def fit(self, model, splits, budget, context):
        observers = tuple(EveryOther(each) for each in context.observers)
        return super().fit(model, splits, budget, replace(context, observers=observers))


@dataclass(frozen=True, kw_only=True)
class Closed(DPSGD):
    """Offers no transcript."""

    offers: ClassVar = SEEN_BY_ALL


@dataclass(frozen=True, kw_only=True)
class Unspoken:
    """Does not say what it offers."""

    settings: object

    def prepare(self, model, splits):
        return model

    def plan(self, splits, budget):
        return None

    def fit(self, model, splits, budget, context):
        raise AssertionError


@dataclass(frozen=True, kw_only=True)
class Crashing:
    """An attack that fails over a record, and says too much of it."""

    needs: ClassVar = frozenset({Access.CONFIDENCES})
    game: ClassVar = "membership"

    undefined: bool = False  # scores that are no numbers

    def run(self, release, targets, rng):
        if not self.undefined:
            raise ValueError("cannot use record 'Jane Roe' of [0.125, 0.250] at 4711")
        return Scores(scores=torch.full((len(targets.probes),), torch.nan))


class ShortSighted:
    """Fails where there is no noise."""

    def __init__(self):
        self.steps = 0

    def observe(self, step):
        self.steps += 1
        if step.noise_std == 0:
            raise IndexError("of a record")

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


@dataclass(frozen=True, kw_only=True)
class Watching:
    needs: ClassVar = frozenset({Access.TRANSCRIPT})
    game: ClassVar = "membership"

    def watch(self, targets):
        return ShortSighted()

    def run(self, release, targets, rng):
        assert release.transcript.steps == 3
        return Scores(scores=torch.arange(float(len(targets.probes))))


@dataclass(frozen=True, kw_only=True)
class Leaving:
    needs: ClassVar = frozenset({Access.CONFIDENCES})
    game: ClassVar = "membership"

    def run(self, release, targets, rng):
        raise SystemExit(0)
'''


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "odd_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in {
        "mechanism/blind.yaml": "_target_: odd_parts.Blind\n",
        "mechanism/half_blind.yaml": "_target_: odd_parts.HalfBlind\n",
        "mechanism/closed.yaml": "_target_: odd_parts.Closed\n",
        "mechanism/unspoken.yaml": "_target_: odd_parts.Unspoken\n",
        "attack/watching.yaml": "# @package attack.watching\n_target_: odd_parts.Watching\n",
        "attack/leaving.yaml": "# @package attack.leaving\n_target_: odd_parts.Leaving\n",
        "attack/crashing.yaml": "# @package attack.crashing\n_target_: odd_parts.Crashing\n",
        "attack/undefined.yaml": (
            "# @package attack.undefined\n_target_: odd_parts.Crashing\nundefined: true\n"
        ),
    }.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "conf"


def carry_out(tmp_path: Path, parts: Path, *overrides: str) -> tuple[dict[str, Any], Path]:
    """Carry out an order in this process; its report and its folder."""
    asked = order("tracking=none", f"output={tmp_path}/runs", *QUICK, *overrides, config_dir=parts)
    cli.main(asked, None)
    (path,) = (tmp_path / "runs").glob("*/report.json")
    return read_json(path), path.parent


WATCHING = "attack=[reconstruction_transcript,audit_canaries,audit_gradients]"


def test_a_mechanism_that_shows_no_step_is_not_said_to_resist(tmp_path: Path, parts: Path) -> None:
    report, folder = carry_out(tmp_path, parts, "mechanism=blind", WATCHING)
    verdicts = {line["attack"]: line["verdict"] for line in report["leakage"]}
    assert set(verdicts) == {"reconstruction_transcript", "audit_canaries", "audit_gradients"}
    assert set(verdicts.values()) == {"not shown: the training showed 0 of 3 steps"}
    text = (folder / "report.md").read_text()
    assert "esisted" not in text
    assert "the training showed 0 of 3 steps" in text


def test_one_that_shows_some_steps_says_how_many(tmp_path: Path, parts: Path) -> None:
    report, _ = carry_out(tmp_path, parts, "mechanism=half_blind", "attack=[reconstruction_transcript]")
    (line,) = report["leakage"]
    told = "the training showed 2 of 3 steps"
    if line["low"] > line["floor"]:  # by luck: what was found in two steps was found
        assert told in line["notes"]
    else:
        assert line["verdict"] == f"not shown: {told}"


def test_one_that_shows_all_is_judged_as_ever(tmp_path: Path, parts: Path) -> None:
    report, _ = carry_out(tmp_path, parts, "attack=[reconstruction_transcript,membership_loss]")
    assert all("showed" not in line["verdict"] + line["notes"] for line in report["leakage"])


@pytest.mark.parametrize("mechanism", ["closed", "blind"])
def test_what_is_not_offered_is_refused_before_training(
    tmp_path: Path, parts: Path, capsys: pytest.CaptureFixture[str], mechanism: str
) -> None:
    asked = order(
        "tracking=none", f"output={tmp_path}/runs", *QUICK, f"mechanism={mechanism}", WATCHING,
        "attack.audit_canaries.guesses=3", config_dir=parts,
    )  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        cli.main(asked, None)
    assert caught.value.code == cli.FAILED
    said = capsys.readouterr().err
    assert "guesses=3 must be an even number" in said, "all problems at once"
    refused = (
        "attack=reconstruction_transcript needs transcript, which mechanism `odd_parts.Closed` does not offer"
    )
    assert (refused in said) == (mechanism == "closed")
    assert not (tmp_path / "runs").exists()


def test_what_needs_no_transcript_attacks_a_mechanism_without_one(tmp_path: Path, parts: Path) -> None:
    report, _ = carry_out(tmp_path, parts, "mechanism=closed", "attack=[membership_loss]")
    assert report["leakage"]


def test_a_mechanism_must_say_what_it_offers(parts: Path) -> None:
    with pytest.raises(ConfigError, match=r"mechanism: `odd_parts.Unspoken` does not say what it offers"):
        assemble(parse(order(*QUICK, "mechanism=unspoken", config_dir=parts).config))


# ------------------------------------------------------------------ attacks that fail


def test_an_attack_that_fails_is_a_line_and_the_others_go_on(
    tmp_path: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, folder = carry_out(tmp_path, parts, "attack=[crashing,membership_loss,undefined]")
    assert {line["attack"] for line in report["leakage"]} == {"membership_loss"}
    crashed, undefined = report["not_run"]
    assert crashed["attack"] == "crashing"
    assert crashed["reason"].startswith("ValueError: cannot use record … of … at … (odd_parts.py, line ")
    assert undefined["attack"] == "undefined"
    assert report["guarantee"]["epsilon"] > 0
    said = capsys.readouterr().out
    assert "NOT RUN  crashing: not run: ValueError" in said
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in (".md", ".html", ".json"):
            assert "Jane Roe" not in path.read_text()
            assert "at 4711" not in path.read_text()
    for name in ("report.md", "report.html"):
        assert "crashing: not run: ValueError" in (folder / name).read_text()


@pytest.mark.parametrize(
    ("condition", "passes"),
    [
        ("leakage.crashing.low > 2", False),
        ("leakage.membership.low > 2", True),
        ("accuracy < -1", True),
    ],
)
def test_a_limit_on_an_attack_that_failed_is_exceeded(
    tmp_path: Path, parts: Path, capsys: pytest.CaptureFixture[str], condition: str, passes: bool
) -> None:
    asked = ("attack=[crashing,membership_loss]", "control.enabled=false", f'fail_if=["{condition}"]')
    if passes:
        carry_out(tmp_path, parts, *asked)
        return
    with pytest.raises(SystemExit) as caught:
        carry_out(tmp_path, parts, *asked)
    assert caught.value.code == cli.BEYOND
    assert "leakage.crashing is not known: the attack was not run" in capsys.readouterr().err


def test_a_limit_on_what_was_not_shown_is_exceeded(
    tmp_path: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        carry_out(
            tmp_path, parts, "mechanism=blind", "attack=[audit_canaries]", "control.enabled=false",
            'fail_if=["leakage.audit_canaries.low > bound"]',
        )  # fmt: skip
    assert caught.value.code == cli.BEYOND
    assert "the training showed 0 of 3 steps" in capsys.readouterr().err


def test_a_twin_that_cannot_be_trained_takes_the_control_and_no_more(tmp_path: Path, parts: Path) -> None:
    report, folder = carry_out(
        tmp_path,
        parts,
        "attack=[membership_loss]",
        "optimizer@control.optimizer=sgd",
        "+control.optimizer.weight_decay=1e30",
    )
    assert report["control"] is None
    (lost,) = report["not_run"]
    assert lost["attack"] == "control"
    assert "the control model: " in lost["reason"]
    assert report["leakage"]
    assert all(line["control"] is None for line in report["leakage"])
    assert json.loads((folder / "ledger.json").read_text())["steps"] == 3


def test_an_attack_that_fails_over_the_twin_has_no_control_and_one_that_leaves_is_not_run(
    tmp_path: Path, parts: Path
) -> None:
    report, _ = carry_out(tmp_path, parts, "attack=[watching,leaving]")
    lines = [line for line in report["leakage"] if line["attack"] == "watching"]
    assert lines
    for line in lines:
        assert line["control"] is None
        assert "no control: on the control model, IndexError: of a record" in line["notes"]
    assert [each["attack"] for each in report["not_run"]] == ["leaving"]
    assert report["control"] is not None, "the twin was trained, and what it can do is told"
    assert not list((tmp_path / "runs").glob("cache/twin_*.pt")), "and is not kept, as others need it whole"
