"""The configuration: everything wrong with it is said at once, with key, value and cure."""

from __future__ import annotations

from typing import Any

import pytest

from dptrain.config import COMPONENTS, Config, defaults, parse
from dptrain.contracts import ConfigError


def values(**changes: Any) -> dict[str, Any]:
    """A valid configuration with dotted keys (written with two underscores) changed."""
    made: dict[str, Any] = defaults() | {name: {"_target_": "a.B"} for name in COMPONENTS}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            made[section] = {**made[section], name: value}
        else:
            made[section] = value
    return made


def problems(**changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(values(**changes))
    return str(caught.value).splitlines()


def test_the_defaults_are_valid_and_live_in_the_schema_alone() -> None:
    config = parse(values())
    assert config.privacy == Config().privacy
    assert config.training == Config().training


def test_every_problem_is_named_at_once() -> None:
    found = problems(
        seed=-1, privacy__epsilon="much", training__sample_rate=1.4, evidence__slots=0, dtype="float16"
    )
    assert len(found) == 5
    for key in ("seed=-1", "privacy.epsilon=much", "training.sample_rate=1.4", "evidence.slots=0", "dtype="):
        assert any(line.startswith(key) for line in found), key
    assert all(";" in line for line in found), "each names its cure"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"privacy__noise_multiplier": 1.0}, "set the others to null"),
        ({"privacy__epsilon": None}, "set the others to null"),
        ({"privacy__advantage": 0.1}, "privacy.epsilon=3.0 and privacy.advantage=0.1: give one of"),
        (
            {"privacy__epsilon": None, "privacy__tpr_at_fpr": [0.05, 0.01]},
            "asks for less than blind guessing gives",
        ),
        ({"privacy__accountant": "gdp"}, "privacy.accountant=gdp understates epsilon"),
        ({"privacy__unit": "person"}, "privacy.unit=person should be 'record', 'group' or 'patient'"),
        ({"training__sampling": "weighted"}, "other rates than the plan accounts for"),
        ({"training__epochs": 3.0}, "give one and set the other to null"),
        ({"training__expected_batch_size": None}, "give one of them"),
        ({"training__sampling": "shuffle", "training__sample_rate": 0.1}, "has no meaning"),
        ({"privacy__epsilonn": 3}, "privacy.epsilonn=3: no such key"),
        ({"colour": "red"}, "colour=red: no such key"),
        ({"threads": 2}, "threads=2 is now performance.threads; rename it"),
        ({"training__prefetch": 3}, "training.prefetch=3 is now performance.prefetch; rename it"),
        ({"model": {"width": 3}}, "give model._target_=package.module.Class"),
        ({"attack": {"mine": {}}}, "give attack.mine._target_="),
        ({"privacy__delta": 1.0}, "privacy.delta=1.0"),
        ({"privacy__epsilon": float("nan")}, "privacy.epsilon=nan"),
    ],
)
def test_a_problem_names_key_value_and_cure(changes: dict[str, Any], said: str) -> None:
    found = problems(**changes)
    assert any(said in line for line in found), found


def test_a_device_that_is_absent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert problems(device="cuda") == ["device=cuda is not available on this machine; use device=auto"]
