"""Public tables as their publishers store them: UCI's raw files, and one that comes with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd
from sklearn.datasets import load_breast_cancer

from dptrain.data.files import download, find

UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"


class Published(Protocol):
    """Where a table is had when no folder of the user's holds it."""

    def read(self, *, root: str | None, cache: str | None) -> tuple[pd.DataFrame, str]:
        """The table, its index saying where each row is found, and where it came from, in words."""
        ...


@dataclass(frozen=True, kw_only=True)
class Adult:
    """UCI census income: 32,561 training and 16,281 test rows, told apart by a column `split`.

    The raw files have no header, and the second one opens with a remark and ends its labels with a
    full stop. Source: Becker and Kohavi 1996, UCI, CC BY 4.0.
    """

    train_url: str = f"{UCI}/adult/adult.data"
    test_url: str = f"{UCI}/adult/adult.test"
    train_sha256: str | None = "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"
    test_sha256: str | None = "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05"

    def read(self, *, root: str | None, cache: str | None) -> tuple[pd.DataFrame, str]:
        parts, paths = [], []
        for part, url, sha256 in (
            ("train", self.train_url, self.train_sha256),
            ("test", self.test_url, self.test_sha256),
        ):
            file = "adult.data" if part == "train" else "adult.test"
            path = find(file, root=root) or download(file, url=url, sha256=sha256, root=root, cache=cache)
            rows = _headless(path, ADULT, separator=",", comment="|")
            rows["income"] = rows["income"].str.removesuffix(".")
            parts.append(rows.assign(split=part))
            paths.append(str(path))
        table = pd.concat(parts)
        table.index.name = "row"
        return table, " and ".join(paths)


@dataclass(frozen=True, kw_only=True)
class GermanCredit:
    """UCI German credit: 1,000 rows, the categories as UCI codes them (A11, ...), class 1 good and 2 bad.

    UCI publishes no checksum for it; the declared schema is what the file is held against.
    Source: Hofmann 1994, UCI, CC BY 4.0.
    """

    url: str = f"{UCI}/statlog/german/german.data"
    sha256: str | None = None

    def read(self, *, root: str | None, cache: str | None) -> tuple[pd.DataFrame, str]:
        path = find("german.data", root=root) or download(
            "german.data", url=self.url, sha256=self.sha256, root=root, cache=cache
        )
        return _headless(path, GERMAN, separator=r"\s+"), str(path)


@dataclass(frozen=True, kw_only=True)
class BreastCancer:
    """Wisconsin diagnostic breast cancer, 569 rows, that comes with scikit-learn: no file, no download.

    Source: Wolberg, Street and Mangasarian 1995, UCI, CC BY 4.0.
    """

    def read(self, *, root: str | None, cache: str | None) -> tuple[pd.DataFrame, str]:  # noqa: ARG002
        bundle = load_breast_cancer()
        names = [str(name).replace(" ", "_") for name in bundle.feature_names]
        table = pd.DataFrame(bundle.data, columns=names)
        table["diagnosis"] = bundle.target_names[bundle.target]
        table.index.name = "row"
        return table, "scikit-learn's bundled breast cancer table"


def _headless(
    path: Path, columns: Sequence[str], *, separator: str, comment: str | None = None
) -> pd.DataFrame:
    """A raw file without a header, every cell as text."""
    table = pd.read_csv(
        path,
        sep=separator,
        header=None,
        names=list(columns),
        index_col=False,
        dtype=str,
        keep_default_na=False,
        na_values=[""],
        skipinitialspace=True,
        comment=comment,
    )
    table.index = pd.Index([f"{row + 1} of {path.name}" for row in range(len(table))], name="row")
    return table


ADULT = (
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation",
    "relationship", "race", "sex", "capital_gain", "capital_loss", "hours_per_week", "native_country",
    "income",
)  # fmt: skip
GERMAN = (
    "checking_status", "duration", "credit_history", "purpose", "credit_amount", "savings_status",
    "employment", "installment_commitment", "personal_status", "other_parties", "residence_since",
    "property_magnitude", "age", "other_payment_plans", "housing", "existing_credits", "job",
    "num_dependents", "own_telephone", "foreign_worker", "class",
)  # fmt: skip
