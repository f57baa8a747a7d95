"""A user's own folder of image files, one folder a class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from dptrain.contracts import ConfigError, DataError, Records, Splits
from dptrain.data.columns import MISSING
from dptrain.data.folders import (
    class_folders,
    find_parts,
    group_by_folder,
    group_by_table,
    list_images,
    read_table,
    refuse_shared,
)
from dptrain.data.labels import Target
from dptrain.data.pixels import Images, Pixels, looked_at
from dptrain.data.splits import Cut, assignment_key, number_groups


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Cut):
    """Image files of `root/<class>/`, or of `root/train/<class>/`, with `test` and `val` beside `train`.

    A part without a folder is cut from the training images, each by a keyed hash of itself. Images are
    resized to `size` (height, width in pixels) without keeping their proportions. Whose image it is, is
    captured by `group_pattern`, matched from the start of the file's name (`(patient\\d+)`), or said by the
    folder in the class folder that holds it (`group_folder`), or by a CSV (`group_file`); a patient is
    never divided. `subgroups` are further columns of that CSV, such as scanner, by which utility is told
    apart. Classes are the folders' names, in order, which is that of grades where `task` is ordinal.
    `range` declares the darkest and the brightest
    value of images deeper than 8 bits, and takes the place of the window of DICOM files. `lazy` decodes
    images when they are needed, for more than memory holds; `workers` threads decode (default: one a
    processor).
    """

    root: str
    size: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    mode: str = "grayscale"
    group_pattern: str | None = None
    group_folder: bool = False
    group_file: str | None = None
    subgroups: Sequence[str] = ()
    range: Sequence[float] | None = None
    lazy: bool = False
    workers: int | None = None
    task: str = "classification"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task not in ("classification", "ordinal"):
            raise ConfigError(
                f"data.task={self.task}: folders are classes; use classification, or ordinal where the "
                "order of their names is theirs"
            )
        _ = self.pixels
        if (self.group_pattern is not None) + self.group_folder + (self.group_file is not None) > 1:
            raise ConfigError(
                "data.group_pattern, data.group_folder and data.group_file are three ways to say whose an "
                "image is; choose one"
            )
        if self.subgroups and self.group_file is None:
            raise ConfigError(
                f"data.subgroups={list(self.subgroups)} are columns of data.group_file, which is null; name "
                "a CSV there with the columns file, group and these"
            )
        if self.group_pattern is not None:
            try:
                captures = re.compile(self.group_pattern).groups
            except re.error as error:
                raise ConfigError(
                    f"data.group_pattern={self.group_pattern} is no pattern ({error})"
                ) from error
            if captures != 1:
                raise ConfigError(
                    f"data.group_pattern={self.group_pattern} must capture one group; e.g. '(patient[0-9]+)'"
                )

    @cached_property
    def pixels(self) -> Pixels:
        """How its images are read."""
        return Pixels(size=self.size, mode=self.mode, range=self.range, workers=self.workers)

    def load(self, rng: torch.Generator) -> Splits:
        root, key = Path(self.root).expanduser(), assignment_key(rng, self.split_key)
        if not root.is_dir():
            raise DataError(f"data.root={root} is not a folder: name the folder that holds the class folders")
        parts = find_parts(root)
        classes = class_folders(parts["train"])
        if len(classes) < 2:
            raise DataError(
                f"{parts['train']} holds {len(classes)} class folders ({', '.join(classes) or 'none'}): "
                f"make one folder for each of at least two classes"
            )
        nested = self.group_folder or self.group_file is not None
        files = {part: list_images(folder, classes, nested=nested) for part, folder in parts.items()}
        patients = {part: self._patients(listed, parts[part]) for part, listed in files.items()}
        refuse_shared(patients, str(root))
        some = (files["train"][at][0] for at in looked_at(len(files["train"])))
        self.pixels.refuse_dark(some, f"data.root={self.root}")
        records = {part: self._read(listed) for part, listed in files.items()}
        height, width = self.size
        return self.cut(
            records,
            number_groups(patients["train"]) if patients["train"] else None,
            number_groups(patients["val"]) if patients.get("val") else None,
            key,
            tested_groups=number_groups(patients["test"]) if patients.get("test") else None,
            name=root.name,
            source=f"{root}, files as {height}x{width} {self.mode}",
            classes=classes,
            task=Target.of(self.task, classes=classes).task,
            subgroups=self._subgroups(files.get("test", files["train"])),
            mean=self.mean,
            std=self.std,
            raw=self.pixels.raw,
        )

    def _patients(self, files: Sequence[tuple[Path, int]], folder: Path) -> list[str]:
        """Whose image each file of a part is; none if nothing tells."""
        if self.group_folder:
            return group_by_folder(files, folder)
        if self.group_file is not None:
            return group_by_table(files, Path(self.root).expanduser(), self.group_file)
        if self.group_pattern is None:
            return []
        found = [re.match(self.group_pattern, path.name) for path, _ in files]
        for match, (path, _) in zip(found, files, strict=True):
            if match is None or not match[1]:
                raise DataError(
                    f"the name of {path} does not match data.group_pattern={self.group_pattern}: "
                    f"rename the file or widen the pattern"
                )
        return [match[1] for match in found if match]

    def _subgroups(self, files: Sequence[tuple[Path, int]]) -> dict[str, list[str]]:
        """What each file of a part is told apart by."""
        if self.group_file is None:
            return {}
        found = read_table(files, Path(self.root).expanduser(), self.group_file, self.subgroups)
        return {column: [value or MISSING for value in values] for column, values in found.items()}

    def _read(self, files: Sequence[tuple[Path, int]]) -> Records:
        rows = Images([path for path, _ in files], self._read_image, self.pixels.threads)
        labels = torch.tensor([label for _, label in files])
        return Records(rows, labels) if self.lazy else Records(rows, labels).read()

    def _read_image(self, path: Path) -> np.ndarray:
        return self.pixels.read(path, str(path))
