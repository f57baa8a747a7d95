"""Passwords, tokens and keys: in no file, on no console, in no error, and yet where they are needed."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from mlflow_pages import serve
from omegaconf import OmegaConf
from support import QUICK, command, finish, order

from dptrain import redaction
from dptrain.cli import explain, start
from dptrain.cli import main as cli
from dptrain.cli.files import folder
from dptrain.config import defaults, schema
from dptrain.contracts import DptrainError
from dptrain.redaction import (
    MASK,
    VARIABLE,
    given_again,
    masked_keys,
    redact,
    redacted,
    revealed,
    withheld,
    withheld_arguments,
)
from dptrain.redaction.override_values import read
from dptrain.runs import folder as runs
from dptrain.sweep import state as sweeps
from dptrain.tracking import MLflow, connection, failure

pytestmark = pytest.mark.e2e

SECRET = "S3cretPw-7f"
LETTERS = st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="'\"<>@/\\ ")
PASSWORDS = st.text(LETTERS, min_size=6, max_size=20).filter(lambda text: any(c.isdigit() for c in text))
SMALL = ("attack=[]", "control.enabled=false", *QUICK, "performance.threads=1")


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """What a test gave is forgotten after it."""
    before = os.environ.pop(VARIABLE, None)
    yield
    os.environ.pop(VARIABLE, None)
    if before is not None:
        os.environ[VARIABLE] = before


# ------------------------------------------------------------------ what is a secret


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:hush1@host:5000", "http://***@host:5000"),
        ("https://ghp_token@host/x", "https://***@host/x"),
        ("http://me:p@ss/w@host/db", "http://***@host/db"),
        ("postgresql://u:p@h:5432/db?sslmode=require", "postgresql://***@h:5432/db?sslmode=require"),
        ("http://h/?sig=a%20b&x=1;token=c", "http://h/?sig=***&x=1;token=***"),
        ("tracking.uri=http://a:b@h1,http://c:d@h2", "tracking.uri=http://***@h1,http://***@h2"),
        ("+data.api_key=sk-123", "+data.api_key=***"),
        ("data={path: x, password: hunter2}", "data={path: x, password: ***}"),
        ("{'token': 'x y'}", "{'token': ***}"),
        ("Authorization: Basic bWU6aHVzaA==", "Authorization: Basic ***"),
        ("http://h/?pass=a1&pw=b2&jwt=c3&sig=d4&y=1", "http://h/?pass=***&pw=***&jwt=***&sig=***&y=1"),
        ("http://h/?password=a&b;c&x=1", "http://h/?password=***&x=1"),
        ("http://h/?next=http://g/?token=a1", "http://h/?next=http://g/?token=***"),
        ("+data.dsn=password=hunter2", "+data.dsn=password=***"),
        ("no 'host=x password=a1 user=me' there", "no 'host=x password=*** user=me' there"),
        ("password = 'a b;c' user = me", "password = *** user = me"),
        ("Server=x;Password=S3&zz,y;User=me", "Server=x;Password=***;User=me"),
        ("Password=S3 cret;Server=x", "Password=***;Server=x"),
        ("DRIVER={SQL};PWD={a;b};UID=me", "DRIVER={SQL};PWD=***;UID=me"),
        ("+data.password=Tr0ub4dor&3hunter: no value", "+data.password=***: no value"),
        ("+data.tokens=[a1,b2]: no such key", "+data.tokens=***: no such key"),
        ("data.token_2=abc data.accesstoken=abd", "data.token_2=*** data.accesstoken=***"),
        ("{'opts': {'b': 1}, 'tokens': ['a', 'b']}", "{'opts': {'b': 1}, 'tokens': ***}"),
    ],
)
def test_a_secret_is_struck_out(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown, "and stays so"


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me@x/mlflow.db",
        "http://host:5000/path?x=a@b",
        "file:///a@b",
        "data.split_key=/secrets/split.key",
        "model.pad_token=0 model.max_tokens=8 tokenizer=bert",
        "The seed of noise and sampling is secret, and their generator is a cryptographic one.",
        "| randomness: secret | yes |",
        "python -m dptrain recipe=medical_cnn privacy.epsilon=3 data.classes=[a,b]",
        "model.pad_tokens=[0,1] model.pad_token=-1",
        "data.password=${oc.env:DB_PASSWORD} data.path=a;b=c",
        "data.tokens=[***,***] data={token: ***, uri: http://h}",
    ],
)
def test_what_is_no_secret_is_left_as_it_is(text: str) -> None:
    assert redact(text) == text


@given(user=st.text(LETTERS.filter(lambda c: c not in "/?#:"), max_size=8), password=PASSWORDS)
def test_no_password_of_any_uri_is_left(user: str, password: str) -> None:
    for form in (password, quote(password, safe="")):
        for scheme in ("http", "postgresql+psycopg2"):
            uri = f"{scheme}://{user}:{form}@host.example:5000/db"
            if not form[0].isdigit():  # http://host:80/… is a port
                assert form not in redact(f"tracking.uri={uri} cannot be used (at {uri})")


@given(password=PASSWORDS.filter(lambda text: not text[0].isdigit()))
def test_what_is_withheld_is_found_where_it_is_used_and_nowhere_else(password: str) -> None:
    values = {"tracking": {"uri": f"http://me:{password}@h"}, "data": {"token": password, "list": ["a", 1]}}
    masked = withheld(values)
    assert password not in json.dumps(masked)
    assert revealed(masked) == values
    assert [key for key, _ in masked_keys(masked)] == ["tracking.uri", "data.token"]
    assert list(masked_keys(revealed(masked))) == []
    # known from now on, it is struck out wherever it stands
    assert password not in redact(f"password authentication failed: >{password}<")
    os.environ.pop(VARIABLE)
    assert revealed(masked) == masked


def test_secrets_of_the_environment_are_struck_out_and_other_variables_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "MY_TOKEN", "DB_PASS"):
        monkeypatch.setenv(name, f"{SECRET}{name[0]}")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "accuracy")
    monkeypatch.setenv("SOME_KEY", "test")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:{SECRET}x@h/db")
    said = redact("".join(f"<{SECRET}{letter}>" for letter in "MADx"))
    assert said == f"<{MASK}><{MASK}><{MASK}><{MASK}>"[: len(said)]
    assert SECRET not in said
    assert redact("test accuracy") == "test accuracy"


def test_a_secret_given_again_changes_nothing_else() -> None:
    stored = withheld({"tracking": {"uri": "http://me:hush1@h"}, "seed": 0})
    assert given_again(stored, redact("tracking.uri=http://me:hush2@h"))
    assert not given_again(stored, redact("tracking.uri=http://me:hush2@elsewhere"))
    assert not given_again(stored, "seed=0")


def test_values_of_every_kind_are_cleaned_and_numbers_are_left() -> None:
    found = redacted({"a": ["http://u:pw12@h", 1.5], "password": "x", "n": {"secret": True}, "t": (1, 2)})
    assert found == {"a": ["http://***@h", 1.5], "password": MASK, "n": {"secret": True}, "t": (1, 2)}


def test_an_exception_and_what_it_comes_from_are_cleansed() -> None:
    error = ValueError(f"no http://me:{SECRET}@h")
    error.__cause__ = OSError(2, f"http://me:{SECRET}@h")
    cleansed = redaction.cleansed(error)
    assert SECRET not in str(cleansed) + str(cleansed.__cause__)


def test_the_command_of_a_server_has_no_userinfo() -> None:
    assert MLflow(uri=f"http://me:{SECRET}@h:5000").command == "http://h:5000"
    assert SECRET not in MLflow(uri=f"postgresql://me:{SECRET}@h/db").command
    assert SECRET not in json.dumps(failure(redact(f"http://me:{SECRET}@h")))


# ------------------------------------------------------------------ words of the command line


def composed(word: str) -> dict[str, Any]:
    """The configuration that Hydra makes of one word, below `data`."""
    (parsed,) = OverridesParser.create().parse_overrides([word])
    config = OmegaConf.create()
    OmegaConf.update(config, parsed.key_or_group, parsed.value(), force_add=True)
    found: Any = OmegaConf.to_container(config, resolve=True)
    return {str(key): value for key, value in found.items()}


@pytest.mark.parametrize(
    ("word", "shown", "secrets"),
    [
        ("+data.tokens=[S3cretaaa1,S3cretbbb2]", "+data.tokens=***", ("S3cretaaa1", "S3cretbbb2")),
        ("+data.credentials={a: S3cretA, n: [1, S3cretB]}", "+data.credentials=***", ("S3cretA", "S3cretB")),
        (
            '+data.dsn="host=x password=S3cret1 user=me"',
            '+data.dsn="host=x password=*** user=me"',
            ("S3cret1",),
        ),
        (
            '+data.dsn="Server=x;Password=S3cret&zz;User=me"',
            '+data.dsn="Server=x;Password=***;User=me"',
            ("S3cret&zz",),
        ),
        (
            """+data.dsn='host=x password="S3 cret" user=me'""",
            '+data.dsn="host=x password=*** user=me"',
            ("S3 cret",),
        ),
        (
            '+data.url="http://h/?a=1&pass=S3cretq&b=2"',
            '+data.url="http://h/?a=1&pass=***&b=2"',
            ("S3cretq",),
        ),
        ("+data={path: x, o: {n: 1}, pw: S3cretq}", "+data={path: x, o: {n: 1}, pw: ***}", ("S3cretq",)),
        ("+data={path: x, tokens: [S3cretq, S3cretr]}", "+data={path: x, tokens: [***, ***]}", ("S3cretr",)),
        ("+data.uris=[http://u:S3cretq@h,http://u:S3cretr@h]", None, ("S3cretq", "S3cretr")),
        ("+data.uris=[http://u:S3c,ret@h]", "+data.uris=***", ("S3c,ret",)),
        ('+data.api_key="S3cre\\"t q"', "+data.api_key=***", ('S3cre"t q',)),
        ("+data.auth=Bearer S3cretq", "+data.auth=***", ("Bearer S3cretq",)),
        ("+data.password1=S3cretq", "+data.password1=***", ("S3cretq",)),
    ],
)
def test_a_word_is_stripped_of_its_secrets_and_means_what_it_meant(
    word: str, shown: str | None, secrets: tuple[str, ...]
) -> None:
    (masked,) = withheld_arguments([word])
    assert shown is None or masked == shown
    assert redact(masked) == masked
    assert withheld_arguments([masked]) == [masked], "and stays so"
    assert revealed(composed(masked)) == composed(word)
    said = redact(" ".join(f"<{secret}>" for secret in secrets))
    assert not [secret for secret in secrets if secret in masked + said], "known from now on"


ANY = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="$"))
QUOTABLE = st.tuples(ANY, st.characters(categories=["L", "N"]), ANY).map("".join)  # which says something


@given(QUOTABLE)
def test_nothing_of_what_stands_under_the_name_of_a_secret_is_shown(text: str) -> None:
    os.environ.pop(VARIABLE, None)
    quoted = explain.quoted("+data.password", text)
    for word in (f"+data.password={text}", quoted):
        if text.strip("'\" \\").lower() not in ("null", "none", "true", "false", ""):
            (masked,) = withheld_arguments([word])
            assert masked == f"+data.password={MASK}"
            key, _, shown = redact(word.replace("\n", " ")).partition("=")
            assert key == "+data.password"
            assert shown.lstrip().startswith(MASK) or "=" in text  # which within a text may compare, or give
            assert word != quoted or revealed(composed(masked)) == {"data": {"password": text}}


SHAPES = (
    "host=x password={} user=me",
    "Server=x;Password={};User=me",
    "http://me:{}@h/db",
    "http://h/?pw={}&x=1",
)


@given(password=PASSWORDS.filter(lambda t: not set(t) & set("$;&#?=[]{}*,") and t[0].isalpha()))
def test_no_password_within_a_quoted_text_is_shown(password: str) -> None:
    os.environ.pop(VARIABLE, None)
    for shape in SHAPES:
        word = explain.quoted("+data.dsn", shape.format(password))
        masked, other = withheld_arguments([word, explain.quoted("+data.note", f"say {password}!")])
        assert password not in masked + other, "in other words neither"
        assert revealed(composed(masked)) == composed(word)
        assert redact(masked) == masked


TEXTS = QUOTABLE.map(lambda text: explain.quoted("", text)[1:]) | st.sampled_from(["a", "b c", "1", "x.y"])
NODES = st.recursive(
    TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda node: "{" + ",".join(f"{key}: {item}" for key, item in node.items()) + "}"
        )
    ),
    max_leaves=6,
)


@given(NODES.filter(lambda text: text[0] in "[{"))
def test_values_are_read_as_hydra_reads_them(text: str) -> None:
    (parsed,) = OverridesParser.create().parse_overrides([f"+data.x={text}"])
    assert read(text, "data.x").values == [parsed.value()]


def test_a_secret_of_a_variable_is_read_before_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_MINE", "quietly")
    words = ['+data.dsn="host=x password=${oc.env:OF_MINE,S3cretq}"', "+data.token=${oc.env:NO_SUCH,S3cretr}"]
    for word in words:
        (masked,) = withheld_arguments([word])
        assert "S3cret" not in masked
        assert revealed(composed(masked)) == composed(word)
    asked = "+data.token=${oc.env:OF_MINE}"
    assert withheld_arguments([asked]) == [asked], "which holds none"


def test_lists_and_numbers_under_a_secret_s_name_are_withheld() -> None:
    values = {"data": {"tokens": ["S3cretq", "S3cretr"], "pin": 91827364, "max_tokens": 8, "auth": None}}
    masked = withheld(values)
    assert masked == {"data": {"tokens": [MASK, MASK], "pin": MASK, "max_tokens": 8, "auth": None}}
    assert revealed(masked) == values
    assert redact("S3cretq, S3cretr or 91827364, not 1918273645") == "***, *** or ***, not 1918273645"
    (word,) = withheld_arguments(["data.tokens=[S3cretq,S3cretr]"])
    assert given_again(masked, word)
    assert not given_again(masked, "data.max_tokens=8")


def test_no_key_of_ours_is_taken_for_a_secret_s() -> None:
    configs = [yaml.safe_load(path.read_text()) for top in ("conf", "recipes") for path in files(top)]
    assert len(configs) > 20
    for config in [defaults(), *configs]:
        assert redacted(config) == config
        assert [key for key in dotted(config) if redaction._secret(key)] == []
    classes = [each for each in vars(schema).values() if isinstance(each, type) and is_dataclass(each)]
    assert len(classes) > 5
    assert [field.name for each in classes for field in fields(each) if redaction._secret(field.name)] == []


def files(top: str) -> list[Path]:
    return sorted(folder(top).rglob("*.yaml"))


def dotted(node: Any, above: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{above}{key}"
        yield from dotted(value, f"{above}{key}.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("+data.password=Tr0ub4dor&3hunter",), "error +data.password=***: no value that can be read"),
        (("+data.password=Tr0ub4dor;3hunter",), "error +data.password=***: no value that can be read"),
        (("+data.password=Tr0ub4dor,3hunter",), "error +data.password=***: several values for one run"),
        (("-m", "+data.password=Tr0ub4dor,3hunter"), "error +data.password=***: several values of a secret"),
        (("-m", "a=http://u:Tr0ub4dor@h,http://u:3hunter@h"), "several values of a secret"),
        (("+data.tokens=[Tr0ub4dor,3hunter",), "error +data.tokens=***: no value that can be read"),
        (("+data.dsn=host=x;password=Tr0ub4dor&3hunter;x=1",), "+data.dsn=host=x;password=***;x=1: no value"),
        (("+data={password: Tr0ub,3hunter}",), "error +data=***: no value that can be read"),
        (("a=http://u:Tr0ub4dor@h,http://u:3hunter@i",), "a=http://***@h,http://***@i: several values"),
    ],
)
def test_no_refusal_shows_a_part_of_a_secret(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        start.check(words)
    told = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == cli.FAILED
    assert said in told
    assert "Tr0ub" not in told
    assert "hunter" not in told


def test_whoever_asks_what_is_wrong_with_a_word_is_told_without_its_secret() -> None:
    word = "+data.password=Tr0ub4dor&3hunter"
    with pytest.raises(HydraException) as refused:
        OverridesParser.create().parse_overrides([word])
    for said in (explain.unreadable(word), explain.explained(refused.value, [word], folder("conf"))):
        assert said.startswith("+data.password=***: no value that can be read")
        assert "hunter" not in said


@pytest.mark.parametrize("kept", ["[]", '{"a":1}', '{"a":[1]}', "1", "null", "{", '{"a":["S3cretq"]}'])
def test_whatever_stands_in_the_variable_of_secrets_nothing_breaks(
    monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    monkeypatch.setenv(VARIABLE, kept)
    assert redact("as it is") == "as it is"
    assert revealed({"a": MASK}) == {"a": "S3cretq" if "S3cretq" in kept else MASK}
    assert revealed(withheld({"b": {"password": SECRET}})) == {"b": {"password": SECRET}}


def test_the_folder_of_a_run_and_its_command_have_no_secret(tmp_path: Path) -> None:
    words = (
        "+data.tokens=[S3cretq1,S3cretq2]",
        '+data.dsn="Server=x;Password=S3cretq&zz;User=me"',
        "+data.note=of S3cretq1",
    )
    asked = order(*words)
    runs.start(tmp_path, asked)
    assert holding(tmp_path, "S3cretq") == holding(tmp_path, "zz") == []
    kept = runs.without_secrets(asked)
    assert "data.tokens=*** " in kept.command
    assert "S3cretq" not in kept.command
    assert revealed(kept.config) == asked.config


# ------------------------------------------------------------------ runs


def holding(folder: Path, secret: str = SECRET) -> list[Path]:
    """The files below a folder, databases and pickles too, that hold a secret."""
    held = [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    for path in folder.rglob("*.db"):
        with sqlite3.connect(path) as store:
            held += [path] if any(secret in line for line in store.iterdump()) else []
    return held


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """host:port of a tracking server, and the folder where it keeps all it is told."""
    top = tmp_path_factory.mktemp("server")
    with serve(f"sqlite:///{top}/store.db", top / "server.log") as address:
        yield address.removeprefix("http://").rstrip("/"), top


def unfinish(folder: Path) -> None:
    """As if the run had been killed before its first step."""
    for name in ("report.json", "ledger.json"):
        (folder / name).unlink()


def clean() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != VARIABLE}


@pytest.fixture(scope="module")
def tracked_run(server: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that was tracked with a password in the address: the folder it was started in, what it said."""
    top = tmp_path_factory.mktemp("tracked")
    asked = (f"tracking.uri=http://user:{SECRET}@{server[0]}", *SMALL, "report.card_measured=true")
    code, out, err = finish(command(*asked, cwd=top, env=clean()))
    assert code == 0, err
    return top, out + err


