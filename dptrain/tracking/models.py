"""Models in MLflow: a graph, the code that reads raw values, and what is proved."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from pickle import PicklingError
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dptrain.contracts import Inputs, Served
from dptrain.contracts.trees import by_name
from dptrain.installed import UNKNOWN, own_version
from dptrain.tracking import served as code
from dptrain.tracking.connection import first_line, look_and_write, quietly

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo

COUNTS = (1, 3)  # of records; traced with two, a graph may have become one of two alone

log = logging.getLogger(__name__)


def log_model(model: Served, run_id: str) -> ModelInfo | None:
    """Log a model with its code, signature and input example; loading it needs nothing of this package.

    The format is torch.export's, which runs no foreign code. A model whose control flow depends on its
    input is pickled instead, and needs the packages that its classes are of. Both are for the CPU. None for
    one that cannot be pickled either, which is logged: its run is recorded all the same.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    ours = own_version()
    blank = by_name(lambda one: one.detach().cpu(), model.blank)
    answers = model.answers.cpu().eval()
    with torch.no_grad():
        answered = answers(blank)
    with TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        package = _write_code(model, Path(folder))
        exported = _export(model, blank, data)
        try:
            if not exported:
                torch.save(model.answers, data / code.PICKLED)
        except (
            PicklingError,
            AttributeError,
            TypeError,
        ) as error:  # what pickle raises, by its kind of class
            log.warning(
                "the model is not stored in MLflow: torch.export cannot trace it and it cannot be pickled "
                "(%s); its weights are in the run folder. Define its classes at the top of a module",
                first_line(error),
            )
            return None
        settings = {
            "format": code.FORMAT,
            "dptrain": ours,
            "torch": torch.__version__,
            "names": list(model.names),
            "raw": None if model.raw is None else model.raw.settings,
            "integer_inputs": {name: not one.is_floating_point() for name, one in _named(blank).items()},
        }
        (data / code.SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
        return Model.log(
            artifact_path=None,
            name="model",
            flavor=mlflow.pyfunc,
            run_id=run_id,
            loader_module=package.name,
            data_path=str(data),
            code_paths=[str(package)],
            signature=_signature(model, blank, answered),
            input_example=_example(model, blank),
            pip_requirements=_requirements(model, exported, ours),
            metadata={
                "dptrain": ours,
                **({} if model.raw is None else {"inputs": model.raw.settings}),
                **model.metadata,
            },
        )


def _write_code(model: Served, folder: Path) -> Path:
    """The package that travels with the model, written into this folder.

    Its name tells its code from any other: one process may load several models.
    """
    files = {"__init__.py": Path(code.__file__).read_text(encoding="utf-8")}
    if model.raw is not None:
        files["raw.py"] = model.raw.code.read_text(encoding="utf-8")
    package = folder / f"dptrain_served_{sha256(''.join(files.values()).encode()).hexdigest()[:8]}"
    package.mkdir()
    for name, text in files.items():
        (package / name).write_text(text, encoding="utf-8")
    return package


def register(client: MlflowClient, name: str, logged: ModelInfo, verdict: str) -> None:
    """Make the model a version of this name; `models:/NAME@VERDICT` is the newest with this verdict."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name,
        logged.model_uri,
        run_id=logged.run_id,
        model_id=logged.model_id,
        tags={"verdict": verdict},
        description=(logged.metadata or {}).get("guarantee"),
    )
    look_and_write(
        client.tracking_uri, lambda: client.set_registered_model_alias(name, verdict, made.version)
    )


def _export(model: Served, blank: Inputs, folder: Path) -> bool:
    """Write the model as a graph for any number of inputs; False where torch.export cannot."""
    with quietly(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), torch.no_grad():
        try:
            any_size = by_name(lambda _: {0: torch.export.Dim.AUTO}, blank)
            program = torch.export.export(model.answers, (blank,), dynamic_shapes=(any_size,))
            graph = program.module()
            for count in COUNTS:
                given = by_name(lambda one, count=count: one[:1].repeat(count, *[1] * (one.dim() - 1)), blank)
                torch.testing.assert_close(graph(given), model.answers(given), equal_nan=True)
            torch.export.save(program, folder / code.GRAPH)
        except Exception:  # torch.export has no common error; whatever it was, pickle is the answer
            (folder / code.GRAPH).unlink(missing_ok=True)
            return False
    return True


def _signature(model: Served, blank: Inputs, answered: Tensor) -> ModelSignature:
    """Columns by name, or arrays where a record is neither a row nor an image."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    def tensor(one: Tensor, name: str | None = None) -> TensorSpec:
        return TensorSpec(one.numpy().dtype, (-1, *one.shape[1:]), name)

    # Of any type: of a column of numbers MLflow would refuse whole ones. What is wrong, the code tells.
    inputs: list[Any]
    if model.raw is None:
        inputs = [tensor(one, name or None) for name, one in _named(blank).items()]
    else:
        inputs = [
            ColSpec(AnyType(), name, required=name not in model.raw.optional) for name in model.raw.example
        ]
    outputs: list[Any] = [ColSpec("float", name) for name in model.names] or [tensor(answered)]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def _example(model: Served, blank: Inputs) -> Any:
    import pandas

    if model.raw is None:
        return by_name(Tensor.numpy, blank)
    return pandas.DataFrame({name: [cell] for name, cell in model.raw.example.items()})


def _requirements(model: Served, exported: bool, ours: str) -> list[str]:
    """The packages that loading takes, as they are installed here."""
    needed = ["mlflow", "torch", "numpy", "pandas", *(model.raw.needs if model.raw is not None else ())]
    pinned = [f"{package}=={version(package).split('+')[0]}" for package in needed]
    return pinned if exported else [*pinned, "dptrain" if ours == UNKNOWN else f"dptrain=={ours}"]


def _named(inputs: Inputs) -> dict[str, Tensor]:
    return dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
