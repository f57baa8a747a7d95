"""`task=verify`: a release is what its statement says, and whatever is changed of it is found and named."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import QUICK, order
from torch import nn

from dptrain.cli import main as cli
from dptrain.config import parse
from dptrain.contracts import ConfigError
from dptrain.pipeline import verify
from dptrain.runs import binding
from dptrain.runs import folder as runs

pytestmark = pytest.mark.run

NETS = """
from torch import nn
from my_parts import SIZE

class Net(nn.Sequential):
    def __init__(self, shape, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, SIZE), nn.Tanh(), nn.Linear(SIZE, num_classes))
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model of the user's, of two modules, on the path."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_nets.py").write_text(NETS)
    (folder / "my_parts.py").write_text("SIZE = 8\n")
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "conf" / "model" / "mine.yaml").write_text("_target_: my_nets.Net\n")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def trained(user: Path) -> Path:
    """A finished run of that model."""
    words = (
        *QUICK,
        "model=mine",
        "tracking=none",
        "attack=[]",
        "control.enabled=false",
        f"output={user}/runs",
    )
    cli.main(order(*words, config_dir=user / "conf"), None)
    (report,) = (user / "runs").glob(f"*/{runs.REPORT}")
    return report.parent


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def wrong(folder: Path) -> dict[str, str]:
    """What does not match, by name."""
    config = parse(order("task=verify", f"release={folder}").config)
    return {each.name: each.said for each in verify.run(config)[1] if each.holds is False}


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_release_that_nobody_touched_is_what_its_statement_says(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wrong(trained) == {}
    cli.main(order("task=verify", "release=latest", f"output={trained.parent}"), None)
    said = capsys.readouterr().out
    assert "as its statement says" in said
    for name in ("weights", "code my_nets", "code my_parts", "configuration", "epsilon", "delta", "rounding"):
        assert name in said
    assert not [path for path in trained.parent.iterdir() if "audit" in path.name], "it leaves nothing behind"


def test_what_was_given_away_is_verified_without_the_run(trained: Path, tmp_path: Path) -> None:
    for name in ("weights.pt", "statement.json", "model_card.md"):
        shutil.copy(trained / name, tmp_path / name)
    assert wrong(tmp_path) == {}


def test_one_weight(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.load(copy / runs.WEIGHTS, weights_only=True)
    next(iter(state.values())).view(-1)[0] += 1e-6
    torch.save(state, copy / runs.WEIGHTS)
    assert list(wrong(copy)) == ["weights"]
    with pytest.raises(SystemExit) as caught:
        cli.main(order("task=verify", f"release={copy}"), None)
    assert caught.value.code == 3
    assert "not as its statement says" in capsys.readouterr().out


def test_epsilon(copy: Path) -> None:
    edit(
        copy / "statement.json", lambda told: told["proved"].update(epsilon=told["proved"]["epsilon"] - 0.01)
    )
    found = wrong(copy)
    assert found["epsilon"].startswith("stated 2.9")
    assert "epsilon" in found["report"]


@pytest.mark.parametrize("name", ["noise_multiplier", "steps", "sample_rate"])
def test_a_constant(copy: Path, name: str) -> None:
    def change(told: dict[str, Any]) -> None:
        told["mechanism"][name] *= {"noise_multiplier": 1.1, "steps": 2, "sample_rate": 0.9}[name]

    edit(copy / "statement.json", change)
    found = wrong(copy)
    assert name in found["epsilon"]
    assert name in found["report"]


def test_statement_and_report_alike(copy: Path) -> None:
    """Whoever changes the constant everywhere is found by the epsilon that follows from it."""
    edit(copy / "statement.json", lambda told: told["mechanism"].update(noise_multiplier=9.0))
    edit(copy / "report.json", lambda told: told["guarantee"].update(noise_multiplier=9.0))
    assert "noise_multiplier 9" in wrong(copy)["epsilon"]


def test_words_that_promise_more(copy: Path) -> None:
    edit(
        copy / "statement.json",
        lambda told: told.update(sentence=told["sentence"].replace("exp(3.00)", "exp(2.99)")),
    )
    card = copy / "model_card.md"
    card.write_text(card.read_text().replace("ε = 3.00", "ε = 2.00"))
    assert {"rounding", "model card"} == set(wrong(copy))


def test_a_delta_that_promises_nothing(copy: Path) -> None:
    edit(copy / "statement.json", lambda told: told["proved"].update(delta=0.01))
    assert "privacy.delta=0.01 is not below 1 /" in wrong(copy)["delta"]


@pytest.mark.parametrize("module", ["my_nets", "my_parts"])
def test_a_line_of_code(copy: Path, user: Path, module: str) -> None:
    path = user / f"{module}.py"
    before = path.read_text()
    try:
        path.write_text(before + "# another line\n")
        assert list(wrong(copy)) == [f"code {module}"]
        path.unlink()
        assert "cannot be found" in wrong(copy)[f"code {module}"]
    finally:
        path.write_text(before)
    edit(copy / "statement.json", lambda told: told["hashes"]["modules"].update({module: "0" * 64}))
    assert "code" in wrong(copy)


@pytest.mark.parametrize(
    ("key", "section"),
    [("training.average_decay", "training"), ("optimizer.lr", "optimizer"), ("seed", "seed")],
)
def test_a_key_of_the_configuration(copy: Path, key: str, section: str) -> None:
    def change(told: dict[str, Any]) -> None:
        *above, last = key.split(".")
        node = told["config"]
        for part in above:
            node = node[part]
        node[last] = 7 if key == "seed" else 0.123

    edit(copy / runs.ORDER, change)
    assert wrong(copy) == {"configuration": f"{section} is changed in run.json"}
    edit(copy / "statement.json", lambda told: told["hashes"]["sections"].update(seed="0" * 64))
    assert "configuration" in wrong(copy)


def test_where_and_how_it_ran_is_no_part_of_it(copy: Path) -> None:
    edit(copy / runs.ORDER, lambda told: told["config"].update(output="elsewhere", device="cuda"))
    edit(copy / runs.ORDER, lambda told: told["config"]["performance"].update(threads=7, prefetch=0))
    edit(copy / runs.ORDER, lambda told: told["config"]["tracking"].update(uri="https://u:secret@host"))
    assert wrong(copy) == {}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda told: told.update({"$schema": "urn:dptrain:statement:1"}), "hold no hashes"),
        (lambda told: told.pop("hashes"), "hashes is not an object|hashes=None"),
        (lambda told: told.pop("mechanism"), "mechanism"),
        (lambda told: told["proved"].update(epsilon="three"), "no number"),
        (lambda told: told.update(status="perhaps"), "status=perhaps"),
    ],
)
def test_what_is_no_statement_is_refused(copy: Path, change: Callable[..., Any], named: str) -> None:
    edit(copy / "statement.json", change)
    with pytest.raises(ConfigError, match=named):
        wrong(copy)


