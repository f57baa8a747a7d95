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

from dptrain.redaction.override_values import Leaf, Values, bare, decoded, quoted, read

MASK = "***"
VARIABLE = "DPTRAIN_SECRETS"  # of the environment: what was withheld, each as JSON, by dotted key, as JSON
# Letters of a secret that is looked for wherever it may stand, and of one that looks like a common word.
SHORTEST, SHORTEST_WORD = 5, 8

SECRET_WORDS = frozenset({
    "password", "passwd", "pwd", "pw", "pass", "passphrase", "passcode", "pin", "otp", "secret", "secrets",
    "token", "tokens", "jwt", "bearer", "credential", "credentials", "apikey", "sas", "sig", "signature",
    "auth", "authorization",
})  # fmt: skip
# Of words run together: sslpassword, accesstoken.
ENDINGS = (
    "password", "passwd", "pwd", "passphrase", "secret", "token", "credentials", "apikey", "accesskey",
    "accountkey", "authkey", "privatekey", "secretkey", "sharedkey",
)  # fmt: skip
# A key by itself is a dictionary's, such as data.split_key; these are locks'.
OF_KEYS = frozenset({
    "access", "account", "api", "auth", "encryption", "license", "master", "private", "secret", "service",
    "shared",
})  # fmt: skip
SAYING_NOTHING = frozenset({"value", "text", "string", "old", "new"})  # last words of names: token_value
IN_QUERIES = SECRET_WORDS | {"code", "key"}
# Wherever in a variable's name; the others as its last word.
IN_ENVIRONMENT = SECRET_WORDS - {"auth", "authorization", "pin", "sas", "sig", "signature"} | {"key"}
PLACES = frozenset({"PWD", "OLDPWD", VARIABLE})  # variables that are no secrets, or handled by themselves
PLAIN = frozenset({"", "null", "none", "true", "false", MASK})

