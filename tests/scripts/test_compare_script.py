"""python -m dptrain.cli.compare: a page, a table, a line of JSON, and an exit code that CI can act on."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from comparisons import write_run, write_sweep
from support import script as load

from dptrain.cli import compare

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", params=["scripts/compare.py", "dptrain.cli.compare"])
def script(request: pytest.FixtureRequest) -> ModuleType:
    """The module, and the file of scripts/ that calls it."""
    return compare if request.param == "dptrain.cli.compare" else load("compare")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep"), epsilons=(1.0, 4.0))


def test_the_last_line_is_json_and_the_page_lies_in_the_folder(script, sweep, capsys):
    words = [str(sweep), "--limit", "accuracy>=.85", "--limit", "membership.bound<=.2", "--json"]
    assert script.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found["answer"]["met"] == ["ε = 4"]
    assert [point["label"] for point in found["points"]] == ["ε = 1", "ε = 4"]
    assert lines[-2] == f"page     {sweep / 'comparison.html'}"
    page = (sweep / "comparison.html").read_text(encoding="utf-8")
    assert "python -m dptrain.cli.compare" in page
    assert "ε = 4 meets every limit." in page


def test_no_point_within_the_limits_is_exit_code_4(script, sweep, tmp_path, capsys):
    path = tmp_path / "new" / "page.html"
    assert script.main([str(sweep), "--limit", "accuracy>=.99", "--output", str(path)]) == 4
    assert "accuracy>=.99: met by none" in " ".join(capsys.readouterr().out.split())
    assert path.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "accuracy"], "cannot be read"),
        (["--limit", "precision>=.5"], "is not measured here"),
        (["{elsewhere}"], "data differs"),
        (["{nowhere}"], "is no folder"),
        (["--uri", "sqlite:////nowhere/mlflow.db", "--ids", "a"], "tracking.uri=sqlite:////nowhere"),
    ],
)
def test_what_is_wrong_is_said_and_exit_code_2(script, sweep, tmp_path, capsys, words, said):
    other = {"name": "digits", "source": "bundled", "test": 400}
    write_run(tmp_path / "elsewhere" / "a", data=other)
    places = {"elsewhere": tmp_path / "elsewhere", "nowhere": tmp_path / "nowhere"}
    assert script.main([str(sweep), *(word.format(**places) for word in words)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "nothing to compare"), (["a", "--confidence", "2"], "below 1"), (["--tag", "recipe"], "KEY=VALUE")],
)
def test_options_are_checked(script, capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        script.main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
