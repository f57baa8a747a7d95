"""Names of points are told as they are, lists among them."""

from __future__ import annotations

import io

import rich.console

from dptrain.report.blocks import Table
from dptrain.report.comparison.console import _table


def test_a_list_in_a_name_is_no_markup_of_the_console() -> None:
    out = rich.console.Console(file=io.StringIO(), width=120)
    content = Table(heads=("", "accuracy"), rows=(("regulariser = [mix_up]", "0.8"),), numeric=range(1, 2))
    out.print(_table("UTILITY", content))
    assert "regulariser = [mix_up]" in out.file.getvalue()