def test_bad_words(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(ConfigError, match="task=verify needs a release"):
        parse(order("task=verify").config)
    with pytest.raises(ConfigError, match="is no folder and no name or id"):
        wrong(tmp_path / "nowhere")
    (copy / "statement.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        wrong(copy)
    (copy / "statement.json").unlink()
    with pytest.raises(ConfigError, match=r"has no statement\.json"):
        wrong(copy)
    with pytest.raises(SystemExit) as caught:
        cli.main(order("task=verify", f"release={copy}"), None)
    assert caught.value.code == 2


# ---------------------------------------------------------------------- digests


def test_a_digest_of_weights_sees_names_types_shapes_and_bytes() -> None:
    one = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    same = {"b": torch.ones(2), "a": torch.zeros(3, 2).t()}
    assert binding.weights_digest(one) == binding.weights_digest(same)
    others: list[dict[str, torch.Tensor]] = [
        {"a": torch.zeros(2, 3), "c": torch.ones(2)},
        {"a": torch.zeros(3, 2), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3).double(), "b": torch.ones(2)},
        {"a": -torch.zeros(2, 3), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "b": torch.ones(2), "n": torch.tensor(0)},
    ]
    found = {binding.weights_digest(each) for each in (one, *others)}
    assert len(found) == 1 + len(others)
    assert binding.weights_digest({"h": torch.ones(3, dtype=torch.bfloat16)})


def test_secrets_are_no_part_of_a_digest() -> None:
    config = parse(order("tracking=none").config)
    values = {**order("tracking=none").config}
    values["data"] = {**values["data"], "db_password": "one"}
    other = {**values, "data": {**values["data"], "db_password": "two"}}
    assert binding.config_digests(parse(values)) == binding.config_digests(parse(other))
    assert binding.config_digests(config).keys() == binding.config_digests(parse(other)).keys()


def test_code_of_installed_packages_is_left_to_their_versions() -> None:
    assert binding.model_code(nn.Sequential(nn.Linear(2, 2))) == {}
    assert binding.target_code("torch.optim.SGD") == {}


def test_code_is_followed_through_packages_values_and_later_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "pack_a/__init__.py": "from .net import Net\n",
        "pack_a/net.py": "from torch import nn\nfrom . import sizes\nfrom .deep.more import WIDTH\n"
        "class Net(nn.Linear):\n    def later(self):\n        import pack_a_later\n",
        "pack_a/sizes.py": "A = 1\n",
        "pack_a/deep/__init__.py": "",
        "pack_a/deep/more.py": "WIDTH = 3\n",
        "pack_a/unused.py": "x = 1\n",
        "pack_a_later.py": "import json, numpy\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    import pack_a  # type: ignore[import-not-found]

    found = binding.model_code(nn.Sequential(pack_a.Net(2, 2)))
    assert set(found) == {
        "pack_a", "pack_a.net", "pack_a.sizes", "pack_a.deep", "pack_a.deep.more", "pack_a_later",
    }  # fmt: skip
    assert binding.target_code("pack_a.Net") == found
    assert binding.present_code(found) == found
