"""Keeps passwords, tokens and keys out of everything that is written or shown.

What was asked for is stripped of its secrets where it comes in (`withheld`); they are kept in this process's
environment alone, where the jobs that it starts find them too, and put back where a component is built
(`revealed`). Whatever leaves, files, console, errors, tracker, passes through `redact`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

MASK = "***"
VARIABLE = "DPTRAIN_SECRETS"  # of the environment: what was withheld, by dotted key, as JSON
ANYWHERE = "*"  # for a secret of which no key is known
# Letters of a secret that is looked for wherever it may stand, and of one that looks like a common word.
SHORTEST, SHORTEST_WORD = 5, 8

SECRET_WORDS = frozenset({
    "password", "passwd", "pwd", "passphrase", "passcode", "secret", "secrets", "token", "credential",
    "credentials", "apikey",
})  # fmt: skip
ENDINGS = ("password", "passwd", "passphrase", "secret", "apikey")  # of words run together: sslpassword
# A key by itself is a dictionary's, such as data.split_key; these are locks'.
OF_KEYS = frozenset({
    "access", "account", "api", "auth", "encryption", "license", "master", "private", "secret", "service",
    "shared",
})  # fmt: skip
IN_QUERIES = SECRET_WORDS | {"auth", "authorization", "code", "key", "sig", "signature"}
IN_ENVIRONMENT = SECRET_WORDS | {"key", "pass", "pw"}
PLACES = frozenset({"PWD", "OLDPWD", VARIABLE})  # variables that are no secrets, or handled by themselves
PLAIN = frozenset({"", "null", "none", "true", "false", MASK})

_USERINFO = re.compile(
    # With a password, up to the last @: whoever typed it need not have quoted what it holds.
    r"(?<=://)(?:[^\s'\"<>/?#:@]*:(?!\d+(?:[/?#]|$))(?:(?!://)[^\s'\"<>])*@|[^\s'\"<>/?#@]+@)"
)
_QUERY = re.compile(r"(?<=[?&;])([\w.\-\[\]%]+)=([^&;#\s'\"<>]+)")
_GIVEN = re.compile(r"(?<![\w?&;])([+~]*[A-Za-z_][\w.\-]*)=(\"[^\"]*\"|'[^']*'|[^\s,;&{}\[\]]+)")
_NODE = re.compile(r"\{[^{}]*\}")
_MAPPED = re.compile(r"(['\"]?)([A-Za-z_][\w.\-]*)\1(\s*:\s*)(\"[^\"]+\"|'[^']+'|[^\s,{}\[\]'\"]+)")
_HEADER = re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer)\s+)[^\s'\"]+")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def redact(text: str) -> str:
    """A text without its secrets: userinfo of URIs, values under telling names, and those that are known.

    >>> redact("tracking.uri=http://me:hush@host:5000/?token=abc1")
    'tracking.uri=http://***@host:5000/?token=***'
    >>> redact("data.split_key=split.key model.max_tokens=8")
    'data.split_key=split.key model.max_tokens=8'
    """
    text = _USERINFO.sub(f"{MASK}@", text)
    text = _QUERY.sub(lambda m: m[0] if not _names(m[1], IN_QUERIES) else f"{m[1]}={MASK}", text)
    text = _HEADER.sub(rf"\g<1>{MASK}", text)
    text = _GIVEN.sub(lambda m: m[0] if _public(m[1], m[2]) else f"{m[1]}={MASK}", text)
    text = _NODE.sub(lambda node: _MAPPED.sub(_mapped, node[0]), text)
    for secret in _known():
        found = re.escape(secret)
        text = re.sub(rf"(?<!\w){found}(?!\w)" if _is_word(secret) else found, MASK, text)
    return text


def _mapped(entry: re.Match[str]) -> str:
    quote, name, colon, value = entry.groups()
    return entry[0] if _public(name, value) else f"{quote}{name}{quote}{colon}{MASK}"


def redacted(value: Any, name: str = "") -> Any:
    """The same value, redacted wherever texts are in it: mappings, sequences, dataclasses."""
    if isinstance(value, str):
        return MASK if name and not _public(name, value) else redact(value)
    if isinstance(value, Mapping):
        return {redacted(key): redacted(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [redacted(item, name) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(items) if type(value) in (list, tuple) else items
    if is_dataclass(value) and not isinstance(value, type):
        before = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
        changed = {key: new for key, old in before.items() if (new := redacted(old)) is not old}
        return replace(value, **changed) if changed else value
    return value


def cleansed(error: BaseException) -> BaseException:
    """The exception, and those it comes from, with their texts redacted: a traceback shows all of them."""
    each: BaseException | None = error
    met: list[BaseException] = []
    while each is not None and each not in met:
        met.append(each)
        each.args = tuple(redacted(argument) for argument in each.args)
        for name in ("strerror", "message"):  # which OSError and MLflow tell, and not their arguments
            if isinstance(text := getattr(each, name, None), str):
                setattr(each, name, redact(text))
        each = each.__cause__ or each.__context__
    return error


# ------------------------------------------------------------------ on the way in, and where it is used


def withheld_arguments(arguments: Sequence[str]) -> list[str]:
    """Words of a command line without their secrets, which are kept for this process and its children."""
    return [_withheld_argument(word) for word in arguments]


def withheld(values: Any, key: str = "") -> Any:
    """A configuration without its secrets, which are kept for this process and its children."""
    if isinstance(values, Mapping):
        return {name: withheld(item, f"{key}.{name}" if key else str(name)) for name, item in values.items()}
    if isinstance(values, list | tuple):
        return [withheld(item, key) for item in values]
    if isinstance(values, str) and (masked := redacted(values, key)) != values:
        _keep(key, values)
        return masked
    return values


def revealed(values: Any, key: str = "") -> Any:
    """A configuration with what was withheld of it; what nobody gave to this process stays masked."""
    if isinstance(values, Mapping):
        return {name: revealed(item, f"{key}.{name}" if key else str(name)) for name, item in values.items()}
    if isinstance(values, list | tuple):
        return [revealed(item, key) for item in values]
    if isinstance(values, str) and MASK in values:
        kept = _kept()
        for candidate in [*reversed(kept.get(key, [])), *reversed(kept.get(ANYWHERE, []))]:
            if redacted(candidate, key) == values:
                return candidate
    return values


def masked_keys(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The dotted keys of a configuration whose values still lack a secret, and these values."""
    if isinstance(values, Mapping):
        for name, item in values.items():
            yield from masked_keys(item, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list | tuple):
        for item in values:
            yield from masked_keys(item, key)
    elif isinstance(values, str) and MASK in values:
        yield key, values


