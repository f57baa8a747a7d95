"""What changes the loss is in the keys of what is kept, in the hashes of a statement, and in its words."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from support import QUICK, order

from dptrain.assembly.components import assemble
from dptrain.cli import main as cli
from dptrain.config import Config, parse
from dptrain.contracts import Splits
from dptrain.pipeline import cache_keys
from dptrain.pipeline.summary import constants
from dptrain.report.document import read_json
from dptrain.runs import binding
from dptrain.runs.cache import without_privacy

pytestmark = pytest.mark.run


@cache
def _config(*words: str) -> Config:
    return parse(order(*words).config)


@pytest.mark.parametrize(
    "words",
    [
        ("regulariser=[label_smoothing]",),
        ("regulariser=[negative_label_smoothing]",),
        ("regulariser=[label_smoothing]", "regulariser.label_smoothing.amount=0.2"),
        ("regulariser=[dropout]",),
        ("regulariser=[early_stopping]",),
    ],
)
def test_models_with_and_without_share_no_key_and_no_hash(words: tuple[str, ...]) -> None:
    with_it, without = _config(*words), _config()
    for own in (False, True):
        one, other = (without_privacy(cache_keys.recipe(each), own=own) for each in (with_it, without))
        assert one != other, "control and shadow models would be those of another training"
    assert binding.config_digests(with_it) != binding.config_digests(without)


def test_a_run_from_before_there_were_regularisers_keeps_its_hash() -> None:
    assert "regulariser" not in binding.config_digests(_config())
    assert "regulariser" in binding.config_digests(_config("regulariser=[mix_up]"))


def test_control_and_target_have_the_same_loss() -> None:
    parts = assemble(_config("regulariser=[label_smoothing,early_stopping]"))
    for mechanism in (parts.mechanism, parts.control):
        settings = mechanism.settings  # type: ignore[union-attr]
        assert [*settings.regularisers] == ["label_smoothing"]
        assert settings.early_stopping == "loss"


def test_the_statement_names_them_among_its_constants(splits: Splits) -> None:
    declared = constants(_config("regulariser=[label_smoothing]"), splits, None, units_public=True).declared
    assert "regulariser.label_smoothing" in declared
    assert "regulariser.label_smoothing" not in constants(_config(), splits, None, units_public=True).declared


def test_a_run_with_several_says_what_looked_at_held_out_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*QUICK, "tracking=none", "control.enabled=false", "attack=[membership_loss]"]
    asked = ["regulariser=[dropout,label_smoothing,early_stopping,weight_decay,smaller]", *words]
    cli.main(order(*asked), None)
    (path,) = tmp_path.glob("runs/*/report.json")
    stated = read_json(path)["guarantee"]
    assert stated["epsilon"] <= 3.0
    assert any("held-out records chose which of" in each for each in stated["outside_guarantee"])
    assert "regulariser.label_smoothing" in stated["constants"]["declared"]


def test_an_unknown_amount_is_refused_by_name() -> None:
    asked = order("regulariser=[label_smoothing]", "regulariser.label_smoothing.amount=1.5")
    with pytest.raises(Exception, match=r"regulariser\.label_smoothing\.amount=1\.5"):
        assemble(parse(asked.config))


def test_they_may_be_drawn_in_a_private_selection() -> None:
    asked = order("regulariser=[label_smoothing]")
    sweep = {**asked.config["sweep"], "candidates": {"regulariser.label_smoothing.amount": [0.0, 0.1]}}
    parse({**asked.config, "sweep": sweep})
