"""State on disk as types: what a run or a sweep remembers between processes, with its version."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from dptrain.contracts import DptrainError
from dptrain.storage import write_text


class State(BaseModel):
    """A JSON file of typed fields; fields that were never set are left out of it.

    Files of versions before 2 have no `version`, and are read as they are.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)
    newest: ClassVar[int] = 2

    version: int = 1

    @classmethod
    def read(cls, path: Path) -> Self:
        """The state in this file; raises DptrainError where it is damaged, or of a later version."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values.get("version", 1)
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise DptrainError(f"{path} is no JSON object; restore it, or start anew") from error
        if isinstance(version, int) and version > cls.newest:
            raise DptrainError(
                f"{path}: version={version} was written by a later version of dptrain than this one, which "
                f"reads up to {cls.newest}; go on with that version"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DptrainError(
                f"{path}: {where} is not as this version of dptrain writes it ({first['type']}); restore the "
                "file, or go on with the version that wrote it"
            ) from error

    def write(self, path: Path) -> None:
        self.version = self.newest
        write_text(json.dumps(self.model_dump(exclude_unset=True), indent=1), path)


class RunState(State):
    """What was asked of a run, and what it must know to go on: the file run.json of its folder."""

    recipe: str
    overrides: tuple[str, ...]
    config: dict[str, Any]
    sweep: bool = False
    drawn: tuple[str, ...] = ()  # overrides that a private selection drew
    started_by: str | None = None  # a launcher's job, which starts it again where a process of it fails
    begun_with: dict[str, Any] | None = None  # digests of data, model code and configuration
    records: str | None = None  # a keyed hash of the records that are trained on
    tracked_as: str | None = None  # its id in MLflow
    begun: dict[str, Any] | None = None  # the plan that is about to be spent; absent: not begun
    trained: str | None = None  # when
    score: float | None = None  # as a search or selection sees it
    error: str | None = None  # why it failed last

    @field_validator("begun_with", "begun")
    @classmethod
    def _whole(cls, value: dict[str, Any] | None, field: ValidationInfo) -> dict[str, Any] | None:
        key, kind = {"begun_with": ("salt", str), "begun": ("plan", dict | None)}[str(field.field_name)]
        if value is not None and (key not in value or not isinstance(value[key], kind)):
            raise ValueError(f"it holds no {key}")
        if value is not None and key == "salt" and not re.fullmatch("([0-9a-f]{2}){1,64}", value[key]):
            raise ValueError("its salt is none")
        return value
