"""The check of a service finds nothing wrong with ours, and what is wrong with others."""

from __future__ import annotations

import pytest
from support import script

from dptrain.serving.inputs import Reader

pytestmark = pytest.mark.e2e

check = script("check_service")


def test_nothing_is_wrong(caplog):
    found = check.check(120, names=["table"])
    assert found["wrong"] == {}
    assert found["statuses"].keys() <= {0, 200, 400, 401, 408, 413, 415, 422}
    assert {200, 400, 422} <= found["statuses"].keys()
    assert found["requests"] > 80
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


def test_what_is_wrong_is_found(monkeypatch):
    def read(self, body, kind):  # noqa: ARG001
        raise RuntimeError

    monkeypatch.setattr(Reader, "read", read)
    found = check.check(80, names=["images"])
    assert any(each.startswith("POST /v1/predict: 500") for each in found["wrong"])


def test_what_is_told_is_found():
    found = check.Found()
    found.look("x", 422, "Traceback of 0.123456789012345", 0.1, "dpt_0_abc")
    found.look("y", 200, "the key is abc", 0.1, "dpt_0_abc")
    assert set(found.wrong) == {"x: tells Traceback", "x: tells 0.12345678", "y: tells the key"}
