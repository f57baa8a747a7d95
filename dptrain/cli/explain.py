"""Hydra's refusals in a sentence: which word of the command line, what is wrong with it, what cures it.

Nothing heavy is imported here: `--help` and `--cfg job` do not wait for PyTorch.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dptrain.config.rules import key_of
from dptrain.redaction import withheld_arguments

LISTED = "`python -m dptrain --cfg job` lists them all"
# Options of Hydra's that take the word after them.
VALUED = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--experimental-rerun", "--info", "-i",
)  # fmt: skip
MAY_STAND_ALONE = ("--info", "-i")
_HOME = re.compile(r"([^=]+)=~(/.*|)", re.DOTALL)


def explained(error: Exception, words: Sequence[str], conf: Path) -> str:
    """What Hydra, or the YAML that it reads, found wrong; `conf` is the folder of the configuration."""
    words = [word for word in words if not word.startswith("-") and ("=" in word or word.startswith("~"))]
    words = withheld_arguments(words)
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing(error, words, conf)
    said = " ".join(str(error).split()) or type(error).__name__
    if found := re.search(r"Environment variable '([^']*)' not found", said):
        return f"${{oc.env:{found[1]}}}: no such environment variable; set it, or give the value itself"
    if found := re.match(
        r"Could not (?:override|delete from config\.|delete|append to config.*at) '([^']*)'", said
    ):
        key = found[1].partition("=")[0]
        word = next((word for word in words if key_of(word) == key.partition("@")[0]), key)
        if "An item is already" in said:
            return f"{word}: there is such a key already; leave out the +"
        return f"{word}: no such key; {_near(key, words, word, conf)}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        said = said.partition(" See https://hydra.cc")[0].partition(" full_key:")[0]
    else:  # an assertion, or YAML that cannot be read
        said = f"{type(error).__name__}: {said}"
    word = next((word for word in words if "${" in word), None) or _refused(words, conf)
    return f"{word}: {said}; correct it" if word else f"{said}; correct the command or a file that it names"


def unreadable(word: str) -> str:
    """What is wrong with a word that Hydra's grammar does not know.

    >>> print(unreadable("data.path=/a (b)"))
    data.path=/a (b): no value that can be read; quote it if it is a text: 'data.path="/a (b)"'
    """
    (word,) = withheld_arguments([word])
    key, equals, value = word.partition("=")
    if not equals:
        return f"{word}: no key=value; give its value, or leave it out"
    if not reads(f"{key}=1"):
        return f"{word}: {key or 'nothing'} is no key; {LISTED}"
    return f"{word}: no value that can be read; quote it if it is a text: {shlex.quote(quoted(key, value))}"


def quoted(key: str, value: str) -> str:
    """A word of the command line that gives a key this text, whatever stands in it."""
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    value = re.sub(r'(\\*)("|$(?!\n))', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value)
    return f'{key}="{value}"'


def expanded(words: Sequence[str]) -> list[str]:
    """The words with the home folder for a `~` at the start of a value, where no shell expands it.

    Options come last, for argparse takes overrides that stand side by side only.
    `release=WHAT` is `release.source=WHAT` beside other keys of that section, which it would replace, and
    beside a sweep, which may have some.

    >>> expanded(["release=http://host:8000", "release.key_env=KEY"])
    ['release.source=http://host:8000', 'release.key_env=KEY']
    >>> expanded(["recipe=quickstart", "-m", "seed=1,2", "--cfg", "job", "dtype=float64"])
    ['recipe=quickstart', 'seed=1,2', 'dtype=float64', '-m', '--cfg', 'job']
    """
    beside = any(word.startswith(("release.", "+sweep=")) for word in words)
    found = []
    for word in words:
        if beside and word.startswith("release="):
            word = f"release.source={word.removeprefix('release=')}"
        if parts := _HOME.fullmatch(word):
            path = f"{Path.home()}{parts[2]}"
            plain = f"{parts[1]}={path}"
            word = plain if word.startswith("-") or reads(plain) else quoted(parts[1], path)
        found.append(word)
    return _options_last(found)


def _options_last(words: Sequence[str]) -> list[str]:
    """The same words, the options among them with their values behind all others."""
    overrides: list[str] = []
    options: list[str] = []
    waiting = False  # whether the option before takes this word
    for word in words:
        if word.startswith("-"):
            options.append(word)
            waiting = word in VALUED
        elif waiting and not (options[-1] in MAY_STAND_ALONE and "=" in word):
            options.append(word)
            waiting = False
        else:
            overrides.append(word)
            waiting = False
    return overrides + options


def reads(word: str) -> bool:
    """Whether Hydra's grammar knows such a word."""
    try:
        OverridesParser.create().parse_overrides([word])
    except HydraException:
        return False
    return True


def _missing(error: MissingConfigException, words: Sequence[str], conf: Path) -> str:
    """That a group has no such file, and which it has."""
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if not group:
        return f"--config-name={name}: no such file; leave it out, or give its folder, --config-dir=..."
    options = list(error.options or sorted(path.stem for path in (conf / group).glob("*.yaml")))
    close = get_close_matches(name, options, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    there = f"choose one of {', '.join(options)}" if options else "no file of it is found"
    if group == "recipe":
        there = "\n".join(["choose one of", *recipes(conf.parent / "recipes")])
    word = next((word for word in words if key_of(word) == group), f"{group}={name}")
    return f"{word}: the group {group} has no {name or 'file without a name'}; {meant}{there}"


def recipes(folder: Path) -> Iterator[str]:
    """The recipes, each with what it claims: the second line of its file."""
    for path in sorted(folder.glob("*.yaml")):
        claim = path.read_text(encoding="utf-8").splitlines()[1]
        yield f"  {path.stem:<16} {claim.removeprefix('# ')}"


def _near(key: str, words: Sequence[str], word: str, conf: Path) -> str:
    """A question with the most similar key of the configuration without a word, or where all are listed."""
    others = [each for each in words if each != word]
    for kept in (others, []):
        with suppress(Exception):
            keys = list(_keys(_composed(kept, conf)))
            close = get_close_matches(key, keys, n=1, cutoff=0.7)
            close = close or [each for each in keys if each.rpartition(".")[2] == key.rpartition(".")[2]][:1]
            if close:
                return f"did you mean {close[0]}?"
            break
    return LISTED


def _refused(words: Sequence[str], conf: Path) -> str | None:
    """The word that Hydra refuses by itself, if there is one."""
    for word in words:
        try:
            _composed([word], conf)
        except Exception:
            return word
    return None


def _composed(words: Sequence[str], conf: Path) -> Any:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return OmegaConf.to_container(compose("config", overrides=list(words)))


def _keys(node: Any, above: str = "") -> Iterator[str]:
    """Every dotted key of nested mappings."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        yield f"{above}{key}"
        yield from _keys(value, f"{above}{key}.")
