"""API keys: 256 random bits each, of which only an HMAC is kept; who may do what, until when, for whom."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from sqlalchemy import select

from dptrain.contracts import ConfigError
from dptrain.serving.store import Store
from dptrain.serving.tables import KEYS
from dptrain.storage import write_bytes

VARIABLE = "DPTRAIN_SERVER_SECRET"
IN_FILE = f"{VARIABLE}_FILE"  # the name of a file that it is in
SECRET = "secret"  # file in the service's folder
SCOPES = ("predict", "metrics", "admin")
PREFIX = "dpt"
FRESH_SECONDS = 1.0  # that what another process did to a key may be unknown here
DAY = 86400.0
MOST_DAYS = 36500  # that a key may last which expires
_TENANT = re.compile(r"[A-Za-z0-9][\w.-]{0,79}")
_SECRET = re.compile(r"[0-9a-f]{64,}")


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whoever asks: a key's id, which is no secret, and its tenant, whose keys share budgets."""

    key: str
    tenant: str
    scopes: frozenset[str]
    locked: str | None = None


ANYONE = Caller(key="anyone", tenant="anyone", scopes=frozenset({"predict", "metrics"}))


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What is kept of a key."""

    id: str
    digest: str
    tenant: str
    scopes: str
    made: float
    expires: float | None
    revoked: float | None
    locked: str | None

    def valid(self, now: float) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)

    @property
    def caller(self) -> Caller:
        scopes = frozenset(self.scopes.split())
        return Caller(key=self.id, tenant=self.tenant, scopes=scopes, locked=self.locked)


class Keys:
    """The keys of a service: made, told apart, rotated, revoked, locked."""

    def __init__(
        self,
        store: Store,
        secret: bytes,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` tells the date; `elapsed` how old a memory is, which no setting of clocks changes."""
        self._store, self._secret, self._clock, self._elapsed = store, secret, clock, elapsed
        self._known: dict[str, Stored] = {}
        self._read_at = -float("inf")
        self._lock = threading.Lock()
        # What an unknown key is compared with: nobody has the key that this would be the digest of.
        self._nobody = Stored(
            id="", digest=self._digest(secrets.token_hex(32)), tenant="", scopes="", made=0.0, expires=None,
            revoked=0.0, locked=None,
        )  # fmt: skip

    def make(self, *, tenant: str, scopes: Collection[str], days: float | None) -> str:
        """A new key, told this once and kept nowhere; raises ConfigError."""
        if not _TENANT.fullmatch(tenant):
            raise ConfigError(f"tenant={tenant} must be up to 80 letters, digits, dots and dashes")
        if not scopes or (unknown := sorted(set(scopes) - set(SCOPES))):
            named = ", ".join(unknown) if scopes else "none"
            raise ConfigError(f"scopes={named} is unknown; choose among {', '.join(SCOPES)}")
        if days is not None and not 0 < days <= MOST_DAYS:
            raise ConfigError(
                f"days={days:g} must be positive and at most {MOST_DAYS}, or left out for a key that does "
                "not expire"
            )
        now, name = self._clock(), secrets.token_hex(4)
        key = self._fresh(name)
        with self._store.writing() as connection:
            connection.execute(
                KEYS.insert().values(
                    id=name,
                    digest=self._digest(key),
                    tenant=tenant,
                    scopes=" ".join(sorted(scopes)),
                    made=now,
                    expires=None if days is None else now + days * DAY,
                )
            )
        self._forget()
        return key

    def rotate(self, name: str) -> str:
        """A new key in place of the one of this id, valid no more; it keeps id, tenant, budgets."""
        key = self._fresh(name)
        self._change(name, digest=self._digest(key))
        return key

    def revoke(self, name: str) -> None:
        """Make a key invalid for good."""
        self._change(name, revoked=self._clock())

    def lock(self, name: str, why: str | None) -> None:
        """Let a key ask nothing until it is unlocked, by None."""
        self._change(name, locked=why)

    def all(self) -> list[Stored]:
        """What is kept of every key, those made first coming first."""
        return [Stored(**row._mapping) for row in self._store.rows(select(KEYS).order_by(KEYS.c.made))]

    def caller(self, given: str) -> Caller | None:
        """Who gave this key; None where it is unknown, wrong, revoked or expired, all in the same time.

        One HMAC and one comparison in constant time, whatever was given.
        """
        digest = self._digest(given[:200])
        name = given[len(PREFIX) + 1 : len(PREFIX) + 9]
        kept = self._current().get(name, self._nobody)
        same = hmac.compare_digest(digest, kept.digest)
        valid = kept.valid(self._clock())  # asked of every key, so that none is told apart
        return kept.caller if same and valid else None

    def _fresh(self, name: str) -> str:
        return f"{PREFIX}_{name}_{secrets.token_urlsafe(32)}"

    def _digest(self, key: str) -> str:
        return hmac.new(self._secret, key.encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def _change(self, name: str, **values: object) -> None:
        if not (name.isascii() and name.isalnum()):  # which no id is, and no database may take
            raise ConfigError(f"id={name[:20]!a} is no key of this service; `list` shows their ids")
        with self._store.writing() as connection:
            found = connection.execute(KEYS.update().where(KEYS.c.id == name).values(**values)).rowcount
        self._forget()
        if not found:
            raise ConfigError(f"id={name[:20]} is no key of this service; `list` shows their ids")

    def _current(self) -> dict[str, Stored]:
        """All keys, at most a second old."""
        with self._lock:
            if self._elapsed() - self._read_at > FRESH_SECONDS:
                began = self._elapsed()
                self._known = {each.id: each for each in self.all()}
                self._read_at = began  # only now: where nothing can be read, no older keys are used
            return self._known

    def _forget(self) -> None:
        with self._lock:  # after a reading that is under way, which may lack what was just written
            self._read_at = -float("inf")


def server_secret(folder: Path) -> bytes:
    """The secret of this service: from the environment, a file, or its folder, where it is made at first use.

    Whoever has it can make valid keys; without it none of those that were made is valid.
    """
    given, named = os.environ.get(VARIABLE), os.environ.get(IN_FILE)
    path = Path(named) if named else folder / SECRET
    if given is None:
        try:
            if not named:
                _make_secret(path)
            given = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = type(error).__name__
            where = f"{IN_FILE}={named}" if named else f"the server's secret, {path},"
            raise ConfigError(
                f"{where} cannot be read ({why}); have {IN_FILE} name a file that holds the secret"
            ) from None
    if not _SECRET.fullmatch(given):
        raise ConfigError(
            f"the server's secret ({VARIABLE}, or else {path}) must be 64 hexadecimal digits or more; make "
            'one with `python -c "import secrets; print(secrets.token_hex(32))"`'
        )
    return bytes.fromhex(given) if len(given) % 2 == 0 else given.encode()


def _make_secret(path: Path) -> None:
    """Make the secret of a service where it has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{SECRET}.lock")):
        if not path.exists():
            write_bytes(secrets.token_hex(32).encode(), path, private=True, durable=True)
