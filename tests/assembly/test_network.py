"""Networks as people write them: constructors of any kind, several outputs, and modules that fail."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import order
from torch import Tensor, nn

from dptrain.assembly.build import factory
from dptrain.assembly.model import make_model
from dptrain.assembly.network import check_network
from dptrain.config import parse
from dptrain.contracts import ConfigError, Splits, Streams

HERE = "test_network"


class Own(nn.Module):
    """It takes nothing that dptrain would know by name."""

    def __init__(self, hidden: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Tanh())
        self.head = nn.Linear(hidden, classes)

    def forward(self, inputs: Tensor) -> Any:
        return self.head(self.body(inputs))


class ByName(Own):
    def __init__(self, num_classes: int, *, hidden: int = 4) -> None:
        super().__init__(hidden, num_classes)


class ByShape(Own):
    def __init__(self, shape: tuple[int, ...], hidden: int = 4) -> None:
        assert shape == (1, 8, 8)
        super().__init__(hidden)


class PassedOn(ByName):
    def __init__(self, **others: Any) -> None:
        super().__init__(**others)


class Mapped(ByName):
    def forward(self, inputs: Tensor) -> Any:
        found = self.body(inputs)
        return OrderedDict(hidden=found, logits=self.head(found), attentions=None)


class Pair(ByName):
    def forward(self, inputs: Tensor) -> Any:
        return inputs, self.head(self.body(inputs))


class Named(ByName):
    def forward(self, inputs: Tensor) -> Any:
        pair = namedtuple("pair", "hidden logits")
        return pair(inputs, self.head(self.body(inputs)))


def made_by_a_function(**others: Any) -> nn.Module:
    return PassedOn(**others)


def no_network() -> int:
    return 3


def made(splits: Splits, target: str, **arguments: Any) -> nn.Module:
    node = {"_target_": target if "." in target else f"{HERE}.{target}", **arguments}
    check_network(node)
    config = replace(parse(order("tracking=none").config), model=node)
    return make_model(config, None, splits, Streams(0))


@pytest.mark.parametrize("target", ["Own", "ByName", "ByShape", "PassedOn", "made_by_a_function"])
def test_a_network_is_given_what_it_takes_and_what_its_node_says(splits: Splits, target: str) -> None:
    model = made(splits, target, hidden=6)
    assert model(splits.test.inputs).shape == (20, 3)
    assert model.network.head.in_features == 6
    again = made(splits, target, hidden=6)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_layers_are_listed_by_their_places(splits: Splits) -> None:
    layers = [{"_target_": "torch.nn.Flatten"}, {"_target_": "torch.nn.Linear", "in_features": 64}]
    layers[1] |= {"out_features": 3}
    assert made(splits, "torch.nn.Sequential", _args_=layers)(splits.test.inputs).shape == (20, 3)


def test_what_a_node_says_of_the_classes_is_checked_by_what_comes_out(splits: Splits) -> None:
    for target, arguments in (("Own", {"classes": 5}), ("ByName", {"num_classes": 5})):
        with pytest.raises(ConfigError, match=r"returns shape \(2, 5\).* must return logits \(2, 3\)"):
            made(splits, target, **arguments)


@pytest.mark.parametrize(
    ("target", "arguments", "said"),
    [
        ("Own", {"hiden": 3}, "`test_network.Own` has no such argument; did you mean hidden?"),
        ("PassedOn", {"hiden": 3}, "unexpected keyword argument 'hiden'"),
        ("no_network", {}, "makes no network but `int`"),
        ("Mapped", {}, "hidden (2, 4), logits (2, 3), attentions (NoneType)"),
        ("Mapped", {}, "+model._output_=logits"),
        ("Pair", {}, "0 (2, 1, 8, 8), 1 (2, 3); of two inputs one tensor (2, 3) is wanted"),
        ("Pair", {"_output_": None}, " model._output_=1"),
        ("Pair", {"_output_": 2}, "model._output_=2: `Pair` returns several outputs (tuple)"),
        ("Pair", {"_output_": True}, "model._output_=True must be the name of an output"),
        ("Mapped", {"_output_": "logit"}, "model._output_=logit: `Mapped` returns several outputs"),
        ("Mapped", {"_output_": "hidden"}, "returns shape (2, 4) for two inputs"),
    ],
)
def test_what_cannot_be_meant_is_said(
    splits: Splits, target: str, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        made(splits, target, **arguments)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("target", "output"),
    [("Mapped", "logits"), ("Mapped", 1), ("Pair", 1), ("Pair", -1), ("Named", "logits"), ("ByName", "any")],
)
def test_the_output_that_is_named_is_the_models(splits: Splits, target: str, output: str | int) -> None:
    model, plain = made(splits, target, _output_=output), made(splits, "ByName")
    torch.testing.assert_close(model(splits.test.inputs), plain(splits.test.inputs), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import not_installed_lib.sub", "needs the module `not_installed_lib`, which is missing"),
        ("raise ValueError('one\\ntwo\\nthree')", "(ValueError: one two three at broken.py:1)"),
        ("from json import nothing", "ImportError: cannot import name 'nothing' from 'json'"),
        ("def f(:", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("", "cannot be found (`broken` has no `Net`)"),
        (None, "cannot be found (there is no module `broken`)"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, said: str
) -> None:
    if source is not None:
        (tmp_path / "broken.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "broken", raising=False)
    with pytest.raises(ConfigError) as refused:
        factory("model", {"_target_": "broken.Net"}, given=())
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
