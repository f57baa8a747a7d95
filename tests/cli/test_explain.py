"""Hydra's refusals in our words: the word that is wrong, and its cure; exit code 2 and no traceback."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from dptrain import __main__ as program
from dptrain.cli import explain

pytestmark = pytest.mark.e2e


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and all that is printed, of the program started in this process with these words."""
    monkeypatch.setattr(sys, "argv", ["dptrain", *words])
    code = 0
    try:
        program.run()
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    return code, " ".join((out + err).split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("data=digit",),
            "data=digit: the group data has no digit; did you mean digits? choose one of adult, ",
        ),
        (("attack=[memberships_loss]",), "has no memberships_loss; did you mean membership_loss?"),
        (
            ("recipe=quickstat",),
            "did you mean quickstart? choose one of cifar10_pretrained",
        ),
        (("training.step=3",), "training.step=3: no such key; did you mean training.steps?"),
        (("~optimizer.momentu",), "~optimizer.momentu: no such key; did you mean optimizer.momentum?"),
        (("+optimizer.lr=1",), "+optimizer.lr=1: there is such a key already; leave out the +"),
        (("recipe",), "recipe: no key=value"),
        (("a..b=1",), "a..b=1: a..b is no key"),
        (("data=null", "seed=1"), "data=null: ValueError: Config group override must be"),
        (("model.channels.x=1",), "model.channels.x=1: ValueError"),
        (
            ("output=${oc.env:NOT_SET}", "--resolve"),
            "${oc.env:NOT_SET}: no such environment variable; set it",
        ),
        (("output=${nothing}", "--resolve"), "output=${nothing}: Interpolation key 'nothing' not found"),
        (("--config-dir=/no/such/folder",), "'/no/such/folder' not found"),
        (("--config-name=mine",), "--config-name=mine: no such file"),
        (
            ("data.path=/x/a (b), 'c' [d] = #e",),
            """quote it if it is a text: 'data.path="/x/a (b), '"'"'c'"'"' [d] = #e"'""",
        ),
        (("data.path=a,b.npz",), """or quote a text: 'data.path="a,b.npz"'"""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_hydra_refuses_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code, text = told(monkeypatch, capsys, "--cfg", "job", *words)
    assert code == 2
    assert said in text
    assert "Traceback" not in text


def test_all_that_must_be_given_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = told(monkeypatch, capsys, "data=tabular", "output=~/x")
    assert code == 2
    assert "data.target=??? must be given; add data.target=..." in text
    assert "data.path=??? must be given; add data.path=..." in text


def test_hydras_own_words_are_there_for_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["dptrain", "--cfg", "job", "data=digit"])
    with pytest.raises(OSError, match="Could not find 'data/digit'"):
        program.run()


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_a_quoted_text_is_read_as_it_is(text: str) -> None:
    (word,) = shlex.split(shlex.quote(explain.quoted("data.path", text)))
    (parsed,) = OverridesParser.create().parse_overrides([word])
    read = parsed.value()
    assert (re.sub(r"(\\*)\$\{", lambda m: m[1][: len(m[1]) // 2] + "${", str(read))) == text


def test_the_home_folder_is_meant_by_a_tilde() -> None:
    home = Path.home()
    assert explain.expanded(["data.path=~/a.npz", "~optimizer.lr", "--config-dir=~/c", "seed=1"]) == [
        f"data.path={home}/a.npz", "~optimizer.lr", "seed=1", f"--config-dir={home}/c",
    ]  # fmt: skip
    assert explain.expanded(["data.path=~/a (b)"]) == [f'data.path="{home}/a (b)"']


def test_options_may_stand_between_overrides() -> None:
    def parsed_from(words: str) -> Any:
        return get_args_parser().parse_args(explain.expanded(words.split()))

    parsed = parsed_from("recipe=quickstart -m privacy.epsilon=1,3 -cn config ~optimizer.lr --info seed=1")
    assert parsed.overrides == ["recipe=quickstart", "privacy.epsilon=1,3", "~optimizer.lr", "seed=1"]
    assert (parsed.multirun, parsed.config_name, parsed.info) == (True, "config", "all")
    parsed = parsed_from("--info defaults -m seed=1 --cfg job")
    assert (parsed.overrides, parsed.info, parsed.cfg) == (["seed=1"], "defaults", "job")


def test_versions_and_recipes_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = told(monkeypatch, capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"dptrain \d[\w.+]* \(torch \d[\w.+]*, opacus \d[\w.+]*, mlflow \d[\w.+]*\)", text)
    code, text = told(monkeypatch, capsys, "recipe=")
    assert code == 0
    assert "quickstart Handwritten digits (scikit-learn's, bundled)" in text
