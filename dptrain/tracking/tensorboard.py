"""Runs recorded as events for TensorBoard, in the run folder."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dptrain.contracts import ConfigError
from dptrain.redaction import redacted
from dptrain.tracking.names import flatten
from dptrain.tracking.null import NullRun

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


@dataclass(frozen=True)
class TensorBoard:
    """Records metrics and parameters for TensorBoard, which shows all runs below the folder it is given."""

    logdir: str = "."  # the folder that all runs are below, for whoever looks at them

    def __post_init__(self) -> None:
        if find_spec("tensorboard") is None:
            raise ConfigError(
                'tracking=tensorboard needs TensorBoard; pip install "dptrain[tensorboard]", or choose '
                "tracking=csv"
            )

    @property
    def command(self) -> str:
        """What to type to look at the runs."""
        return f"tensorboard --logdir {shlex.quote(self.logdir)}"

    @contextmanager
    def open(self, name: str, folder: Path, resume_id: str | None = None) -> Iterator[NullRun]:  # noqa: ARG002
        """A tracker that writes below this folder."""
        run = TensorBoardRun(folder / FOLDER)
        try:
            yield run
        finally:
            run.end()


class TensorBoardRun(NullRun):
    """The tracker of one run: a curve a metric; parameters beside the last metrics, where runs compare."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._params: dict[str, Any] = {}
        self._last: dict[str, float] = {}

    @cached_property
    def _writer(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter  # which takes seconds, and writes a file

        return SummaryWriter(self._folder)

    def params(self, values: Mapping[str, Any]) -> None:
        new = flatten(redacted(values))
        self._params |= {name: value for name, value in new.items() if value is not None}

    def metric(self, name: str, value: float, step: int = 0) -> None:
        if not math.isinf(value):
            self._writer.add_scalar(name, value, step)
            self._last[name] = value

    def end(self) -> None:
        """Write the parameters, with the names of the metrics that runs compare by."""
        if not self._last:
            return
        from torch.utils.tensorboard.summary import hparams

        for each in hparams(self._params, self._last):
            self._writer._get_file_writer().add_summary(each)
        self._writer.close()
