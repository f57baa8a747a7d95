"""Images of a data set of Hugging Face, in a folder or on the hub, which the extra `hf` reads."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import torch

from dptrain.contracts import ConfigError, DataError, Records, Splits
from dptrain.data.checks import class_names, to_labels
from dptrain.data.columns import as_text
from dptrain.data.files import cache_folder
from dptrain.data.folders import part_called, refuse_shared
from dptrain.data.pixels import LOOKED_AT, Images, Pixels
from dptrain.data.splits import Cut, assignment_key, number_groups

SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves
SECONDS = 5  # that the hub may take to say what it has


@dataclass(frozen=True, kw_only=True)
class HuggingFace(Cut):
    """Images and labels of `path`: a folder (of save_to_disk, Parquet files or images), or a name on the hub.

    `image`, `label` and `group` name columns; those of one `group` are never divided. Parts go by their usual
    names; one that is missing is cut from the training images, each by a keyed hash of itself. `classes`
    names the labels where the data set itself does not. Else as of an image folder. What is not of
    save_to_disk is copied into `cache`.
    """

    path: str
    size: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    image: str = "image"
    label: str = "label"
    group: str | None = None
    classes: Sequence[Any] | None = None
    subset: str | None = None
    revision: str | None = None
    mode: str = "grayscale"
    range: Sequence[float] | None = None
    lazy: bool = False
    workers: int | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.pixels
        if self.classes is not None:
            class_names(self.classes)

    @cached_property
    def pixels(self) -> Pixels:
        """How its images are read."""
        return Pixels(size=self.size, mode=self.mode, range=self.range, workers=self.workers)

    def load(self, rng: torch.Generator) -> Splits:
        key, parts = assignment_key(rng, self.split_key), self._parts(_datasets())
        classes = self._classes(parts["train"])
        groups = {part: self._groups(part, rows) for part, rows in parts.items()} if self.group else {}
        refuse_shared(groups, self.path)
        records = {part: self._records(part, rows, classes) for part, rows in parts.items()}
        height, width = self.size
        return self.cut(
            records,
            number_groups(groups["train"]) if groups else None,
            number_groups(groups["val"]) if "val" in groups else None,
            key,
            name=Path(self.path).name,
            source=f"{self.path}, images as {height}x{width} {self.mode}",
            classes=classes,
            mean=self.mean,
            std=self.std,
            raw=self.pixels.raw,
        )

    def _parts(self, datasets: ModuleType) -> Mapping[str, Any]:
        """The parts that the data set has, their images not decoded."""
        found = self._found(datasets)
        named = found if isinstance(found, datasets.DatasetDict) else {"train": found}
        parts = {part: rows for name, rows in named.items() if (part := part_called(name)) is not None}
        if "train" not in parts:
            raise DataError(
                f"data.path={self.path} has the parts {', '.join(named)} but none called train; rename one"
            )
        wanted = [self.image, self.label, *([] if self.group is None else [self.group])]
        for part, rows in parts.items():
            if lacking := [name for name in wanted if name not in rows.column_names]:
                raise DataError(
                    f"data.path={self.path} has no column {' or '.join(lacking)} in {part}, but "
                    f"{', '.join(rows.column_names)}: name them in data.image, data.label and data.group"
                )
            if not isinstance(rows.features[self.image], datasets.Image):
                raise DataError(
                    f"data.image={self.image} is no column of images; of a table make a Parquet file, for "
                    "data=tabular"
                )
        raw = datasets.Image(decode=False)
        return {part: rows.cast_column(self.image, raw) for part, rows in parts.items()}

    def _found(self, datasets: ModuleType) -> Any:
        folder = Path(self.path).expanduser()
        local = folder.is_dir()
        try:
            if local and any((folder / name).is_file() for name in SAVED):
                return datasets.load_from_disk(str(folder))
            if not local and not datasets.config.HF_HUB_OFFLINE:
                _ask_hub(self.path, self.revision)
            return datasets.load_dataset(
                str(folder) if local else self.path,
                self.subset,
                revision=None if local else self.revision,
                cache_dir=str(cache_folder(self.cache) / "hf"),
            )
        except Exception as error:  # of many libraries; their texts may quote a record
            where = (
                "cannot be read" if local else "is no folder here, and no hub that answers has a data set so"
            )
            raise DataError(
                f"data.path={self.path} {where} ({type(error).__name__}): give a folder that save_to_disk "
                "made, or one of Parquet files or images; or the name of a data set on the hub, with a "
                "network (or HF_HUB_OFFLINE=1 and a copy in data.cache), and perhaps data.subset"
            ) from error

    def _classes(self, train: Any) -> tuple[str, ...]:
        """The names of the labels: the data set's own, or else declared."""
        own = getattr(train.features[self.label], "names", None)
        if own is None and self.classes is None:
            raise ConfigError(
                f"data.classes=null, but data.label={self.label} of {self.path} has no names of its own: "
                "name its values, in label order; e.g. data.classes=[healthy,ill]"
            )
        declared = class_names(own if self.classes is None else self.classes)
        if own is not None and declared != class_names(own):
            raise ConfigError(
                f"data.classes={list(declared)}, but data.label={self.label} of {self.path} has names of its "
                f"own, {', '.join(own)}: set data.classes=null"
            )
        return declared

    def _labels(self, part: str, rows: Any, classes: Sequence[str]) -> torch.Tensor:
        values = rows[self.label][:]
        if getattr(rows.features[self.label], "names", None) is None:
            place = {name: at for at, name in enumerate(classes)}
            values = [place.get(as_text(value), -1) for value in values]
        known = np.asarray([-1 if value is None else value for value in values])
        return to_labels(known, name=f"data.label={self.label} in {part}", num_classes=len(classes))

    def _groups(self, part: str, rows: Any) -> list[str]:
        values = rows[self.group][:]
        if None in values:
            at = values.index(None)
            raise DataError(f"data.group={self.group} of record {at} in {part} is empty; say whose it is")
        return [as_text(value) for value in values]

    def _records(self, part: str, rows: Any, classes: Sequence[str]) -> Records:
        images = rows.select_columns([self.image])

        def stored(at: int) -> tuple[Path | BinaryIO, str]:
            where = f"image {at} in {part} of {self.path}"
            return _file(images[at][self.image], where), where

        if part == "train":
            some = range(0, len(images), max(1, len(images) // LOOKED_AT))
            self.pixels.refuse_dark((stored(at)[0] for at in some), f"data.path={self.path}")
        decoded = Images(range(len(images)), lambda at: self.pixels.read(*stored(at)), self.pixels.threads)
        records = Records(decoded, self._labels(part, rows, classes))
        return records if self.lazy else records.read()


def _datasets() -> ModuleType:
    """The library, without its bars, one for each part that it copies."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError('data=hf needs the library datasets: pip install "dptrain[hf]"') from error
    datasets.disable_progress_bars()
    module: ModuleType = datasets
    return module


def _ask_hub(name: str, revision: str | None) -> None:
    """Fail soon where the hub cannot be reached, which the library would try for half a minute."""
    from huggingface_hub import HfApi

    HfApi().dataset_info(name, revision=revision, timeout=SECONDS)


def _file(cell: Mapping[str, Any] | None, where: str) -> Path | BinaryIO:
    """What an image is stored as: bytes in the table, or a file beside it."""
    if cell is None:
        raise DataError(f"{where} is empty: remove the record")
    return Path(cell["path"]) if cell["bytes"] is None else io.BytesIO(cell["bytes"])
