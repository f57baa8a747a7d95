"""The code of a served model, which travels with it: loads without this package, whatever that has become.

MLflow finds it as a package of its own, with the file that reads raw values beside it as `raw`.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException

GRAPH, PICKLED, SETTINGS = "model.pt2", "model.pt", "model.json"
FORMAT = 1
BATCH = 256


class ServedModel:
    """A model that answers tables with named columns, or arrays, with predictions."""

    def __init__(self, folder: Path) -> None:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if settings["format"] > FORMAT:
            raise MlflowException.invalid_parameter_value(
                f"the model is of format {settings['format']}, and the code beside it reads up to {FORMAT}; "
                "log it again, or take the code and the model from one run"
            )
        self._raw, self._names = settings["raw"], settings["names"]
        self._integer_inputs = settings["integer_inputs"]
        try:
            if (folder / GRAPH).exists():
                self._answers = torch.export.load(folder / GRAPH).module()
            else:
                self._answers = torch.load(folder / PICKLED, weights_only=False)
        except Exception as error:  # torch has no common error for what an earlier or later torch wrote
            raise MlflowException.invalid_parameter_value(
                f"the model was written by torch {settings['torch']} and dptrain {settings['dptrain']} and "
                f"torch {torch.__version__} cannot load it ({type(error).__name__}); install what its "
                "requirements.txt names"
            ) from error

    def predict(self, given: Any, params: Any = None) -> Any:  # noqa: ARG002
        """A row a record, its columns the classes with their probabilities; or an array.

        Raises MlflowException, which a server answers with 400, listing all that is wrong with the input.
        """
        inputs = self._inputs(given)
        parts = [{name: one[at : at + BATCH] for name, one in inputs.items()} for at in _starts(inputs)]
        with torch.no_grad():
            answers = [self._answers(part.get("", part)).numpy() for part in parts]
        made = np.concatenate(answers)
        return pd.DataFrame(made, columns=self._names) if self._names else made

    def _inputs(self, given: Any) -> dict[str, torch.Tensor]:
        """Inputs by name; one tensor without a name has the empty one."""
        if self._raw is None:
            named = given if isinstance(given, dict) else {"": given}
            return {name: _tensor(one, self._integer_inputs[name]) for name, one in named.items()}
        raw = importlib.import_module(f"{__name__}.raw")
        made, problems = raw.read(pd.DataFrame(given).reset_index(drop=True), self._raw)
        if problems:
            raise MlflowException.invalid_parameter_value("; ".join(problems))
        return {"": torch.from_numpy(made)}


def _tensor(array: Any, integer: bool) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array, np.int64 if integer else np.float32))


def _starts(inputs: dict[str, torch.Tensor]) -> range:
    count = len(next(iter(inputs.values())))
    if not count:
        raise MlflowException.invalid_parameter_value("no record is given; give at least one")
    return range(0, count, BATCH)


def _load_pyfunc(path: str) -> ServedModel:
    """What MLflow loads, from the folder of the model's data."""
    return ServedModel(Path(path))