def test_a_run_leaves_no_secret(tracked_run: tuple[Path, str], server: tuple[str, Path]) -> None:
    top, said = tracked_run
    address, kept = server
    assert SECRET not in said
    assert f"http://{address}" in said, "where to look at it"
    (folder,) = (top / "runs").glob("*quickstart")
    assert f"tracking.uri=http://{MASK}@{address}" in (folder / "report.md").read_text()
    assert holding(top) == []
    assert holding(kept) == []


def test_a_resumed_run_asks_for_the_secret_again(
    tracked_run: tuple[Path, str], server: tuple[str, Path]
) -> None:
    top, _ = tracked_run
    unfinish(next((top / "runs").glob("*quickstart")))
    code, out, err = finish(command("resume=latest", cwd=top, env=clean()))
    assert code == cli.FAILED
    assert f"tracking.uri=http://{MASK}@{server[0]}: no file keeps its secret; give tracking.uri again" in err
    uri = f"tracking.uri=http://user:{SECRET}@{server[0]}"
    code, out, err = finish(command("resume=latest", uri, cwd=top, env=clean()))
    assert code == 0, err
    assert SECRET not in out + err
    assert holding(top) == []


def test_a_server_s_password_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DptrainError, match="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
        connection.complete(f"http://{MASK}@h:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    assert connection.complete(f"http://{MASK}@h:5000") == "http://h:5000"
    with pytest.raises(DptrainError, match=r"postgresql://\*\*\*@h/db: no file keeps its secret"):
        connection.complete(f"postgresql://{MASK}@h/db")


def test_a_sweep_leaves_none(tmp_path: Path, server: tuple[str, Path]) -> None:
    address, kept = server
    uri = f"tracking.uri=http://user:{SECRET}@{address}"
    asked = ("-m", "privacy.epsilon=1,3", "optimizer.lr=0.1", uri, *SMALL)
    code, out, err = finish(command(*asked, cwd=tmp_path, env=clean()))
    assert code == 0, err
    assert SECRET not in out + err
    (folder,) = (tmp_path / "runs").glob("sweep_*")
    assert (folder / "multirun.yaml").exists()
    assert (folder / "comparison.html").exists()
    assert holding(tmp_path) == []
    assert holding(kept) == []
    begun = [job for _, job in sweeps.jobs(folder)]
    assert len(begun) == 2
    for job in begun:  # found by its words, the secret aside
        asked_for = tuple(each.replace(MASK, f"user:{SECRET}") for each in job.overrides)
        assert sweeps.find(folder, replace(job, overrides=asked_for)) is not None


def test_secrets_of_a_yaml_file_stay_there(tmp_path: Path) -> None:
    (tmp_path / "own" / "tracking").mkdir(parents=True)
    (tmp_path / "own" / "tracking" / "closed.yaml").write_text(
        f"_target_: dptrain.tracking.MLflow\nuri: http://user:{SECRET}@127.0.0.1:9\n"
    )
    for words in ((), ("-m", "seed=1,2")):
        started = command("--config-dir=own", *words, "tracking=closed", *SMALL, cwd=tmp_path, env=clean())
        code, out, err = finish(started)
        assert code == cli.FAILED
        assert SECRET not in out + err
        assert f"tracking.uri=http://{MASK}@127.0.0.1:9 cannot be used" in err
    assert holding(tmp_path) == [tmp_path / "own" / "tracking" / "closed.yaml"]


def test_a_server_that_cannot_be_reached_is_told_without_the_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = order(f"tracking.uri=http://user:{SECRET}@127.0.0.1:9", f"output={tmp_path}/runs", *SMALL)
    with pytest.raises(SystemExit) as caught:
        cli.main(asked, None)
    said = capsys.readouterr()
    assert caught.value.code == cli.FAILED
    assert "cannot be used" in said.err
    assert SECRET not in said.out + said.err
    assert holding(tmp_path) == []


def test_an_audit_leaves_none(
    tmp_path: Path,
    server: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, kept = server
    uri = f"tracking.uri=http://user:{SECRET}@{address}"
    attack = "attack=[membership_loss]"
    monkeypatch.chdir(tmp_path)
    small = tuple(each for each in SMALL if not each.startswith("attack"))
    cli.main(order(attack, *small, "tracking=none"), None)
    cli.main(order("task=audit", "release=latest", attack, uri), None)
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert holding(tmp_path) == []
    assert holding(kept) == []


def test_an_exception_that_nobody_foresaw_is_cleansed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError(f"cannot connect to http://user:{SECRET}@h")

    monkeypatch.setattr(cli, "_carry_out", failing)
    with pytest.raises(RuntimeError) as caught:
        cli.main(order("tracking=none", f"output={tmp_path}/runs", *SMALL), None)
    assert SECRET not in str(caught.value)


def test_an_order_of_an_earlier_version_is_read_without_its_secret(tmp_path: Path) -> None:
    asked = order(f"tracking.uri=http://user:{SECRET}@h")
    (tmp_path / runs.ORDER).write_text(
        json.dumps({**asked.__dict__, "overrides": list(asked.overrides), "drawn": []})
    )
    found = runs.read(tmp_path)
    assert SECRET not in repr(found)
    assert revealed(found.config)["tracking"]["uri"] == f"http://user:{SECRET}@h"


def test_a_masked_value_that_nobody_can_fill_is_refused() -> None:
    with pytest.raises(DptrainError, match=r"data.root=\*\*\*@x: no file keeps its secret"):
        cli.parse({**order(*SMALL).config, "data": {"_target_": "x.Y", "root": f"{MASK}@x"}})
