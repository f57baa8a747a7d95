"""Tables: what is declared is what is read, and everything else is refused at once."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
import torch

from dptrain.contracts import ConfigError, DataError, Splits
from dptrain.data.published import ADULT, GERMAN, Adult, BreastCancer, GermanCredit
from dptrain.data.tables import TableFile
from dptrain.data.tabular import Tabular

COLUMNS: dict[str, Any] = {
    "age": {"kind": "number", "bounds": [0, 100], "bands": [20, 60]},
    "sex": {"kind": "category", "categories": ["F", "M", "?"]},
    "income": {"kind": "number", "bounds": [0, 10], "clip": True},
}


def rows(count: int = 40) -> list[str]:
    return [f"{10 + i},{'FM?'[i % 3]},{i},{'no' if i % 2 else 'yes'}" for i in range(count)]


def source(path: Path | str, **fields: Any) -> Tabular:
    settings = {"columns": COLUMNS, "target": "ill", "classes": ["no", "yes"], "sensitive": ["sex", "age"]}
    return Tabular(path=str(path), **(settings | fields))


def table(folder: Path, lines: list[str], header: str = "age,sex,income,ill") -> Path:
    path = folder / "people.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def load(path: Path, **fields: Any) -> Splits:
    return source(path, **fields).load(torch.Generator().manual_seed(0))


def everyone(splits: Splits) -> torch.Tensor:
    """All inputs beside all labels, in an order that does not depend on how they were divided."""
    parts = [
        torch.cat([part.inputs, part.labels[:, None]], 1)
        for part in (splits.train, splits.holdout, splits.test)
    ]
    return torch.stack(sorted(torch.cat(parts), key=lambda row: row.tolist()))


def test_numbers_are_scaled_by_declared_bounds_and_categories_are_one_hot(tmp_path: Path) -> None:
    splits = load(table(tmp_path, rows()))
    found = everyone(splits)
    assert splits.name == "people"
    assert splits.shape == (5,)
    assert splits.train.inputs.dtype == torch.float32
    ages = torch.arange(10, 50)
    assert torch.allclose(found[:, 0], ages / 100)
    assert torch.equal(found[:, 1:4].argmax(1), (ages - 10) % 3)
    assert torch.equal(found[:, 1:4].sum(1), torch.ones(40))
    assert torch.allclose(found[:, 4], ((ages - 10) / 10).clamp(max=1))  # clipped
    assert torch.equal(found[:, 5], (ages % 2 == 0).float())  # "no" is label 0
    assert 1 <= len(splits.holdout) <= 16
    assert 1 <= len(splits.test) <= 16


def test_constants_follow_from_the_schema_alone(tmp_path: Path) -> None:
    many, one = (load(table(tmp_path, lines)) for lines in (rows(40), rows(20)))
    assert many.mean == one.mean == pytest.approx((0.5, 1 / 3, 1 / 3, 1 / 3, 0.5))
    spread = (2 / 9) ** 0.5
    assert many.std == one.std == pytest.approx((0.25, spread, spread, spread, 0.25))
    assert many.bounds == (0.0, 1.0)


def test_sensitive_columns_hide_fill_and_read(tmp_path: Path) -> None:
    splits = load(table(tmp_path, rows()))
    sex, age = splits.sensitive
    inputs = splits.train.inputs
    assert (sex.name, sex.columns, sex.names) == ("sex", (1, 2, 3), ("F", "M", "?"))
    assert (age.name, age.columns, age.names) == ("age", (0,), ("0 to 20", "20 to 60", "60 to 100"))
    assert torch.equal(sex.read(inputs), inputs[:, 1:4].argmax(1))
    assert age.values.flatten().tolist() == pytest.approx([0.1, 0.4, 0.8])
    for column in (sex, age):
        assert torch.equal(
            column.hide(inputs)[:, column.columns], torch.zeros(len(inputs), len(column.columns))
        )
        for value in range(len(column.values)):
            assert (column.read(column.fill(inputs, value)) == value).all()


def test_a_band_ends_at_its_cut_points_not_half_way_between_middles(tmp_path: Path) -> None:
    (age,) = load(table(tmp_path, rows()), sensitive=["age"]).sensitive
    inputs = torch.tensor([[0.0], [0.19], [0.2], [0.3], [0.59], [0.6], [1.0]]).expand(-1, 5)
    assert age.read(inputs).tolist() == [0, 0, 1, 1, 1, 2, 2]


DATES = {
    **COLUMNS,
    "born": {"kind": "date", "bounds": ["1900-01-01", "2000-01-01"], "format": "%d.%m.%Y"},
}


def dated(count: int = 40) -> list[str]:
    return [f"{row},{1 + i % 28:02}.03.{1950 + i}" for i, row in enumerate(rows(count))]


def test_dates_are_days_between_declared_bounds(tmp_path: Path) -> None:
    path = table(tmp_path, dated(), "age,sex,income,ill,born")
    found = everyone(load(path, columns=DATES))
    days = [(pd.Timestamp(1950 + i, 3, 1 + i % 28) - pd.Timestamp(1900, 1, 1)).days for i in range(40)]
    assert torch.allclose(found[:, 5], torch.tensor(days) / 36524, atol=1e-6)
    frame = pd.read_csv(path)
    stored = pd.to_datetime(frame["born"], format="%d.%m.%Y")
    for zone in (None, "Europe/Berlin", "Pacific/Auckland", "America/New_York"):
        frame["born"] = stored.dt.tz_localize(zone)
        frame.to_parquet(tmp_path / "people.parquet")
        assert torch.equal(everyone(load(tmp_path / "people.parquet", columns=DATES)), found), zone
    wrong = table(
        tmp_path, [*dated(), "1,F,1,no,2001-02-03", "1,F,1,no,01.01.2001"], "age,sex,income,ill,born"
    )
    with pytest.raises(DataError, match=r"line 42: born is not a date written as %d.%m.%Y") as caught:
        load(wrong, columns=DATES)
    assert "line 43: born is outside the declared bounds [1900-01-01, 2000-01-01]" in str(caught.value)
    assert "2001-02-03" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"bounds": ["1.1.2000", "2001-01-01"]},
        {"bounds": 5},
        {"format": "\ud800"},
        {"format": "%Q"},
        {"format": 5},
    ],
)
def test_a_date_declared_wrongly(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"data.columns.born: bounds and bands of dates are written year-"):
        source("x.csv", columns={**COLUMNS, "born": DATES["born"] | changes})


GAPS = {name: {**column, "missing": True} for name, column in COLUMNS.items()}


def test_cells_may_be_missing_where_declared(tmp_path: Path) -> None:
    lines = [f"{'' if i % 4 == 0 else 10 + i},{'' if i % 5 == 0 else 'F'},{i},no" for i in range(40)]
    path = table(tmp_path, [*lines, *(line[:-2] + "yes" for line in lines)])
    with pytest.raises(DataError, match=r"line 2: age is empty(?s:.*)`missing: true` for a column of which"):
        load(path)
    splits = load(path, columns=GAPS, sensitive=["sex"])
    assert splits.shape == (2 + 4 + 2,)
    assert len(splits.mean) == len(splits.std) == 8
    inputs = everyone(splits)[:, :8]
    assert torch.equal(inputs[:, 1] == 1, inputs[:, 0] == 0.5), "the middle of the bounds, and a mark"
    assert int(inputs[:, 1].sum()) == 20
    assert torch.equal(inputs[:, 2:6].sum(1), torch.ones(80))
    assert int(inputs[:, 5].sum()) == 16
    assert splits.sensitive[0].names == ("F", "M", "?", "(missing)")
    with pytest.raises(ConfigError, match=r"data.sensitive=age is a number that may be missing"):
        load(path, columns=GAPS)
    with pytest.raises(ConfigError, match=r"data.columns.age.missing=3 must be true"):
        load(path, columns=COLUMNS | {"age": {**COLUMNS["age"], "missing": 3}})


@pytest.mark.parametrize("mark", ["k. A.", "-9"])
@pytest.mark.parametrize("suffix", ["csv", "xlsx"])
def test_what_stands_for_a_missing_cell(tmp_path: Path, mark: str, suffix: str) -> None:
    columns = {name: {**column, "missing": mark} for name, column in DATES.items()}
    gaps = [["", "", "", "no", ""], [mark, mark, mark, "no", mark]]
    lines = [*(line.split(",") for line in dated()), *gaps, *gaps]
    path, header = table(tmp_path, [",".join(line) for line in lines], "age,sex,income,ill,born"), ["sex"]
    if suffix == "xlsx":
        typed = [[int(cell) if cell == "-9" else cell for cell in line] for line in lines]
        path = workbook(tmp_path / "people.xlsx", ["age", "sex", "income", "ill", "born"], typed)
    settings = {"columns": columns, "sensitive": header, "sheet": "people" if suffix == "xlsx" else None}
    found = everyone(load(path, **settings))
    # age, its mark; sex with its fourth category; income, its mark; born, its mark
    assert found.shape == (44, 2 + 4 + 2 + 2 + 1)
    assert found[:, (1, 5, 7, 9)].sum(0).tolist() == [4, 4, 4, 4]
    with pytest.raises(ConfigError, match=r"data.columns.sex.missing=M is among its categories"):
        load(path, **settings | {"columns": columns | {"sex": {**COLUMNS["sex"], "missing": "M"}}})


@pytest.mark.parametrize("mark", ["9999,99", "9999.99", "k. A."])
def test_what_stands_for_a_missing_cell_is_written_as_the_file_has_it(tmp_path: Path, mark: str) -> None:
    columns = COLUMNS | {"age": {"kind": "number", "bounds": [0, 100], "missing": mark}}
    lines = [";".join(line.split(",")) for line in rows()]
    lines = [line.replace("10;", f"{mark};", 1) if i == 0 else line for i, line in enumerate(lines)]
    path = table(tmp_path, lines, "age;sex;income;ill")
    found = everyone(load(path, columns=columns, sensitive=[], delimiter=";", decimal=","))
    assert found[:, 1].sum() == 1


@pytest.mark.parametrize("cell", ["1.234", "1.234,5", "12.5", "1.234.567"])
@pytest.mark.parametrize("missing", [False, True])
def test_with_a_decimal_comma_a_point_makes_no_number(tmp_path: Path, cell: str, missing: bool) -> None:
    columns = {"age": {"kind": "number", "bounds": [0, 100], "missing": missing}}
    path = table(tmp_path, ["1,5;no", "2;yes", f"{cell};no"], "age;ill")
    with pytest.raises(DataError, match="line 4: age is not a finite number") as caught:
        load(path, columns=columns, sensitive=[], delimiter=";", decimal=",")
    assert str(caught.value).count("line ") == 1


@pytest.mark.parametrize(
    "kind", ["datetime64[ns]", "datetime64[s]", "timedelta64[ns]", "datetime64[ns, UTC]"]
)
def test_times_are_no_numbers(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame({"age": pd.Series([1, 2]).astype(kind), "ill": ["no", "yes"]})
    frame.to_parquet(tmp_path / "people.parquet")
    columns = {"age": {"kind": "number", "bounds": [0, 1e19]}}
    with pytest.raises(DataError, match="row 2: age is not a finite number"):
        load(tmp_path / "people.parquet", columns=columns, sensitive=[])


@pytest.mark.parametrize("suffix", ["xlsx", "parquet"])
def test_a_header_that_is_a_number_is_a_name(tmp_path: Path, suffix: str) -> None:
    columns = {"2019": {"kind": "number", "bounds": [0, 40]}, "age": COLUMNS["age"]}
    frame = pd.DataFrame({2019: range(40), "age": range(40), "ill": ["no", "yes"] * 20})
    path = tmp_path / f"people.{suffix}"
    if suffix == "xlsx":
        workbook(path, list(frame), frame.to_numpy(object).tolist())
    else:
        frame[[2019]].to_parquet(path)  # a header of numbers alone, which pandas restores
        assert list(TableFile(path=str(path)).read(path)) == ["2019"]
        return
    found = everyone(load(path, columns=columns, sensitive=[], sheet="people"))
    assert torch.allclose(found[:, 0], torch.arange(40) / 40)


def test_one_is_one_however_it_is_written_but_leading_zeros_are_kept(tmp_path: Path) -> None:
    columns = {"code": {"kind": "category", "categories": ["01", "1", "2"]}, "age": COLUMNS["age"]}
    lines = [f"{('01', '1', '1.0', '2.00')[i % 4]},{i},{'no' if i % 2 else 'yes'}" for i in range(40)]
    path = table(tmp_path, lines, "code,age,ill")
    found = everyone(load(path, columns=columns, sensitive=[]))
    assert found[:, :3].sum(0).tolist() == [10, 20, 10]
    with pytest.raises(DataError, match=r"line 42: code is none of the declared categories"):
        load(table(tmp_path, [*lines, "001,3,no"], "code,age,ill"), columns=columns, sensitive=[])


def test_a_csv_as_it_is_written_elsewhere(tmp_path: Path) -> None:
    lines = [f"{10 + i},5;{'FMÜ'[i % 3]};{i};{'no' if i % 2 else 'yes'}" for i in range(40)]
    path = tmp_path / "people.csv"
    path.write_text("\n".join(["age;sex;income;ill", *lines]), encoding="latin-1")
    written = {"encoding": "latin-1", "delimiter": ";", "decimal": ","}
    columns = COLUMNS | {"sex": {"kind": "category", "categories": ["F", "M", "Ü"]}}
    ages = everyone(load(path, columns=columns, **written))[:, 0]
    assert torch.allclose(ages, (torch.arange(10, 50) + 0.5) / 100)
    with pytest.raises(
        DataError, match=r"people.csv cannot be read .* in data.encoding=utf-8 with data.delimiter"
    ):
        load(path, columns=columns)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        *(
            ({"encoding": name}, f"data.encoding={name} is no encoding")
            for name in ("latin-7b", "hex", "base64", "rot13", "undefined", "")
        ),
        ({"delimiter": "||"}, r"data.delimiter='\|\|' must be one character"),
        ({"decimal": ","}, "data.delimiter and data.decimal are both ','"),
    ],
)
def test_a_csv_cannot_be_written_so(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        source("x.csv", **fields)


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet", "xlsx"])
def test_every_form_of_file_reads_alike(tmp_path: Path, form: str) -> None:
    plain = table(tmp_path, rows())
    path = tmp_path / f"other.{form}"
    if form == "parquet":
        pd.read_csv(plain).to_parquet(path)  # typed: whole numbers are no text there
    elif form == "xlsx":
        pd.read_csv(plain).to_excel(path, index=False)
    else:
        path.write_bytes(plain.read_bytes() if form == "csv" else gzip.compress(plain.read_bytes()))
    assert torch.equal(everyone(load(path)), everyone(load(plain)))


def workbook(path: Path, header: list[str], lines: list[list[Any]], sheet: str = "people") -> Path:
    book = openpyxl.Workbook()
    book.active.append(["of another sheet"])
    page = book.create_sheet(sheet)
    for line in (header, *lines):
        page.append(line)
    book.save(path)
    return path


def test_a_workbook_as_people_fill_it_in(tmp_path: Path) -> None:
    days: list[Any] = [dt.date(1950, 3, 1), dt.datetime(1950, 3, 1, 13), "01.03.1950"]
    codes: list[Any] = ["01", 1, 1.0, "1"]
    lines = [[codes[i % 4], days[i % 3], "3.5" if i % 2 else 3.5, ("no", "yes")[i % 2], i] for i in range(48)]
    columns = {
        "code": {"kind": "category", "categories": ["01", "1"]},
        "born": DATES["born"],
        "dose": {"kind": "number", "bounds": [0, 7]},
        "n": {"kind": "number", "bounds": [0, 48]},
    }
    path = workbook(tmp_path / "people.xlsx", ["code", "born", "dose", "ill", "n"], lines)
    settings: dict[str, Any] = {"columns": columns, "sensitive": [], "sheet": "people"}
    found = everyone(load(path, **settings))
    assert found[:, :2].sum(0).tolist() == [12, 36]
    assert found[:, 2].unique().tolist() == pytest.approx([18321 / 36524])
    assert torch.equal(found[:, 3], torch.full((48,), 0.5))
    with pytest.raises(DataError, match=r"data.sheet=none is no sheet of .*people.xlsx: name one that is"):
        load(path, **settings | {"sheet": "none"})
    with pytest.raises(DataError, match="holds no rows"):
        load(path, **settings | {"sheet": None})
    wrong = [["1", 18322, dt.date(1950, 3, 1), "no", 1], ["001", "1950-03-01", "x", None, 2]]
    with pytest.raises(DataError) as caught:
        load(workbook(path, ["code", "born", "dose", "ill", "n"], [*lines, *wrong]), **settings)
    for told in (
        "row 50: born is not a date written as %d.%m.%Y",
        "row 50: dose is not a finite number",
        "row 51: code is none of the declared categories (01, 1)",
        "row 51: ill is empty",
    ):
        assert told in str(caught.value)


def test_whole_number_categories_in_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame({"grade": [1.0, 2.0] * 20, "ill": [True, False] * 20, "who": range(40)})
    frame.to_parquet(tmp_path / "x.parquet")
    splits = load(
        tmp_path / "x.parquet",
        columns={"grade": {"kind": "category", "categories": [1, 2]}},
        classes=["True", "False"],
        sensitive=[],
        group="who",  # two rows that differ would be too few to divide
    )
    assert torch.equal(splits.train.inputs.argmax(1), splits.train.labels)


def test_every_violation_is_told_with_line_and_column(tmp_path: Path) -> None:
    lines = rows(10)
    lines[0] = "101,F,3,no"
    lines[1] = "old,F,3,no"
    lines[2] = ",X,3,no"
    lines[3] = "20,F,inf,no"
    lines[4] = "20,F,3,perhaps"
    lines[5] = "20, F,nan,"
    with pytest.raises(DataError) as caught:
        load(table(tmp_path, lines))
    told = str(caught.value)
    for words in (
        "people.csv is not as data.columns",
        "line 2: age is outside the declared bounds [0, 100]",
        "line 3: age is not a finite number",
        "line 4: age is empty",
        "line 4: sex is none of the declared categories (F, M, ?)",
        "line 5: income is not a finite number",
        "line 6: ill is none of the declared categories (no, yes)",
        "line 7: sex is none",
        "line 7: income is not a finite number",
        "line 7: ill is empty",
        "clip: true",
    ):
        assert words in told, told
    assert told.count("line ") == 9


def test_many_violations_are_counted(tmp_path: Path) -> None:
    lines = [f"{1000 + i},X,3,no" for i in range(50)]
    with pytest.raises(DataError) as caught:
        load(table(tmp_path, lines))
    assert str(caught.value).count("line ") == 20
    assert "line 11: sex is none" in str(caught.value)
    assert "and 80 more" in str(caught.value)


def test_missing_and_undeclared_columns_are_told_together(tmp_path: Path) -> None:
    path = table(tmp_path, [f"{line},7" for line in rows()], header="age,gender,income,ill,shoe")
    with pytest.raises(DataError, match="column sex is missing") as caught:
        load(path)
    for words in ("column gender is not declared", "column shoe is not declared", "data.ignored"):
        assert words in str(caught.value)
    fixed = table(tmp_path, [f"{line},7" for line in rows()], header="age,sex,income,ill,shoe")
    assert load(fixed, ignored=["shoe"]).shape == (5,)


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    lines = rows(6)
    lines[1] = '"11",M,1,no'
    path = table(tmp_path, [f'{line},"a note\nof two lines"' for line in lines], "age,sex,income,ill,note")
    path.write_text(path.read_text().replace("13,F", "999,F") + "\n\n")  # blank lines at the end are no rows
    with pytest.raises(DataError, match=r"line 8: age is outside"):
        load(path, ignored=["note"])
    blank = table(tmp_path, [*rows(3), "", *rows(6)])
    with pytest.raises(DataError, match="line 5: age is empty"):
        load(blank)


@pytest.mark.parametrize("group", ["", " ", "\t"])
def test_a_blank_group_is_nobody(tmp_path: Path, group: str) -> None:
    lines = [f"{line},{f' p{i} ' if i else group}" for i, line in enumerate(rows())]
    with pytest.raises(DataError, match="line 2: who is empty"):
        load(table(tmp_path, lines, "age,sex,income,ill,who"), group="who")
    frame = pd.read_csv(tmp_path / "people.csv", dtype=str)[1:]
    groups = source("x.csv", group="who").schema.encode(frame, where="a table").groups
    assert groups is not None
    assert groups.tolist() == [f"p{i}" for i in range(1, 40)]


def test_rows_of_one_person_stay_together(tmp_path: Path) -> None:
    lines = [f"{line},p{i // 4}" for i, line in enumerate(rows(40))]
    splits = load(table(tmp_path, lines, "age,sex,income,ill,person"), group="person", holdout_fraction=0.2)
    persons = [
        set((((part.inputs[:, 0] * 100).round().long() - 10) // 4).tolist())
        for part in (splits.train, splits.holdout, splits.test)
    ]
    assert sum(map(len, persons)) == 10
    assert splits.group_ids is not None
    assert splits.group_ids.unique(return_counts=True)[1].unique().tolist() == [4]
    assert len(splits.group_ids) == len(splits.train)
    assert splits.test_group_ids is not None
    assert len(splits.test_group_ids) == len(splits.test)
    assert splits.test_group_ids.unique(return_counts=True)[1].unique().tolist() == [4]


def test_a_declared_division_is_kept(tmp_path: Path) -> None:
    lines = [f"{line},{('a', 'b', 'c')[i % 3]}" for i, line in enumerate(rows(60))]
    path = table(tmp_path, lines, "age,sex,income,ill,part")
    part = {"column": "part", "train": "a", "test": "b", "holdout": "c"}
    splits = load(path, split=part)
    assert (len(splits.train), len(splits.test), len(splits.holdout)) == (20, 20, 20)
    ages = (splits.test.inputs[:, 0] * 100).round().long()
    assert ((ages - 10) % 3 == 1).all()
    two = load(table(tmp_path, [line.replace(",c", ",a") for line in lines], "age,sex,income,ill,part"),
               split={"column": "part", "train": "a", "test": "b"}, holdout_fraction=0.25)  # fmt: skip
    assert len(two.train) + len(two.holdout) == 40
    assert 2 <= len(two.holdout) <= 18
    assert len(two.test) == 20
    with pytest.raises(DataError, match=r"line 4: part is none of the declared categories \(a, b\)"):
        load(table(tmp_path, lines, "age,sex,income,ill,part"), split=part | {"holdout": None})
    with pytest.raises(DataError, match=r"data.split.holdout=d occurs in no row"):
        load(
            table(tmp_path, [line for line in lines if not line.endswith("c")], "age,sex,income,ill,part"),
            split=part | {"holdout": "d"},
        )


def test_a_person_in_two_declared_parts_is_refused(tmp_path: Path) -> None:
    lines = [f"{line},{'ab'[i % 2]},p{i // 2}" for i, line in enumerate(rows(40))]
    path = table(tmp_path, lines, "age,sex,income,ill,part,person")
    with pytest.raises(DataError, match=r"the person of row 1 of .* is in the train part and in another"):
        load(path, split={"column": "part", "train": "a", "test": "b"}, group="person")


def number(**fields: Any) -> dict[str, Any]:
    return {"columns": COLUMNS | {"age": COLUMNS["age"] | fields}}


def category(*values: Any) -> dict[str, Any]:
    return {"columns": COLUMNS | {"sex": {"kind": "category", "categories": list(values)}}}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            number(bounds=[9, 1]),
            r"data.columns.age.bounds=\[9, 1\] must be two finite numbers, the lower first",
        ),
        (number(bounds=[0, float("inf")]), "data.columns.age.bounds"),
        (number(bands=[60, 20]), r"data.columns.age.bands=\[60, 20\] must be rising cut points inside"),
        (number(bands=[20, 100]), "rising cut points inside the bounds"),
        (number(clip="yes"), "data.columns.age.clip=yes must be true or false"),
        (number(low=3), "data.columns.age.low: no such key; a number takes bands, bounds, clip, kind"),
        (number(kind="word"), "data.columns.age=.* must have kind: number"),
        (number(bands=[]), "data.sensitive=age is a number without bands; declare cut points"),
        (category("F", "M", "F"), "data.columns.sex.categories: F is declared more than once"),
        (category("F"), r"data.columns.sex.categories=\['F'\] must be a list of at least two"),
        (
            category(True, False),
            r"data.columns.sex.categories=\[True, False\] must be words .*; quote yes, no",
        ),
        ({"classes": ["no"]}, r"data.classes=\['no'\] must be a list of at least two"),
        ({"target": "age"}, "data.target: column age is already in data.columns; give it one role"),
        ({"group": "ill"}, "data.group: column ill is already in data.target"),
        ({"ignored": ["sex"]}, "data.ignored: column sex is already in data.columns"),
        ({"sensitive": ["race"]}, "data.sensitive=race is not declared; name one of data.columns: age, sex"),
        ({"sensitive": ["sex", "sex"]}, "names a column twice"),
        ({"split": {"column": "part", "train": "a"}}, "data.split=.* must be {column: a column"),
        ({"columns": {}}, "data.columns={} must declare at least one column"),
        ({"path": "people.xls"}, "data.path=people.xls must end in .csv, .csv.gz, .parquet, .xlsx"),
        ({"holdout_fraction": 2}, r"data.holdout_fraction=2 must be in \(0, 1\)"),
    ],
)
def test_a_schema_that_contradicts_itself(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        source(**({"path": "people.csv"} | fields))


def test_all_that_is_wrong_with_a_schema_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        source("people.csv", classes=["no"], sensitive=["race"], **number(bounds=[3, 1]))
    for words in ("data.columns.age.bounds", "data.classes", "data.sensitive=race"):
        assert words in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path, nowhere: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"age,sex\n\xff\xfe,1\n")
    (tmp_path / "b.parquet").write_text("hello")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"age,sex\n" * 500)[:30])
    (tmp_path / "d.csv").write_text("age,sex,income,ill\n1,F,2,no,5\n")
    (tmp_path / "e.csv").write_text("")
    (tmp_path / "f.xlsx").write_text("hello")
    with zipfile.ZipFile(tmp_path / "g.xlsx", "w") as archive:
        archive.writestr("a", "b")
    packed = bytearray(gzip.compress(b"age,sex\n" + bytes(range(48, 58)) * 500))
    packed[12:16] = b"\xff" * 4
    (tmp_path / "h.csv.gz").write_bytes(packed)
    workbook(tmp_path / "whole.xlsx", ["age"], [["SECRET"]])
    with (
        zipfile.ZipFile(tmp_path / "whole.xlsx") as whole,
        zipfile.ZipFile(tmp_path / "i.xlsx", "w") as archive,
    ):
        for name in whole.namelist():
            held = whole.read(name)
            archive.writestr(name, b"<a>SECRET" if name.endswith("sheet1.xml") else held)
    for name in (
        "a.csv",
        "b.parquet",
        "c.csv.gz",
        "d.csv",
        "e.csv",
        "f.xlsx",
        "g.xlsx",
        "h.csv.gz",
        "i.xlsx",
    ):
        with pytest.raises(DataError, match=f"{name} cannot be read .*save it as CSV") as caught:
            load(tmp_path / name)
        assert caught.value.__cause__ is None
        assert "SECRET" not in str(caught.value)
    with pytest.raises(DataError, match="holds no rows"):
        load(table(tmp_path, []))
    with pytest.raises(DataError, match=r"none.csv was not found in any of: .*DPTRAIN_DATA \(not set\)"):
        load(Path("none.csv"), cache=str(nowhere))


def test_a_table_is_looked_for_in_the_users_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path, rows())
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path))
    assert load(Path("people.csv")).source == str(tmp_path / "people.csv")


# --------------------------------------------------------------------------- public tables

ADULT_ROW = "39, State-gov, 77516, Bachelors, 13, Divorced, ?, Husband, White, Male, 2174, 0, 40, Cuba, <=50K"


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_adult_is_made_of_two_raw_files(web, nowhere: Path) -> None:
    train = f"{ADULT_ROW}\n{ADULT_ROW.replace('<=', '>')}\n\n".encode()
    test = f"|1x3 Cross validator\n{ADULT_ROW}.\n\n".encode()
    web.pages |= {"adult.data": train, "adult.test": test}
    published = Adult(
        train_url=web.url("adult.data"),
        test_url=web.url("adult.test"),
        train_sha256=sha256(train),
        test_sha256=sha256(test),
    )
    made, where = published.read(root=None, cache=str(nowhere))
    assert list(made.columns) == [*ADULT, "split"]
    assert made["split"].tolist() == ["train", "train", "test"]
    assert made["income"].tolist() == ["<=50K", ">50K", "<=50K"]
    assert made.loc["1 of adult.test", "occupation"] == "?"
    assert where == f"{nowhere / 'adult.data'} and {nowhere / 'adult.test'}"


def test_adult_with_another_checksum_is_thrown_away(web, nowhere: Path) -> None:
    web.pages["adult.data"] = b"something else"
    with pytest.raises(DataError, match=r"checksum is not data.sha256=5b00264637db"):
        Adult(train_url=web.url("adult.data")).read(root=None, cache=str(nowhere))
    assert not (nowhere / "adult.data").exists()


def test_german_credit_is_made_of_its_raw_file(web, nowhere: Path) -> None:
    row = "A11 6 A34 A43 1169 A65 A75 4 A93 A101 4 A121 67 A143 A152 2 A173 1 A192 A201 1"
    web.pages["german.data"] = f"{row} \n{row}\n".encode()
    made, _ = GermanCredit(url=web.url("german.data")).read(root=None, cache=str(nowhere))
    assert list(made.columns) == list(GERMAN)
    assert made.iloc[1].tolist() == row.split()


def test_a_raw_file_of_the_users_own_is_not_downloaded(tmp_path: Path, nowhere: Path) -> None:
    (tmp_path / "german.data").write_text(" ".join(["1"] * len(GERMAN)) + "\n")
    made, where = GermanCredit(url="http://127.0.0.1:9/x").read(root=str(tmp_path), cache=str(nowhere))
    assert len(made) == 1
    assert where == str(tmp_path / "german.data")


def test_breast_cancer_needs_no_file() -> None:
    made, _ = BreastCancer().read(root=None, cache=None)
    assert made.shape == (569, 31)
    assert made["diagnosis"].value_counts().to_dict() == {"benign": 357, "malignant": 212}


def test_subgroups_are_columns_bands_and_what_the_model_does_not_see(tmp_path: Path) -> None:
    lines = [f"{row},{'north' if at % 3 else ''}" for at, row in enumerate(rows())]
    columns = COLUMNS | {"income": {"kind": "number", "bounds": [0, 10], "clip": True, "bands": [5]}}
    path = table(tmp_path, lines, "age,sex,income,ill,site")
    splits = load(path, columns=columns, ignored=["site"], subgroups=["sex", "age", "income", "site"])
    ages = (splits.test.inputs[:, 0] * 100).round().int().tolist()
    assert splits.subgroups == {
        "sex": tuple("FM?"[(age - 10) % 3] for age in ages),
        "age": tuple("0 to 20" if age < 20 else "20 to 60" for age in ages),
        "income": tuple("0 to 5" if age < 15 else "5 to 10" for age in ages),
        "site": tuple("north" if (age - 10) % 3 else "(missing)" for age in ages),
    }
    assert splits.shape == (5,)
    assert load(path, ignored=["site"]).subgroups == {}


def test_a_missing_number_is_a_subgroup_of_its_own(tmp_path: Path) -> None:
    columns = COLUMNS | {"age": {"kind": "number", "bounds": [0, 100], "bands": [20], "missing": True}}
    lines = [row if at % 2 else f",{row.partition(',')[2]}" for at, row in enumerate(rows())]
    splits = load(table(tmp_path, lines), columns=columns, sensitive=[], subgroups=["age"])
    missing = splits.test.inputs[:, 1].bool().tolist()
    found = splits.subgroups["age"]
    assert [value == "(missing)" for value in found] == missing
    assert {value for value, lacks in zip(found, missing, strict=True) if not lacks} <= {
        "0 to 20",
        "20 to 100",
    }


def test_subgroups_that_cannot_be_are_refused_together() -> None:
    with pytest.raises(ConfigError) as caught:
        source("people.csv", subgroups=["income", "height", "sex", "sex"])
    assert "data.subgroups=income is a number without bands" in str(caught.value)
    assert "data.subgroups=height is not declared" in str(caught.value)
    assert "names a column twice" in str(caught.value)
