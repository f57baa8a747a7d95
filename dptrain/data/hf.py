"""Images of a data set of Hugging Face, in a folder or on the hub, which the extra `hf` reads."""

from __future__ import annotations

import io
import logging
import re
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
from dptrain.data.pixels import Images, Pixels, looked_at
from dptrain.data.splits import Cut, assignment_key, number_groups

SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
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
        key, datasets = assignment_key(rng, self.split_key), _datasets()
        found = self._found(datasets)
        named = found if isinstance(found, datasets.DatasetDict) else {"train": found}
        parts = self._parts(named, datasets)
        unused = [name for name in named if part_called(name) is None]
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
            tested_groups=number_groups(groups["test"]) if "test" in groups else None,
            name=Path(self.path).name,
            source=f"{self.path}, images as {height}x{width} {self.mode}"
            + (f"; not used: {', '.join(unused)}" if unused else ""),
            classes=classes,
            mean=self.mean,
            std=self.std,
            raw=self.pixels.raw,
        )

    def _parts(self, named: Mapping[str, Any], datasets: ModuleType) -> Mapping[str, Any]:
        """The parts among what is called so, their images not decoded."""
        called = [(part, name) for name in named if (part := part_called(name)) is not None]
        parts = {part: named[name] for part, name in called}
        if len(parts) < len(called):
            raise DataError(
                f"data.path={self.path} has the parts {', '.join(named)}, two of which are names of one; "
                "keep one of them"
            )
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
            if len(rows) == 0:
                raise DataError(f"data.path={self.path} has no records in {part}: give it some, or remove it")
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
        beside = folder.parent != Path() and folder.parent.is_dir()
        if not local and (beside or HUB_NAME.fullmatch(self.path) is None):
            raise DataError(
                f"data.path={self.path} is no folder here: correct it; the hub is asked only for NAME or "
                "OWNER/NAME, where no folder is called OWNER"
            )
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
            ) from None

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
        own = getattr(rows.features[self.label], "names", None)  # each part may number them its own way
        name_of = as_text if own is None else {at: name.strip() for at, name in enumerate(own)}.get
        place: Mapping[str | None, int] = {name: at for at, name in enumerate(classes)}
        known = [-1 if value is None else place.get(name_of(value), -1) for value in rows[self.label][:]]
        return to_labels(
            np.asarray(known), name=f"data.label={self.label} in {part}", num_classes=len(classes)
        )

    def _groups(self, part: str, rows: Any) -> list[str]:
        groups = ["" if value is None else as_text(value).strip() for value in rows[self.group][:]]
        if "" in groups:
            at = groups.index("")
            raise DataError(f"data.group={self.group} of record {at} in {part} is empty; say whose it is")
        return groups

    def _records(self, part: str, rows: Any, classes: Sequence[str]) -> Records:
        images = rows.select_columns([self.image])

        def stored(at: int) -> tuple[Path | BinaryIO, str]:
            where = f"image {at} in {part} of {self.path}"
            return _file(images[at][self.image], where), where

        if part == "train":
            some = (stored(at)[0] for at in looked_at(len(images)))
            self.pixels.refuse_dark(some, f"data.path={self.path}")
        decoded = Images(range(len(images)), lambda at: self.pixels.read(*stored(at)), self.pixels.threads)
        records = Records(decoded, self._labels(part, rows, classes))
        return records if self.lazy else records.read()


def _datasets() -> ModuleType:
    """The library, without bars for what it copies, and without its log, which may quote a record."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError('data=hf needs the library datasets: pip install "dptrain[hf]"') from error
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL + 1)
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
