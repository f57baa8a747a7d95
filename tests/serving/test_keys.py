"""Keys: made, told apart in constant time, rotated, revoked, expired; and the command for it."""

from __future__ import annotations

import gc
import stat
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from unittest import mock

import pytest
from services import SECRET

from dptrain.cli import keys as command
from dptrain.contracts import ConfigError
from dptrain.serving.keys import IN_FILE, VARIABLE, Keys, server_secret
from dptrain.serving.keys import SECRET as SECRET_FILE
from dptrain.serving.store import FILE, Store
from dptrain.serving.tables import KEYS


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path)
    yield made
    made.close()


def test_only_the_very_key_is_known(store):
    keys = Keys(store, SECRET)
    key = keys.make(tenant="ward", scopes=["predict"], days=None)
    caller = keys.caller(key)
    assert caller is not None
    assert (caller.tenant, caller.scopes) == ("ward", {"predict"})
    other = keys.make(tenant="ward", scopes=["predict"], days=None)
    for wrong in ("", "dpt", key[:-1], key + "x", key[:13] + other[13:], key.upper(), "ü" * 300):
        assert keys.caller(wrong) is None, wrong
    assert Keys(store, b"another secret of the server").caller(key) is None


def test_the_key_itself_is_kept_nowhere(store, tmp_path):
    key = Keys(store, SECRET).make(tenant="ward", scopes=["predict"], days=None)
    secret = key.split("_", 2)[2]
    assert len(secret) == 43  # 256 bits
    for path in tmp_path.iterdir():
        assert secret.encode() not in path.read_bytes()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_keys_expire_are_revoked_locked_and_rotated(store):
    clock = Clock()
    keys = Keys(store, SECRET, clock)
    key = keys.make(tenant="ward", scopes=["predict"], days=1)
    caller = keys.caller(key)
    keys.lock(caller.key, "probing")
    assert keys.caller(key).locked == "probing"
    keys.lock(caller.key, None)
    fresh = keys.rotate(caller.key)
    assert keys.caller(key) is None
    assert keys.caller(fresh) == caller
    clock.now += 86399
    assert keys.caller(fresh) == caller
    clock.now += 1
    assert keys.caller(fresh) is None
    later = keys.make(tenant="ward", scopes=["predict"], days=None)
    keys.revoke(keys.caller(later).key)
    assert keys.caller(later) is None


def test_what_another_process_did_is_known_within_a_second(store):
    clock, elapsed = Clock(), Clock()
    keys, others = (Keys(store, SECRET, clock, elapsed) for _ in range(2))
    key = keys.make(tenant="ward", scopes=["predict"], days=None)
    assert others.caller(key) is not None
    keys.revoke(others.caller(key).key)
    clock.now -= 500  # set back, as clocks are
    elapsed.now += 1.01
    assert others.caller(key) is None


@pytest.mark.parametrize("name", ["", "nobody", "\udcff", "a\0b", "x" * 100_000])
def test_an_id_that_no_key_has_is_refused(store, name):
    keys = Keys(store, SECRET)
    for change in (keys.rotate, keys.revoke, partial(keys.lock, why="by hand")):
        with pytest.raises(ConfigError, match="is no key of this service") as refused:
            change(name)
        assert len(str(refused.value)) < 200


def test_a_key_is_not_known_from_before_while_the_database_is_away(store):
    elapsed = Clock()
    keys = Keys(store, SECRET, elapsed=elapsed)
    key = keys.make(tenant="ward", scopes=["predict"], days=None)
    assert keys.caller(key) is not None
    elapsed.now += 1.01
    with mock.patch.object(store, "reading", side_effect=OSError):
        for _ in range(2):
            with pytest.raises(OSError):  # noqa: PT011
                keys.caller(key)
    assert keys.caller(key) is not None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tenant": "a b"}, "tenant=a b must be"),
        ({"scopes": ["root"]}, "scopes=root is unknown"),
        ({"scopes": []}, "scopes=none"),
        ({"days": 0}, "days=0 must be positive"),
        ({"days": float("nan")}, "days=nan must be"),
        ({"days": 36500.5}, "and at most 36500"),
    ],
)
def test_what_is_no_key_is_refused(store, wrong, said):
    with pytest.raises(ConfigError, match=said):
        Keys(store, SECRET).make(**{"tenant": "ward", "scopes": ["predict"], "days": None, **wrong})


def steps(work: Callable[[], object]) -> list[str]:
    """Every function that is called and every line that is run, in order."""
    found: list[str] = []

    def line(frame, event, _):
        found.append(f"{event} {frame.f_code.co_qualname} {frame.f_lineno}")
        return line

    def call(_, event, function):
        if event == "c_call":
            found.append(f"{event} {function.__qualname__}")

    before = sys.gettrace(), sys.getprofile()
    gc.disable()  # what it collects is not of this work
    sys.settrace(line)
    sys.setprofile(call)
    try:
        work()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
        gc.enable()
    return found


