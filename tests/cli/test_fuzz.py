"""Whatever the command line says, a run stops at its plan or with a sentence: exit code 0 or 2, no traceback.

DPTRAIN_FUZZ is how many command lines are tried (300; the full search is 2,000).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NoReturn

import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support import order

from dptrain.cli import explain, start
from dptrain.cli import main as cli
from dptrain.cli.files import folder
from dptrain.cli.hydra import plain
from dptrain.contracts import ConfigError
from dptrain.data.digits import Digits
from dptrain.mechanisms import dpsgd
from dptrain.pipeline import train
from dptrain.runs.folder import Order

pytestmark = pytest.mark.run

EXAMPLES = int(os.environ.get("DPTRAIN_FUZZ", "300"))
BASE = order("tracking=none", recipe="quickstart").config
PLAIN = (
    "0", "1", "-1", "2", "3", "7", "0.5", "0.9", "-0.5", "1.5", "1e-300", "1e30", "1e400", "nan", "inf",
    "null", "true", "false", "abc", "1000000000000000000000000000000", "-1000000000000000000000000000000",
    "[1]", "[1,2]", "[]", "{}", "''", "torch.optim.Adam", "weights", "group", "shuffle", "relu", "cosine",
)  # fmt: skip
ODD = (
    "", "[a,b]", "[[1]]", "[null]", "[nan]", "{a:1}", "{_target_:1}", "{_target_:no.such}", "0x10", "1_000",
    "{_target_:torch.nn.Tanh}", "${output}", "${nothing}", "${oc.env:NO}", "${", "[1", "{a:", "a=b", "a b",
    "#", "'", '"x"', "ä", "~", "~/x", "\\", "1,2", "range(3)", "int(x)", "[privacy.epsilon > 1]", "???",
    "epsilon > 1", "(x)", "../up", "os.getcwd", "dptrain", '"${x}"', "'a,b'", "torch.nn.Linear",
)  # fmt: skip


def keys(node: Any, above: str = "") -> Iterator[str]:
    """Every dotted key, of sections too."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{above}{key}"
        yield from keys(value, f"{above}{key}.")


KEYS = sorted(keys(BASE))
GROUPS = {path.name for path in folder("conf").iterdir() if path.is_dir()} | {"recipe"}
WORDS = st.builds(
    lambda sign, key, more, value: f"{sign}{key}{more}={value}",
    st.sampled_from([*[""] * 15, "+", "++", "~"]),
    st.sampled_from(KEYS),
    st.sampled_from([*[""] * 20, "x", ".x", ".0", "."]),
    st.one_of(*3 * [st.sampled_from(PLAIN)], st.sampled_from(ODD), st.text(max_size=4)),
)
LINES = st.lists(WORDS | st.sampled_from(KEYS), min_size=1, max_size=2)


def quickly(words: Sequence[str]) -> Order:
    """What these words ask for, of the configuration composed already."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
        config = copy.deepcopy(base())
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
    except Exception as error:
        raise ConfigError(explain.explained(error, words, folder("conf"))) from error
    return Order(recipe="quickstart", overrides=tuple(words), config=plain(config, words))


@cache
def base() -> Any:
    config = OmegaConf.create(BASE)
    OmegaConf.set_struct(config, True)
    return config


@pytest.fixture(scope="module", autouse=True)
def stopped_at_the_plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The records are read once, the model is tried no further, and nothing is trained."""

    def stop(*_: Any) -> NoReturn:
        raise SystemExit(0)

    load, dependence = Digits.load, dpsgd.refuse_dependence
    tried, read = set(), {}

    def once(model: Any, *others: Any) -> None:
        if str(model) not in tried:
            dependence(model, *others)
            tried.add(str(model))

    def digits(source: Digits, rng: torch.Generator) -> Any:
        if repr(source) not in read:
            read[repr(source)] = load(source, rng)
        return read[repr(source)]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fuzz"))
        patch.setattr(train, "begin_with", stop)
        patch.setattr(dpsgd, "refuse_dependence", once)
        patch.setattr(Digits, "load", digits)
        patch.setattr(explain, "_composed", lambda *_: BASE)
        yield


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 300, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(LINES)
def test_a_command_line_stops_at_the_plan_or_with_a_sentence(words: list[str]) -> None:
    code = 0
    try:
        words = explain.expanded(words)
        start.check(words)
        cli.main(quickly(words), None)
    except SystemExit as ended:
        code = ended.code
    except ConfigError:  # which the program says as it says its other errors
        code = 2
    finally:
        torch.set_num_threads(1)
    assert code in (0, 2)
