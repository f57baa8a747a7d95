"""A schema is drafted, filled in, and read; what is not filled in is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from support import order

from dptrain.assembly.build import build
from dptrain.cli import main as cli
from dptrain.cli.hydra import plain
from dptrain.contracts import ConfigError, DataError
from dptrain.data.draft import write_draft
from dptrain.data.tables import SUFFIXES

CONF = Path(__file__).parents[2] / "conf"
WRITTEN = {"encoding": "utf-8", "delimiter": ",", "decimal": ".", "sheet": None, "root": None, "cache": None}
SECRET = 4711.25


@pytest.fixture
def loans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A table with a column of each kind, under names that YAML would read otherwise."""
    monkeypatch.chdir(tmp_path)
    return pd.DataFrame(
        {
            "customer_id": [f"K{i}" for i in range(60)],
            "sum: paid, #": [SECRET] + [i / 2 for i in range(59)],
            "yes": [f"0{i % 3}" for i in range(60)],
            "opened": [f"{1 + i % 9:02}.07.2020" if i % 4 else None for i in range(60)],
            "moved": [f"{1 + i % 9:02}/07/2020" for i in range(60)],
            "a.b": ["red", "blue"] * 30,
            "Label": ["no", "no", "yes"] * 20,
        }
    )


def write(loans: pd.DataFrame, suffix: str) -> str:
    path = Path(f"my loans{suffix}")
    if suffix.startswith(".csv"):
        loans.to_csv(path, index=False)
    else:
        (loans.to_parquet if suffix == ".parquet" else loans.to_excel)(path, index=False)
    return str(path)


