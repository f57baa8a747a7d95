"""PATE: trained, stated, attacked beside noiseless votes, resumed without paying twice."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from support import order

from dptrain.assembly.components import assemble
from dptrain.assembly.records import declare_public, load_splits
from dptrain.assembly.values import make_streams
from dptrain.cli import main as cli
from dptrain.config import parse
from dptrain.contracts import Budget, ConfigError, Context, DptrainError, Release, Splits
from dptrain.mechanisms import pate
from dptrain.mechanisms.pate import PATE
from dptrain.models.mlp import Mlp
from dptrain.pipeline import cache_keys, verify
from dptrain.privacy.votes import VotesPlan
from dptrain.report.document import read_json
from dptrain.report.statement_schema import schema
from dptrain.runs import folder as runs
from dptrain.runs.cache import without_privacy
from dptrain.tracking import NullRun
from dptrain.training import answers

ASKED = (
    "mechanism=pate",
    "mechanism.teachers=30",
    "mechanism.questions=40",
    "mechanism.student_steps=60",
    "mechanism.student_batch=128",
    "data.holdout_fraction=0.35",
    "mechanism.public_from_holdout=0.7",
    "model=logistic",
    "attack=[membership_loss]",
    "privacy.epsilon=8",
    "performance.threads=1",
    "performance.estimate=false",
)
BUDGET = Budget(epsilon=8.0, delta=1e-4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    here = tmp_path_factory.mktemp("pate")
    with redirect_stdout(io.StringIO()):
        cli.main(order(*ASKED, f"output={here}/runs", "tracking=none"), None)
    (report,) = (here / "runs").glob(f"*/{runs.REPORT}")
    return report.parent


@pytest.fixture(scope="module")
def splits() -> Splits:
    config = parse(order(*ASKED).config)
    parts, streams = assemble(config), make_streams(config)
    return declare_public(load_splits(parts.source, streams), parts.mechanism, streams)


@pytest.fixture
def mechanism() -> PATE:
    found = assemble(parse(order(*ASKED).config)).mechanism
    assert isinstance(found, PATE)
    return found


def context(folder: Path | None, *, deterministic: bool = False) -> Context:
    streams = replace(make_streams(parse(order(*ASKED).config)), deterministic=deterministic)
    return Context(streams=streams, tracker=NullRun(), device=torch.device("cpu"), folder=folder)


def network(splits: Splits) -> Mlp:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Mlp(splits.shape, splits.num_classes, widths=())


def same(one: Release, other: Release) -> bool:
    assert one.weights is not None
    assert other.weights is not None
    return all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())


# ---------------------------------------------------------------------- the run


@pytest.mark.run
def test_it_learns_and_states_a_data_independent_epsilon(finished: Path) -> None:
    report = read_json(finished / runs.REPORT)
    stated = report["guarantee"]
    assert report["utility"]["accuracy"] > 0.6
    assert 7.9 < stated["epsilon"] <= 8.0
    rows = dict(stated["plan"])
    assert rows["accounting"].startswith("data-independent")
    assert rows["teachers"] == "30 on disjoint parts, by a keyed hash of each unit"
    assert stated["randomness"]["draws"] == 40 * 10
    assert (finished / runs.WEIGHTS).exists()


@pytest.mark.run
def test_held_out_records_that_are_declared_public_are_named_and_not_measured_on(finished: Path) -> None:
    report = read_json(finished / runs.REPORT)
    (public,) = report["guarantee"]["public_data"]
    assert "held-out records" in public
    assert "mechanism.public_from_holdout=0.7" in public
    counts = report["counts"]
    assert counts["set_aside"]["public"] > 300
    assert counts["holdout"] < counts["set_aside"]["public"]
    for name in ("report.md", "model_card.md", "report.html"):
        text = (finished / name).read_text()
        assert "mechanism.public_from_holdout=0.7" in text, name
        assert "keyed hash of each unit" in text, name
        assert "sum of gradients" not in text, name
        assert "sampling" not in text.replace("noise and sampling", "").replace("Noise and sampling", ""), (
            name
        )
    document = json.loads((finished / "statement.json").read_text())
    assert list(Draft202012Validator(schema()).iter_errors(document)) == []


@pytest.mark.run
def test_it_is_attacked_beside_noiseless_votes(finished: Path) -> None:
    report = read_json(finished / runs.REPORT)
    assert report["not_run"] == []
    assert report["control"] is not None
    for line in report["leakage"]:
        assert line["control"] is not None
        if line["bound"] is not None:
            assert line["low"] <= line["bound"]


@pytest.mark.run
def test_it_is_verified(finished: Path) -> None:
    _, checks = verify.run(parse(order("task=verify", f"release={finished}").config))
    assert [each.name for each in checks if each.holds is False] == []


@pytest.mark.run
def test_answers_are_private_to_their_owner(finished: Path) -> None:
    assert stat.S_IMODE((finished / answers.ANSWERS).stat().st_mode) == 0o600


# ---------------------------------------------------------------------- paying once


def test_a_run_that_is_killed_after_it_paid_goes_on_with_the_same_answers(
    tmp_path: Path, splits: Splits, mechanism: PATE, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    model = network(splits)
    with monkeypatch.context() as patch:
        patch.setattr(pate, "fit_student", killed)
        with pytest.raises(KeyboardInterrupt):
            mechanism.fit(model, splits, BUDGET, context(tmp_path))
    paid = (tmp_path / answers.ANSWERS).read_bytes()
    for name in ("noisy_counts", "votes"):  # neither noise nor votes a second time
        monkeypatch.setattr(pate, name, killed)
    first, _ = mechanism.fit(network(splits), splits, BUDGET, context(tmp_path))
    second, _ = mechanism.fit(network(splits), splits, BUDGET, context(tmp_path))
    assert (tmp_path / answers.ANSWERS).read_bytes() == paid
    assert same(first, second)


def test_a_run_that_is_killed_before_its_answers_are_kept_has_shown_nothing(
    tmp_path: Path, splits: Splits, mechanism: PATE, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    model = network(splits)
    with monkeypatch.context() as patch:
        patch.setattr(pate, "keep", killed)
        patch.setattr(pate, "fit_student", lambda *_, **__: used.append("answers"))
        with pytest.raises(KeyboardInterrupt):
            mechanism.fit(model, splits, BUDGET, context(tmp_path))
    assert used == []
    assert list(tmp_path.iterdir()) == []
    (tmp_path / f".{answers.ANSWERS}.abc").write_bytes(b"half")
    mechanism.fit(network(splits), splits, BUDGET, context(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [answers.ANSWERS]


def test_answers_of_another_plan_or_of_other_inputs_are_refused(
    tmp_path: Path, splits: Splits, mechanism: PATE
) -> None:
    mechanism.fit(network(splits), splits, BUDGET, context(tmp_path))
    with pytest.raises(DptrainError, match=r"begun under another plan .noise_multiplier="):
        mechanism.fit(network(splits), splits, replace(BUDGET, epsilon=2.0), context(tmp_path))
    assert splits.public is not None
    other = replace(splits, public=splits.public.take(torch.arange(100, len(splits.public))))
    with pytest.raises(DptrainError, match="other public inputs would be asked about"):
        mechanism.fit(network(splits), other, BUDGET, context(tmp_path))
    (tmp_path / answers.ANSWERS).write_bytes(b"damaged")
    with pytest.raises(DptrainError, match="are paid for are lost"):
        mechanism.fit(network(splits), splits, BUDGET, context(tmp_path))


def test_the_seed_voids_the_guarantee_of_a_deterministic_run(splits: Splits, mechanism: PATE) -> None:
    one, guarantee = mechanism.fit(network(splits), splits, BUDGET, context(None, deterministic=True))
    other, _ = mechanism.fit(network(splits), splits, BUDGET, context(None, deterministic=True))
    assert same(one, other)
    assert guarantee.statement().void


def test_labels_of_public_inputs_have_no_say(splits: Splits, mechanism: PATE) -> None:
    assert splits.public is not None
    wrong = replace(splits, public=splits.public.labelled((splits.public.labels + 1) % 10))
    one, _ = mechanism.fit(network(splits), splits, BUDGET, context(None, deterministic=True))
    other, _ = mechanism.fit(network(splits), wrong, BUDGET, context(None, deterministic=True))
    assert same(one, other)


# ---------------------------------------------------------------------- the control, and what is refused


def test_its_control_is_itself_without_noise(splits: Splits) -> None:
    control = assemble(parse(order(*ASKED).config)).control
    assert isinstance(control, PATE)
    assert control.plan(splits, BUDGET) is None
    _, guarantee = control.fit(network(splits), splits, BUDGET, context(None))
    assert not guarantee.statement().private


def test_its_control_is_kept_apart_from_that_of_a_training() -> None:
    recipe = cache_keys.recipe(parse(order(*ASKED).config))
    assert without_privacy(recipe, own=True)["mechanism"]["teachers"] == 30
    assert "mechanism" not in without_privacy(recipe)


def test_one_held_out_record_more_or_less_leaves_the_others_public_or_not(mechanism: PATE) -> None:
    config = parse(order(*ASKED).config)
    parts, streams = assemble(config), make_streams(config)
    whole = load_splits(parts.source, streams)
    fewer = replace(whole, holdout=whole.holdout.take(torch.arange(1, len(whole.holdout))))
    found = [declare_public(each, mechanism, streams).public for each in (whole, fewer)]
    digests = [{tuple(row) for row in each.digests().tolist()} for each in found if each is not None]
    assert digests[1] <= digests[0]
    assert len(digests[0]) - len(digests[1]) <= 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"public": None}, r"mechanism=pate asks about public inputs, .*public_from_holdout=0.8"),
        ({"few": 30}, r"mechanism.questions=40 needs at least 42 public inputs, and there are 30"),
    ],
)
def test_without_enough_public_inputs_it_is_refused_before_anything_is_spent(
    splits: Splits, mechanism: PATE, changed: dict[str, Any], said: str
) -> None:
    assert splits.public is not None
    public = splits.public.take(torch.arange(changed["few"])) if "few" in changed else None
    with pytest.raises(ConfigError, match=said):
        mechanism.plan(replace(splits, public=public), BUDGET)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mechanism.answers=5",), "mechanism.answers=5 needs mechanism.threshold"),
        (("mechanism.answers=50", "mechanism.threshold=0.6"), "mechanism.answers=50 is more than"),
        (("attack=[audit_canaries]",), "attack=audit_canaries needs transcript, which mechanism"),
    ],
)
def test_what_cannot_be_is_refused_with_its_cure(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        assemble(parse(order(*ASKED, *words).config))


def test_a_confident_threshold_is_planned_and_answered(splits: Splits, mechanism: PATE) -> None:
    confident = replace(mechanism, threshold=0.5, answers=20)
    plan = confident.plan(splits, BUDGET)
    assert isinstance(plan, VotesPlan)
    assert plan.threshold == 15.0
    release, guarantee = confident.fit(network(splits), splits, BUDGET, context(None))
    assert guarantee.epsilon() <= 8.0
    assert release.published[0][1] > 0.2


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
