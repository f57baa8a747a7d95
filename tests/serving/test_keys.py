"""Keys: made, told apart in constant time, rotated, revoked, expired; and the command for it."""

from __future__ import annotations

import stat
import statistics
import time

import pytest
from services import SECRET

from dptrain.cli import keys as command
from dptrain.contracts import ConfigError
from dptrain.serving.keys import SECRET as SECRET_FILE
from dptrain.serving.keys import VARIABLE, Keys, server_secret
from dptrain.serving.store import FILE, Store


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


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tenant": "a b"}, "tenant=a b must be"),
        ({"scopes": ["root"]}, "scopes=root is unknown"),
        ({"scopes": []}, "scopes=none"),
        ({"days": 0}, "days=0 must be positive"),
    ],
)
def test_what_is_no_key_is_refused(store, wrong, said):
    with pytest.raises(ConfigError, match=said):
        Keys(store, SECRET).make(**{"tenant": "ward", "scopes": ["predict"], "days": None, **wrong})


def test_unknown_and_wrong_keys_cost_the_same_steps(store, monkeypatch):
    """One HMAC and one comparison for each, whatever was given; and no time apart that trials can tell."""
    keys = Keys(store, SECRET)
    key = keys.make(tenant="ward", scopes=["predict"], days=None)
    wrong, unknown = key[:-4] + "AAAA", "dpt_00000000_" + key[13:]
    counted: list[str] = []
    from dptrain.serving import keys as module

    real = module.hmac.compare_digest
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: counted.append("=") or real(a, b))
    for given in (wrong, unknown, "", "x"):
        counted.clear()
        assert keys.caller(given) is None
        assert counted == ["="]
    monkeypatch.undo()
    keys.caller(wrong)
    seconds: dict[str, list[float]] = {wrong: [], unknown: []}
    for _ in range(3000):
        for given, times in seconds.items():
            began = time.perf_counter()
            keys.caller(given)
            times.append(time.perf_counter() - began)
    one, other = (statistics.median(times) for times in seconds.values())
    # An HMAC takes microseconds: what would tell is a step that only one of them takes.
    assert max(one, other) / min(one, other) < 1.5


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