def test_unknown_wrong_revoked_and_expired_keys_take_the_same_steps(store):
    """Line by line and call by call, over many keys: the work does not depend on why one is refused."""
    keys = Keys(store, SECRET, elapsed=lambda: 0.0)
    kinds: dict[str, list[str]] = {name: [] for name in ("unknown", "wrong", "revoked", "expired", "none")}
    for number in range(30):
        key, other, gone, late = (keys.make(tenant="ward", scopes=["predict"], days=1) for _ in range(4))
        keys.revoke(gone.split("_")[1])
        with store.writing() as connection:
            connection.execute(KEYS.update().where(KEYS.c.id == late.split("_")[1]).values(expires=1.0))
        kinds["wrong"] += [key[:-4] + "AAAA", other[:12] + key[12:]]
        kinds["unknown"].append(f"dpt_{number:08x}_{key[13:]}")
        kinds["revoked"] += [gone, gone[:-4] + "AAAA"]
        kinds["expired"] += [late, late[:-4] + "AAAA"]
        kinds["none"] += ["", "x" * 60, "dpt_"]
    keys.caller(key)  # reads the keys, which is done once a second, whoever asks
    taken = {
        name: Counter(tuple(steps(partial(keys.caller, each))) for each in given)
        for name, given in kinds.items()
    }
    assert all(keys.caller(each) is None for given in kinds.values() for each in given)
    ways = {way for found in taken.values() for way in found}
    assert len(ways) == 1
    (way,) = ways
    assert sum("compare_digest" in each for each in way) == 1


def test_no_key_a_wrong_one_and_one_without_the_scope(website):
    with website() as site:
        keys = site.service.keys
        operator = keys.make(tenant="ops", scopes=["metrics"], days=None)
        answers = [site.ask({}, key=key) for key in ("", "dpt_00000000_" + "A" * 43, site.key[:-1])]
        assert {each.status_code for each in answers} == {401}
        assert len({each.text for each in answers}) == 1
        assert answers[0].headers["www-authenticate"] == "Bearer"
        assert site.ask({}, key=operator).status_code == 403
        mine = site.get("/v1/key").json()
        assert mine["tenant"] == "ward"
        keys.lock(mine["key"], "by hand")
        assert site.ask({}).status_code == 403


def test_the_key_is_asked_for_before_the_body_is_read(website):
    with website(body_bytes=10) as site:
        assert site.ask(b"x" * 60000, key="").status_code == 401


def test_the_secret_of_the_server(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    made = server_secret(tmp_path)
    assert len(made) == 32
    assert server_secret(tmp_path) == made
    assert stat.S_IMODE((tmp_path / SECRET_FILE).stat().st_mode) == 0o600
    monkeypatch.setenv(VARIABLE, "ab" * 32)
    assert server_secret(tmp_path) == bytes.fromhex("ab" * 32)
    monkeypatch.setenv(VARIABLE, "hush")
    with pytest.raises(ConfigError, match="64 hexadecimal digits") as caught:
        server_secret(tmp_path)
    assert "hush" not in str(caught.value)
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv(IN_FILE, str(tmp_path / "there"))
    with pytest.raises(ConfigError, match=r"DPTRAIN_SERVER_SECRET_FILE=.*there cannot be read"):
        server_secret(tmp_path)
    (tmp_path / "there").write_text("cd" * 32 + "\n")
    assert server_secret(tmp_path) == bytes.fromhex("cd" * 32)


@pytest.mark.parametrize("named", [False, True])
def test_a_secret_that_cannot_be_read_is_refused(tmp_path, monkeypatch, named):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(IN_FILE, raising=False)
    if named:
        monkeypatch.setenv(IN_FILE, str(tmp_path / SECRET_FILE))
    (tmp_path / SECRET_FILE).write_bytes(b"\xff" * 64)
    with pytest.raises(ConfigError, match=r"secret cannot be read|secret, cannot be read"):
        server_secret(tmp_path)
    (tmp_path / SECRET_FILE).unlink()
    (tmp_path / SECRET_FILE).mkdir()
    with pytest.raises(ConfigError, match=r"cannot be read \(IsADirectoryError\)"):
        server_secret(tmp_path)


def test_the_command(tmp_path, capsys):
    def run(*words: str, code: int = 0) -> str:
        assert command.main(["--folder", str(tmp_path), *words]) == code
        captured = capsys.readouterr()
        return (captured.err if code else captured.out).strip()

    key = run("make", "--tenant", "ward", "--days", "3")
    name = key.split("_")[1]
    listed = run("list")
    assert "ward" in listed
    assert "valid until" in listed
    assert key.split("_", 2)[2] not in listed
    fresh = run("rotate", name)
    assert fresh != key
    run("lock", name)
    assert "locked (by hand)" in run("list")
    run("unlock", name)
    run("revoke", name)
    assert "revoked" in run("list")
    assert "id=nobody is no key" in run("revoke", "nobody", code=command.FAILED)
    assert "days=inf must be" in run("make", "--tenant", "ward", "--days", "inf", code=command.FAILED)
