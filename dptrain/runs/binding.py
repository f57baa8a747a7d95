"""What a statement is bound to, as SHA-256: weights, the code of the parts, the resolved configuration."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.config import Config
from dptrain.contracts import Hashes, Records, Splits
from dptrain.installed import library_versions
from dptrain.redaction import redacted

# Where a run is put, what it may use of a machine, what may be done with what it finds: not what it trains.
ELSEWHERE = (
    "device", "fail_if", "name", "output", "release", "report", "resume", "sweep", "task", "performance",
    "tracking", "serve", "serving",
)  # fmt: skip
RECORDS = "records"  # of a run, but for those that it is trained on
PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = ("site-packages", "dist-packages")
STANDARD = tuple(
    Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """A digest of tensors by name: types, shapes and bytes, in the order of their names.

    >>> one = weights_digest({"a": torch.zeros(2), "b": torch.ones(1)})
    >>> one == weights_digest({"b": torch.ones(1), "a": torch.zeros(2)})
    True
    >>> one == weights_digest({"a": torch.zeros(2, 1), "b": torch.ones(1)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def config_digests(config: Config) -> dict[str, str]:
    """A digest of each section that has a say in a training, without secrets."""
    values = {name: value for name, value in asdict(config).items() if name not in ELSEWHERE}
    for name in ("game", "regulariser"):  # of runs from before these were configured
        if not values[name]:
            del values[name]
    return {name: _digest(redacted(value)) for name, value in values.items()}


def model_code(model: nn.Module) -> dict[str, str]:
    """A digest of each module of the user's (or of dptrain.models) that the model's layers come from."""
    kinds = {type(module) for module in model.modules()}
    return sources(kind.__module__ for each in kinds for kind in each.__mro__)


def target_code(target: str) -> dict[str, str]:
    """The same of what a `_target_` names: its module, and the modules of the user's that this one uses."""
    parts = target.split(".")
    loaded = next(
        (name for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in sys.modules), None
    )
    if loaded is None:
        return {}
    found: Any = sys.modules[loaded]
    for name in parts[len(loaded.split(".")) :]:
        found = getattr(found, name, None)
    return sources([loaded, *(_home(found))])


def sources(names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the source of these modules, and of all that they import or hold things of.

    Modules of the standard library, of installed packages and of dptrain itself are left out: the
    statement names their versions. Of dptrain the models are kept, whose code is what was trained.
    """
    waiting, seen, found = list(names), set(), dict[str, str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = source_of(name, _file(name))
        if path is None:
            continue
        content = path.read_bytes()
        found[name] = hashlib.sha256(content).hexdigest()
        waiting += [name.rpartition(".")[0], *_imported(name, path, content)]
        values = vars(sys.modules[name]).values() if name in sys.modules else ()
        waiting += [home for value in list(values) for home in _home(value)]
    return dict(sorted(found.items()))


def _file(name: str) -> str | None:
    """The file of a module, also of one that is imported only later; no package is imported to find it."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    above = name.rpartition(".")[0]
    return None if not name or (above and above not in sys.modules) else _origin(name)


def _origin(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin


def _imported(name: str, path: Path, content: bytes) -> Iterator[str]:
    """The names of all modules that a source imports, wherever in it: values too may be all that it takes."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _home(value: Any) -> Iterator[str]:
    """The module that a thing is, or comes from."""
    if isinstance(value, ModuleType):
        yield value.__name__
    elif isinstance(value, type):
        yield from (kind.__module__ for kind in value.__mro__)
    elif isinstance(value, FunctionType):
        yield value.__module__
    elif value is not None:
        yield type(value).__module__


def source_of(name: str, file: str | None) -> Path | None:
    """The source of a module that counts as code of the model; None of all others."""
    if file is None or not file.endswith(".py"):
        return None
    path = Path(file).resolve()
    if path.is_relative_to(PACKAGE):
        return path if name.startswith("dptrain.models.") else None
    if any(part in INSTALLED for part in path.parts):
        return None
    if any(path.is_relative_to(place) for place in STANDARD):
        return None
    return path if path.is_file() else None


def present_code(names: Iterable[str]) -> dict[str, str | None]:
    """The digests of these modules as they would be imported now; None where one cannot be found."""
    found: dict[str, str | None] = {}
    for name in names:
        origin = None if name == "__main__" else _origin(name)
        there = origin is not None and Path(origin).is_file()
        found[name] = hashlib.sha256(Path(str(origin)).read_bytes()).hexdigest() if there else None
    return found


def code_digest(model: str, modules: Mapping[str, str]) -> str:
    """One digest of a model's class and of the modules that it comes from."""
    return _digest({"model": model, "modules": dict(modules)})


def hashes(
    weights: Mapping[str, Tensor] | None, model: str, modules: Mapping[str, str], config: Config
) -> Hashes:
    """All of them, for the statement; where no weights are released, those of the configuration alone."""
    sections = config_digests(config)
    if weights is None:
        return Hashes(config=config_digest(sections), sections=sections)
    return Hashes(
        weights=weights_digest(weights),
        code=code_digest(model, modules),
        config=config_digest(sections),
        model=model,
        modules=dict(modules),
        sections=sections,
    )


def config_digest(sections: Mapping[str, str]) -> str:
    """One digest of a configuration from those of its sections."""
    return _digest(dict(sections))


def _digest(value: Any) -> str:
    return hashlib.sha256(_as_json(value)).hexdigest()


def _as_json(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return text.encode()


def begun_with(model: nn.Module, config: Config, splits: Splits, salt: str) -> dict[str, Any]:
    """All that a run which goes on must find as it was, besides training records; digests, but for versions.

    Those of group ids and records are keyed by `salt`, a secret of the run's folder.
    """
    return {
        "model code": model_code(model),
        "model": {name: f"{list(value.shape)} {value.dtype}" for name, value in model.state_dict().items()},
        **{
            f"{name} code": target_code(str(getattr(config, name)["_target_"]))
            for name in ("optimizer", "data", "mechanism")
        },
        **{
            f"regulariser {name} code": target_code(str(node["_target_"]))
            for name, node in config.regulariser.items()
        },
        "configuration": config_digests(config),
        "versions": library_versions(),
        "group ids": _keyed(salt, _bytes_of(splits.group_ids)),
        RECORDS: {
            "held-out": _keyed(salt, _of_records(splits.holdout), _bytes_of(splits.holdout_group_ids)),
            "test": _keyed(salt, _of_records(splits.test), _as_json(dict(splits.subgroups))),
            "public": _keyed(salt, b"" if splits.public is None else _of_records(splits.public)),
        },
    }


def _keyed(salt: str, *parts: bytes) -> str:
    """A digest under this secret; where there are several parts, of the digests of each."""
    key = bytes.fromhex(salt)
    found = [hashlib.blake2b(part, key=key, digest_size=16) for part in parts]
    if len(found) > 1:
        found = [hashlib.blake2b(b"".join(each.digest() for each in found), key=key, digest_size=16)]
    return found[0].hexdigest()


def _bytes_of(group_ids: Tensor | None) -> bytes:
    return b"" if group_ids is None else group_ids.contiguous().numpy().tobytes()


def _of_records(records: Records) -> bytes:
    """Inputs and labels in order; what is known of inputs that were read before is not read again."""
    return records.hashed().digest()


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, by name, and within it which module, section, tensor or library.

    >>> changed({"versions": {"torch": "2.1", "numpy": "2"}}, {"versions": {"torch": "2.2", "numpy": "2"}})
    ['versions (torch)']
    """
    found = []
    for name in before.keys() & now.keys():
        one, other = before[name], now[name]
        if one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            inner = sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
            more = f" and {len(inner) - 3} more" if len(inner) > 3 else ""
            found.append(f"{name} ({', '.join(inner[:3])}{more})")
        else:
            found.append(name)
    return sorted(found)