def composed(name: str) -> dict[str, Any]:
    """What a command line with these data comes to; raises ConfigError where it has gaps."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose(overrides=["hydra.searchpath=[file://schema]", f"+data={name}"]))["data"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_draft_is_filled_in_and_read(loans: pd.DataFrame, suffix: str, rng) -> None:
    path = write_draft({**WRITTEN, "path": write(loans, suffix), "target": "???"})
    assert path == Path("schema/data/my_loans_schema.yaml")
    text = path.read_text()
    drafted = yaml.safe_load(text)
    kinds = {name: node["kind"] for name, node in drafted["columns"].items()}
    assert kinds == dict.fromkeys(("yes", "a.b"), "category") | dict.fromkeys(("opened", "moved"), "date") | {
        "sum: paid, #": "number"
    }
    assert not any(value in text for value in (str(SECRET), "K1", "blue", "07.2020"))
    assert "must come from public knowledge" in text
    assert "guessed from how cells are written, which is a look at the records" in text
    with pytest.raises(ConfigError) as caught:
        composed("my_loans_schema")
    gaps = ("sum: paid, #.bounds", "yes.categories", "opened.bounds", "moved.format")
    for gap in (*(f"data.columns.{gap}" for gap in gaps), "data.classes"):
        assert f"{gap}=??? must be given; add {gap}=..." in str(caught.value)
    days = {"bounds": ["2020-01-01", "2020-12-31"], "missing": True}
    public = {
        "sum: paid, #": {"bounds": [0, 5000]},
        "yes": {"categories": ["00", "01", "02"]},
        "opened": days,
        "moved": {**days, "format": "%d/%m/%Y"},
        "a.b": {"categories": ["red", "blue"]},
    }
    for name, values in public.items():
        drafted["columns"][name] |= values
    path.write_text(yaml.safe_dump({**drafted, "classes": ["no", "yes"]}, sort_keys=False))
    splits = build("data", composed("my_loans_schema")).load(rng)
    assert splits.shape == (1 + 3 + 2 + 2 + 2,)
    assert splits.classes == ("no", "yes")
    assert splits.group_ids is not None
    with pytest.raises(ConfigError, match=r"my_loans_schema.yaml is there already and is not overwritten"):
        write_draft({**WRITTEN, "path": f"my loans{suffix}"})


def test_what_a_header_does_not_tell_is_left_open(loans: pd.DataFrame) -> None:
    loans["account_id"] = range(60)
    path = write(loans.rename(columns={"Label": "paid"}), ".csv")
    found = yaml.safe_load(write_draft({**WRITTEN, "path": path}).read_text())
    assert found["target"] == found["group"] == "???"
    assert found["classes"] == ["???"]
    assert found["ignored"] == ["customer_id", "account_id"]
    assert found["columns"]["paid"] == {"kind": "category", "categories": "???"}
    Path("schema/data/my_loans_schema.yaml").unlink()
    assert (
        yaml.safe_load(write_draft({**WRITTEN, "path": path, "target": "paid"}).read_text())["target"]
        == "paid"
    )
    Path("schema/data/my_loans_schema.yaml").unlink()
    with pytest.raises(
        ConfigError, match=r"data.target=red is no column of the table; it has customer_id, sum"
    ):
        write_draft({**WRITTEN, "path": path, "target": "red"})


def test_how_a_table_is_written_goes_into_its_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("größe;y\n1;a\n2;b\n", encoding="latin-1")
    settings = {**WRITTEN, "path": "a.csv", "encoding": "latin-1"}
    with pytest.raises(
        DataError, match=r"a.csv has one column, whose name holds ';': is it data.delimiter=';'"
    ):
        write_draft(settings)
    found = yaml.safe_load(write_draft({**settings, "delimiter": ";", "decimal": ","}).read_text("utf-8"))
    assert (found["encoding"], found["delimiter"], found["decimal"]) == ("latin-1", ";", ",")
    assert found["columns"] == {"größe": {"kind": "number", "bounds": "???"}}


@pytest.mark.parametrize(
    "header", ["two\nlines", "a\r\nb", "a\x85b", "a\u2028b", "\ttab", 'say: "#"', "größe\n"]
)
def test_any_header_makes_a_schema_that_is_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [header, f"{header} id", f"{header} key", "Label"]
    pd.DataFrame([[1, 2, 3, "a"], [4, 5, 6, "b"]], columns=names).to_parquet("a.parquet")
    found = yaml.safe_load(write_draft({**WRITTEN, "path": "a.parquet"}).read_text("utf-8"))
    assert list(found["columns"]) == names[:1]
    assert found["ignored"] == names[1:3]


def test_what_must_be_text_is_told_at_once() -> None:
    wrong = {"encoding": 8, "delimiter": 5, "decimal": None, "path": 5, "sheet": 1, "root": [], "cache": 0}
    with pytest.raises(ConfigError) as caught:
        write_draft({**WRITTEN, **wrong})
    told = str(caught.value).splitlines()
    assert sorted(told) == sorted(f"data.{key}={wrong[key]} must be text; quote it" for key in wrong)


@pytest.mark.parametrize("data", [{"path": "x.npz"}, {**WRITTEN, "path": "???"}, {**WRITTEN, "path": None}])
def test_no_table_no_draft(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"give data.path=TABLE, such as loans.csv"):
        write_draft(data)


@pytest.mark.e2e
def test_the_command_needs_no_more_than_the_table(
    loans: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("task=schema", f"data.path='{write(loans, '.csv')}'")
    done = subprocess.run(
        [sys.executable, "-m", "dptrain", *words, "--cfg", "job"], capture_output=True, text=True, check=True
    )
    assert yaml.safe_load(done.stdout)["data"]["_target_"] == "dptrain.data.tabular.Tabular"
    cli.main(order(*words, "data=tabular"), None)
    said = capsys.readouterr().out
    assert said.startswith("schema  schema/data/my_loans_schema.yaml: fill in each ???\n")
    assert "must come from public knowledge" in said
    assert "--config-dir=schema data=my_loans_schema model=mlp" in said
    with pytest.raises(SystemExit, match="2"):
        cli.main(order(*words, "data=tabular"), None)
    assert "is there already and is not overwritten" in capsys.readouterr().err
