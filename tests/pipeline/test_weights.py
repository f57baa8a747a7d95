"""Files of weights in all the forms that people have: read, told, or refused with the reason."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from dptrain.contracts import ConfigError, DptrainError
from dptrain.models.one_output import OneOutput
from dptrain.pipeline.weights import load

CPU = torch.device("cpu")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def behind_constants(network: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(normalise=nn.Identity(), network=network))


def weights() -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: value + 1 for name, value in net().state_dict().items()}


def read(path: Path, held: Any, network: nn.Module | None = None) -> tuple[dict[str, Tensor], str]:
    """The weights of one's own network, as read from a file that holds this; what was said."""
    torch.save(held, path)
    model = behind_constants(net() if network is None else network)
    release, said = load(path, model, CPU)
    release.build()
    assert release.weights is not None
    return {name.rpartition("network.")[2]: value for name, value in release.weights.items()}, said


def same(found: dict[str, Tensor]) -> bool:
    return all(torch.equal(found[name], value.to(found[name].dtype)) for name, value in weights().items())


PREFIXES = st.lists(st.sampled_from(["module", "_module", "model", "network", "net", "a_b"]), max_size=3)
NESTED = st.sampled_from([(), ("state_dict",), ("model",), ("model_state_dict",), ("any",), ("any", "model")])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefix=PREFIXES, compiled=st.booleans(), nested=NESTED, several=st.booleans(), others=st.booleans())
def test_any_prefix_and_nesting_is_read_and_told(
    tmp_path: Path, prefix: list[str], compiled: bool, nested: tuple[str, ...], several: bool, others: bool
) -> None:
    before = "".join(f"{each}." for each in prefix)
    middle = "_orig_mod." if compiled else ""
    held: Any = {f"{before}{middle}{name}": value for name, value in weights().items()}
    if others and prefix:
        held["loss.weight"] = torch.ones(2)
    for key in reversed(nested):
        held = {"epoch": 3, key: held, "optimizer": {"state": {0: {"step": 1}}, "param_groups": [1]}}
    found, said = read(tmp_path / "w.pt", held, OneOutput(net(), 0) if several else None)
    assert same(found)
    assert ("`loss.weight` left out" in said) is (others and bool(prefix))
    assert (f"`{'.'.join(nested)}` of the file" in said) is bool(nested)
    assert ("_orig_mod." in said) is compiled
    if before not in ("", "network.", "network.network."):
        assert f"`{before}` was taken off" in said


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_the_models(tmp_path: Path, dtype: torch.dtype) -> None:
    held = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights().items()}
    found, said = read(tmp_path / "w.pt", held)
    assert all(found[name].dtype == value.dtype for name, value in net().state_dict().items())
    torch.testing.assert_close(found["1.weight"], weights()["1.weight"], rtol=1e-2, atol=1e-2)
    assert f"{str(dtype).removeprefix('torch.')} read as float32" in said


def test_safetensors_parameters_and_missing_counters_are_read(tmp_path: Path) -> None:
    held = {name: value.contiguous() for name, value in weights().items()}
    save_file(held, tmp_path / "w.safetensors")
    release, said = load(tmp_path / "w.safetensors", behind_constants(net()), CPU)
    assert torch.equal(release.weights["network.1.weight"], held["1.weight"])
    assert said == ""
    found, _ = read(
        tmp_path / "w.pt", {k: nn.Parameter(v) for k, v in held.items() if "num_batches" not in k}
    )
    assert torch.equal(found["3.bias"], held["3.bias"])


def damaged(change: Any) -> dict[str, Tensor]:
    held = weights()
    change(held)
    return held


REFUSED: dict[str, tuple[Any, str]] = {
    "a whole module": (net(), "holds more than tensors (`torch.nn.modules."),
    "a list": (list(weights().values()), "holds a list, and no tensors by name"),
    "a number": ({"epoch": 3}, "holds a dict of `epoch`, and no tensors by name"),
    "a layer less": (damaged(lambda held: held.pop("3.bias")), "lacks `3.bias`"),
    "a layer more": (damaged(lambda held: held.update({"9.bias": torch.ones(1)})), "has `9.bias` besides"),
    "three classes": (
        damaged(lambda held: held.update({"3.bias": torch.ones(3)})),
        "`3.bias` has shape (3,), the model's (2,)",
    ),
    "quantised": (
        damaged(lambda held: held.update({"3.bias": torch.ones(2, dtype=torch.int8)})),
        "`3.bias` is torch.int8, where the model has torch.float32",
    ),
    "not finite": (
        damaged(lambda held: held["3.bias"].fill_(float("nan"))),
        "`3.bias` is not finite",
    ),
    "others": (
        {"x": torch.ones(1)},
        "does not fit the model: lacks `1.bias`, `1.weight`, `2.bias` and 5 more",
    ),
    "two networks": (
        {f"{which}.{name}": value for which in ("a", "b") for name, value in weights().items()},
        "holds several networks that fit (`a.`, `b.`)",
    ),
    "sparse": (
        damaged(lambda held: held.update({"3.bias": held["3.bias"].to_sparse()})),
        "`3.bias` is sparse (torch.sparse_coo)",
    ),
    "teacher and student": (
        {which: {"state_dict": weights()} for which in ("teacher", "student")},
        "holds several sets of weights (`teacher.state_dict`, `student.state_dict`)",
    ),
    "two sets": ({"a": weights(), "b": weights()}, "holds several sets of weights (`a`, `b`)"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str) -> None:
    held, said = REFUSED[name]
    with pytest.raises(DptrainError) as refused:
        read(tmp_path / "w.pt", held)
    assert said in str(refused.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_programs_are_not_run(tmp_path: Path) -> None:
    torch.jit.script(net()).save(str(tmp_path / "script.pt"))
    with pytest.raises(ConfigError, match="is TorchScript, a program that reading would run"):
        load(tmp_path / "script.pt", behind_constants(net()), CPU)
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        load(tmp_path / "text.pt", behind_constants(net()), CPU)
    torch.save(weights(), tmp_path / "whole.pt")
    held = (tmp_path / "whole.pt").read_bytes()
    at = held.index(b"PK\x01\x02")  # the table of contents
    (tmp_path / "damaged.pt").write_bytes(held[:at] + b"XXXX" + held[at + 4 :])
    for unreadable in (tmp_path / "damaged.pt", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read as weights"):
            load(unreadable, behind_constants(net()), CPU)
