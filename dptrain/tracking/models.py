"""Models in MLflow: a graph, the code that reads raw values, and what is proved."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dptrain.contracts import Inputs, Served
from dptrain.contracts.trees import by_name
from dptrain.tracking import served as code
from dptrain.tracking.connection import quietly

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo


def log_model(model: Served, run_id: str) -> ModelInfo:
    """Log a model with its code, signature and input example; loading it needs nothing of this package.

    The format is torch.export's, which runs no foreign code. A model whose control flow depends on its
    input is pickled instead, and needs the packages that its classes are of. Both are for the CPU.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    ours = version("dptrain")
    blank = by_name(lambda one: one.detach().cpu(), model.blank)
    answers = model.answers.cpu().eval()
    with torch.no_grad():
        answered = answers(blank)
    with TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        package = _write_code(model, Path(folder))
        exported = _export(model, blank, data)
        settings = {
            "format": code.FORMAT,
            "dptrain": ours,
            "torch": torch.__version__,
            "names": list(model.names),
            "raw": None if model.raw is None else model.raw.settings,
            "whole": {name: not one.is_floating_point() for name, one in _named(blank).items()},
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


def register(client: MlflowClient, name: str, logged: ModelInfo, standing: str) -> None:
    """Make the model a version of this name; `models:/NAME@STANDING` is the newest that stands so."""
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
        tags={"standing": standing},
        description=(logged.metadata or {}).get("guarantee"),
    )
    client.set_registered_model_alias(name, standing, made.version)


def _export(model: Served, blank: Inputs, folder: Path) -> bool:
    """Write the model for any number of inputs; as a graph, unless torch.export cannot trace it."""
    with quietly(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            any_size = by_name(lambda _: {0: torch.export.Dim.AUTO}, blank)
            program = torch.export.export(model.answers, (blank,), dynamic_shapes=(any_size,))
            torch.export.save(program, folder / code.GRAPH)
        except Exception:  # torch.export has no common error; whatever it was, pickle is the answer
            (folder / code.GRAPH).unlink(missing_ok=True)
            torch.save(model.answers, folder / code.PICKLED)
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
    return pinned if exported else [*pinned, f"dptrain=={ours}"]


def _named(inputs: Inputs) -> dict[str, Tensor]:
    return dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