def given_again(values: Mapping[str, Any], override: str) -> bool:
    """Whether an override, redacted, gives a secret that this configuration lacks, and nothing else."""
    key, _, text = override.lstrip("+~").partition("=")
    return (key, _bare(text)) in set(masked_keys(values))


def _withheld_argument(word: str) -> str:
    masked = redact(word)
    if masked == word:
        return word
    key, equals, text = word.partition("=")
    key = key.lstrip("+~").partition("@")[0]
    if not equals:
        return masked
    if text[:1] not in ("{", "[") and "," not in text:
        _keep(key, _bare(text))
    else:  # several values in one: a choice of them, or a node
        for part in re.split(r"[\s,{}\[\]'\"]+|(?<=\w):(?!//)", text):
            if part and part not in PLAIN:
                _keep(ANYWHERE, part)
    return masked


def _bare(text: str) -> str:
    """A value without the quotation marks around it."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


# ------------------------------------------------------------------ what is a secret


def _public(name: str, value: str) -> bool:
    """Whether what stands under this name may be shown: it is called otherwise, or says nothing."""
    text = _bare(value.strip())
    if text.lower() in PLAIN or not _names(name, SECRET_WORDS):
        return True
    # model.pad_token=0 is a number of somebody's vocabulary
    return _split(name)[-1] in ("token", "tokens") and text.lstrip("-").isdecimal()


def _names(name: str, words: frozenset[str]) -> bool:
    """Whether a name says that a secret follows: by its last word, or as the key of a lock."""
    parts = _split(name)
    return bool(parts) and (
        parts[-1] in words
        or parts[-1].endswith(ENDINGS)
        or (parts[-1] in ("key", "keys") and len(parts) > 1 and parts[-2] in OF_KEYS)
    )


@lru_cache(maxsize=4096)  # of the same variables and keys, for every text
def _split(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORDS.findall(name))


def _known() -> list[str]:
    """Secrets that are known word for word, the longest first."""
    found = set()
    for name, value in os.environ.items():
        if name in PLACES:
            continue
        if "://" in value:
            found |= set(_inside(value))
        elif IN_ENVIRONMENT & set(_split(name)) and not _is_path(value):
            found.add(value)
    for key, values in _kept().items():
        for value in values:
            if "://" in value or "?" in value:
                found |= set(_inside(value))
            elif key == ANYWHERE or not _public(key, value):
                found.add(value)
    return sorted(filter(_telling, found), key=len, reverse=True)


def _telling(secret: str) -> bool:
    """Whether a text is long and odd enough to be struck out wherever it stands."""
    return secret.lower() not in PLAIN and len(secret) >= (SHORTEST_WORD if _is_word(secret) else SHORTEST)


def _is_word(text: str) -> bool:
    return text.isalpha() and (text.islower() or text.istitle())


def _inside(uri: str) -> Iterator[str]:
    """The secrets in a URI, as they stand there and decoded."""
    for found in _USERINFO.findall(uri):
        user, colon, password = found[:-1].partition(":")
        secret = password if colon else user
        yield from {secret, unquote(secret)} - PLAIN
    for name, value in _QUERY.findall(uri):
        if _names(name, IN_QUERIES):
            yield from {value, unquote(value)} - PLAIN


def _is_path(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):
        return False


def _kept() -> dict[str, list[str]]:
    try:
        kept: dict[str, list[str]] = json.loads(os.environ.get(VARIABLE, "{}"))
    except ValueError:
        return {}
    return kept


def _keep(key: str, value: str) -> None:
    kept = _kept()
    others = [other for other in kept.get(key, []) if other != value]
    os.environ[VARIABLE] = json.dumps({**kept, key: [*others, value]})
