"""All that `python -m dptrain` imports until it ends; processes are forked from one that imported this."""

from __future__ import annotations

import gc
import pkgutil
from contextlib import suppress
from importlib import import_module

import dptrain
from dptrain.tracking.connection import import_mlflow

LATE = (  # what the libraries import when they are used for the first time
    "alembic.command", "git", "hydra._internal.core_plugins.basic_launcher", "IPython.display", "jinja2",
    "markdown_it", "mlflow.artifacts", "mlflow.models", "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store", "networkx", "PIL.Image", "pygments.lexers", "riskcal",
    "sklearn.metrics", "torch._dynamo", "torch.export._trace",
)  # fmt: skip

import_mlflow()
for each in pkgutil.walk_packages(dptrain.__path__, "dptrain."):
    if each.name != "dptrain.__main__":  # which is run
        with suppress(ImportError):  # an extra that is not installed
            import_module(each.name)
for name in LATE:
    with suppress(ImportError):
        import_module(name)
gc.freeze()  # none of it is garbage: the forked look through their own only
