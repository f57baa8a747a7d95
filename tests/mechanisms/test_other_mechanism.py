"""A recipe with another mechanism than its own: what does not apply is left out, and said."""

from __future__ import annotations

from typing import Any

import pytest
from support import order

from dptrain.assembly.components import assemble
from dptrain.assembly.left_out import without_what_does_not_apply
from dptrain.config import parse
from dptrain.contracts import ConfigError


def applied(recipe: str, *words: str) -> tuple[dict[str, Any], list[str]]:
    asked = order(*words, recipe=recipe)
    return without_what_does_not_apply(asked.config, asked.asked)


@pytest.mark.parametrize(
    "mechanism",
    [
        "dpsgd",
        "banded",
        "preconditioned",
        "sufficient_statistics",
        "objective_perturbation",
        "pate",
        "private_prediction",
        "non_private",
    ],
)
@pytest.mark.parametrize("recipe", ["quickstart", "medical_scatter", "mnist_statistics", "mnist_pate"])
def test_every_recipe_goes_with_every_mechanism(recipe: str, mechanism: str) -> None:
    config, said = applied(recipe, f"mechanism={mechanism}")
    assert set(assemble(parse(config)).attacks) == set(config["attack"])
    assert all("mechanism" in sentence for sentence in said)


def test_what_is_left_out_is_said() -> None:
    config, said = applied("medical_scatter", "mechanism=sufficient_statistics")
    assert "max_grad_norm" not in config["mechanism"]
    assert said[0] == "mechanism.max_grad_norm=0.1: of the recipe's own mechanism, and not of this one"
    assert any("attack=audit_canaries needs transcript" in sentence for sentence in said)


@pytest.mark.parametrize(
    "words", ["attack=[membership_loss]", "attack=[]", "attack=[class_inversion,membership_rmia]"]
)
def test_settings_of_attacks_that_were_not_asked_for_are_left_out(words: str) -> None:
    """recipe=medical_scatter sets the number of shadow models of one of its own attacks."""
    config, said = applied("medical_scatter", words)
    assert set(assemble(parse(config)).attacks) == set(words.partition("=")[2].strip("[]").split(",")) - {""}
    left = "attack.membership_rmia.shadows=16: of the recipe's own attacks, and not of these"
    assert said == ([] if "rmia" in words else [left])


def test_settings_that_were_typed_of_an_attack_that_was_not_asked_for_are_refused() -> None:
    config, _ = applied("medical_scatter", "attack=[membership_loss]", "attack.membership_rmia.shadows=4")
    with pytest.raises(ConfigError, match=r"attack\.membership_rmia: the node names no class"):
        parse(config)


def test_correlated_noise_says_why_its_steps_are_not_shown() -> None:
    config, said = applied("quickstart", "mechanism=banded")
    assert "audit_canaries" not in config["attack"]
    assert any("its noise is correlated over the steps" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["mechanism=pate", "+mechanism.max_grad_norm=1"], r"mechanism\.max_grad_norm=1.*no such argument"),
        (["mechanism=pate", "attack=[audit_canaries]"], "attack=audit_canaries needs transcript"),
    ],
)
def test_what_was_asked_for_is_refused_where_it_does_not_apply(words: list[str], refused: str) -> None:
    with pytest.raises(ConfigError, match=refused):
        assemble(parse(applied("quickstart", *words)[0]))


def test_a_recipe_with_its_own_mechanism_is_as_it_was() -> None:
    asked = order("mechanism=dpsgd", recipe="medical_scatter")
    config, said = without_what_does_not_apply(asked.config, asked.asked)
    assert config == asked.config
    assert said == []