_USERINFO = re.compile(
    # With a password, up to the last @: whoever typed it need not have quoted what it holds.
    r"(?<=://)(?:[^\s'\"<>/?#:@]*:(?!\d+(?:[/?#]|$))(?:(?!://)[^\s'\"<>])*@|[^\s'\"<>/?#@]+@)"
)
_ASSIGNED = re.compile(
    # With space after it, where what comes then is no name of another value: nothing may have been given.
    r"(?<![\w.%\]])([+~]*[A-Za-z_%][\w.\-\[\]%@]*)(?:[^\S\n]*=[^\S\n]+(?![+~]*[A-Za-z_][\w.\-@]*=)|=)(?!=)"
)
# What follows it: in the query of a URI, up to the next parameter.
_IN_QUERY = re.compile(r"\*\*\*(?=[&;,:.)\]}<>#\s'\"]|$)|(?:(?![&;][\w.\-\[\]%]+=)[^#\s'\"<>])+")
_IN_TEXT = re.compile(
    r"""
    \*\*\*(?=[;'"\s]|[,:.)\]}]*(?:\s|$))               # which was struck out before
    | (?: "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | \$?\{[^{}]*\} | \[[^\[\]]*\] )(?=[\s;,:.)\]}'"]|$)
    | [^\s;'"][^;'"\n]*?(?=;[A-Za-z][\w\ .\-]*=)         # of Server=x;Password=a&b c;User=me
    | ['"]?[^\s'"]+?(?=[,:.;)\]}]*(?:['"\s]|$))          # up to white space; what ends a sentence stays
    """,
    re.VERBOSE,
)
_NODE = re.compile(r"\{.*\}", re.DOTALL)
_MAPPED = re.compile(
    r"(['\"]?)([A-Za-z_][\w.\-]*)\1(\s*:\s*)"
    r"(\"(?:\\.|[^\"\\])+\"|'(?:\\.|[^'\\])+'|\[[^\[\]]+\]|[^\s,{}\[\]'\"]+)"
)
_HEADER = re.compile(
    r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer|negotiate|token)\s+)([^\s'\"]+)"
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_REFERENCE = re.compile(r"\$\{[^{},]*\}")  # to another key or a variable, with nothing in case it is missing
_MASKS = re.compile(r"(?:\*\*\*|[\s,\[\]])+")


def redact(text: str) -> str:
    """A text without its secrets: userinfo of URIs, values under telling names, and those that are known.

    >>> redact("tracking.uri=http://me:hush@host:5000/?token=abc1")
    'tracking.uri=http://***@host:5000/?token=***'
    >>> redact("data.split_key=split.key model.max_tokens=8")
    'data.split_key=split.key model.max_tokens=8'
    """
    text, _ = _struck(text)
    for secret in _known():
        found = re.escape(secret)
        alone = _is_word(secret) or secret.isdigit()
        text = re.sub(rf"(?<![\w.]){found}(?!\w)" if alone else found, MASK, text)
    return text


def _struck(text: str) -> tuple[str, list[str]]:
    """A text without what is told for a secret by what stands around it; and these secrets."""
    found: list[str] = []

    def userinfo(match: re.Match[str]) -> str:
        user, colon, password = match[0][:-1].partition(":")
        found.append(password if colon else user)
        return f"{MASK}@"

    def header(match: re.Match[str]) -> str:
        found.append(match[2])
        return f"{match[1]}{MASK}"

    def mapped(match: re.Match[str]) -> str:
        quote, name, colon, value = match.groups()
        if _public(name, value):
            return match[0]
        found.append(bare(value))
        return f"{quote}{name}{quote}{colon}{MASK}"

    text = _USERINFO.sub(userinfo, text)
    text = _HEADER.sub(header, text)
    parts, at = [], 0
    for name in _ASSIGNED.finditer(text):
        # A public name's value is looked through as well: it may be a text with names of its own.
        before = text[name.start() - 1] if name.start() else " "
        if name.start() < at or not _names(name[1], IN_QUERIES if before in "?&;" else SECRET_WORDS):
            continue
        value = (_IN_QUERY if before in "?&" else _IN_TEXT).match(text, name.end())
        if value is not None and not _plain(name[1], value[0]):
            found.append(bare(value[0]))
            parts += [text[at : name.end()], MASK]
            at = value.end()
    text = "".join([*parts, text[at:]])
    return _NODE.sub(lambda node: _MAPPED.sub(mapped, node[0]), text), found


def redacted(value: Any, name: str = "") -> Any:
    """The same value, redacted wherever texts are in it: mappings, sequences, dataclasses.

    `name` is its dotted key: whatever stands under a secret's name is one.
    """
    if isinstance(value, str):
        return MASK if name and not _public(name, value) else redact(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return MASK if name and not _public(name, str(value)) else value
    if isinstance(value, Mapping):
        return {redacted(key): redacted(item, _below(name, key)) for key, item in value.items()}
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


def _below(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


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
    """Words of a command line without their secrets, which are kept for this process and its children.

    >>> withheld_arguments(['+data.dsn="host=x password=a&b user=me"'])
    ['+data.dsn="host=x password=*** user=me"']
    """
    for word in arguments:
        _withheld_argument(word)  # so that each word is searched for the secrets of all
    return [_withheld_argument(word) for word in arguments]


def withheld(values: Any, key: str = "") -> Any:
    """A configuration without its secrets, which are kept for this process and its children."""
    _withheld(values, key)  # so that each value is searched for the secrets of all
    return _withheld(values, key)


def _withheld(values: Any, key: str) -> Any:
    if isinstance(values, Mapping):
        return {name: _withheld(item, _below(key, name)) for name, item in values.items()}
    if isinstance(values, list | tuple):
        return [_withheld(item, _below(key, place)) for place, item in enumerate(values)]
    if isinstance(values, str | int | float) and (masked := redacted(values, key)) is not values:
        if masked != values:
            _keep(key, values)
        return masked
    return values


def revealed(values: Any, key: str = "") -> Any:
    """A configuration with what was withheld of it; what nobody gave to this process stays masked."""
    if isinstance(values, Mapping):
        return {name: revealed(item, _below(key, name)) for name, item in values.items()}
    if isinstance(values, list | tuple):
        return [revealed(item, _below(key, place)) for place, item in enumerate(values)]
    if isinstance(values, str) and MASK in values:
        candidates = [decoded(each) for each in reversed(_kept().get(key, []))]
        for candidate in candidates:
            if values == MASK if isinstance(candidate, list | dict) else redacted(candidate, key) == values:
                return candidate
        if values == MASK and candidates:  # of a text of which nothing at all could be shown
            return candidates[0]
    return values


def masked_keys(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The dotted keys of a configuration whose values still lack a secret, and these values."""
    if isinstance(values, Mapping):
        for name, item in values.items():
            yield from masked_keys(item, _below(key, name))
    elif isinstance(values, list | tuple):
        for item in values:
            yield from masked_keys(item, key)
    elif isinstance(values, str) and MASK in values:
        yield key, values


def given_again(values: Mapping[str, Any], override: str) -> bool:
    """Whether an override, redacted, gives a secret that this configuration lacks, and nothing else."""
    key, _, text = override.lstrip("+~").partition("=")
    lacking = set(masked_keys(values))
    if text == MASK:
        return any(value == MASK and (each == key or each.startswith(f"{key}.")) for each, value in lacking)
    try:
        found = read(text, key)
    except ValueError:
        return False
    given = {each for value in found.values for each in masked_keys(value, key)}
    return bool(given) and given <= lacking and all(MASK in leaf.text for leaf in found.leaves)


def _withheld_argument(word: str) -> str:
    key, equals, text = word.partition("=")
    if not equals or key.startswith("-"):
        return redact(word)
    name = key.lstrip("+~").partition("@")[0]
    shown, _ = _struck(key)
    known = True
    try:
        found = read(text, name)
    except (ValueError, RecursionError):  # which nobody can read
        known = False
        found = Values([text], [Leaf(name, 0, len(text), text)])
    if _secret(name) or _secret(key):
        if all(_plain(name, leaf.text) for leaf in found.leaves):
            return word
    else:
        placed = _placed(text, found.leaves)
        if redact(placed) == placed and (known or placed == text):
            return f"{shown}={placed}"
    # Nothing of it can be shown: not a part either, as nobody knows where a secret begins that is in parts.
    for value in found.values:
        _keep(name, _resolved(value))
        _withheld(_resolved(value), name)
    _keep(f"{name}=", text)  # as it stood there: a key that no configuration has
    return f"{shown}={MASK}"


def _placed(text: str, leaves: Sequence[Leaf]) -> str:
    """A value of the command line with each text in it redacted; the secrets are kept."""
    for leaf in reversed(leaves):
        masked = redacted(leaf.text, leaf.key)
        if masked != leaf.text:
            _keep(leaf.key, _resolved(leaf.text))
            as_it_is = text[leaf.start : leaf.end] == leaf.text
            text = f"{text[: leaf.start]}{masked if as_it_is else quoted(masked)}{text[leaf.end :]}"
    return text


def _resolved(value: Any) -> Any:
    """A value of the command line with the variables that it refers to: what is kept is not read by Hydra."""
    if isinstance(value, dict):
        return {name: _resolved(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item) for item in value]
    if not isinstance(value, str):
        return value
    value = re.sub(
        r"(?<!\\)\$\{oc\.env:([^{},]*)(?:,([^{}]*))?\}",
        lambda m: os.environ.get(m[1], m[0] if m[2] is None else bare(m[2])),
        value,
    )
    return re.sub(r"(\\+)\$\{", lambda m: m[1][: len(m[1]) // 2] + "${", value)


# ------------------------------------------------------------------ what is a secret


def _public(name: str, value: str) -> bool:
    """Whether what stands under this name may be shown: it is called otherwise, or says nothing."""
    return not _secret(name) or _plain(name, value)


def _plain(name: str, value: str) -> bool:
    """Whether a value says nothing, though a secret's name is over it."""
    text = bare(value.strip())
    if text.lower() in PLAIN or _REFERENCE.fullmatch(text) or _MASKS.fullmatch(text):
        return True
    # model.pad_token=0 is a number of somebody's vocabulary
    parts = [part for part in _split(name) if not part.isdigit()]
    return parts[-1:] in (["token"], ["tokens"]) and bool(re.fullmatch(r"[-\d,\s\[\]]+", text))


@lru_cache(maxsize=4096)
def _secret(key: str) -> bool:
    """Whether a dotted key, or one of those that it is below, says that a secret follows."""
    parts = key.split(".")
    return any(_names(".".join(parts[:end]), SECRET_WORDS) for end in range(1, len(parts) + 1))


def _names(name: str, words: frozenset[str]) -> bool:
    """Whether a name says that a secret follows: by its last word, or as the key of a lock."""
    parts = list(_split(name))
    while len(parts) > 1 and (parts[-1].isdigit() or parts[-1] in SAYING_NOTHING):
        parts.pop()
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
        elif IN_ENVIRONMENT & set(_split(name)) or _names(name, SECRET_WORDS):
            found |= {value} if not _plain(name, value) and not _is_path(value) else set()
        elif "=" in value:
            found |= set(_inside(value))
    for key, values in _kept().items():
        for each in values:
            for below, value in _texts(decoded(each), key):
                found |= set(_inside(value)) if not _secret(below) else {value, *_inside(value)}
    return sorted(filter(_telling, found), key=len, reverse=True)


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Texts and numbers of nested mappings and lists, by dotted key."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, _below(key, name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _texts(item, _below(key, place))
    elif value is not None and not _plain(key, str(value)):
        yield key, str(value)


def _telling(secret: str) -> bool:
    """Whether a text is long and odd enough to be struck out wherever it stands."""
    return secret.lower() not in PLAIN and len(secret) >= (SHORTEST_WORD if _is_word(secret) else SHORTEST)


def _is_word(text: str) -> bool:
    return text.isalpha() and (text.islower() or text.istitle())


def _inside(text: str) -> Iterator[str]:
    """The secrets in a text, as they stand there and decoded."""
    for secret in _struck(text)[1]:
        yield from {secret, unquote(secret)} - PLAIN


def _is_path(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):
        return False


def _kept() -> dict[str, list[str]]:
    try:
        kept = json.loads(os.environ.get(VARIABLE, "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(kept, dict) or not all(
        isinstance(each, list) and all(isinstance(value, str) for value in each) for each in kept.values()
    ):
        return {}
    return kept


def _keep(key: str, value: Any) -> None:
    kept, text = _kept(), json.dumps(value)
    others = [other for other in kept.get(key, []) if other != text]
    os.environ[VARIABLE] = json.dumps({**kept, key: [*others, text]})
