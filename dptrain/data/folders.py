"""Which files of a user's folder are images to train on: parts, class folders, files; debris is left out."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from dptrain.contracts import DataError
from dptrain.data.dicom import is_dicom

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".dcm")
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# What systems and programs leave beside files, in lower case; hidden ones begin with a dot.
DEBRIS = {
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "thumbs.db",
    "desktop.ini", "dicomdir",
}  # fmt: skip


def find_parts(root: Path) -> dict[str, Path]:
    """The folders of train, val and test by their usual names in any case; without them, `root` is train.

    Raises DataError where two folders are one part, or where there is nothing but val and test.
    """
    found: dict[str, Path] = {}
    folders = class_folders(root)
    for name in folders:
        if (part := part_called(name)) is None:
            continue
        if part in found:
            raise DataError(
                f"data.root={root} holds both {found[part].name} and {name}, which are names of one part; "
                "keep one of them"
            )
        found[part] = root / name
    if "train" in found:
        return found
    if len(found) == len(folders) > 0:
        raise DataError(
            f"data.root={root} holds {' and '.join(folders)} but no folder `train`; name that of training "
            "images so, or rename these if they are classes"
        )
    return {"train": root}


def part_called(name: str) -> str | None:
    """The part that a usual name of one names, in any case; None: it names none."""
    return next((part for part, names in PARTS.items() if name.lower() in names), None)


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, in order."""
    return [path.name for path in _entries(folder) if path.is_dir()]


def list_images(folder: Path, classes: Sequence[str], *, nested: bool) -> list[tuple[Path, int]]:
    """Image files of the class folders, with their labels, in order of name.

    Raises DataError where a class is missing or empty, or holds nothing but folders, which are rather the
    classes, unless they are `nested` as the user says.
    """
    if class_folders(folder) != list(classes):
        raise DataError(
            f"{folder} holds the class folders {', '.join(class_folders(folder)) or 'none'}, "
            f"but the training images have {', '.join(classes)}: make them alike"
        )
    listed = []
    for label, name in enumerate(classes):
        found = list(_images(folder / name))
        if not found:
            raise DataError(
                f"{folder / name} holds no image ({', '.join(SUFFIXES)}): add some or remove the folder"
            )
        if not nested and not any(path.parent == folder / name for path in found):
            inside = class_folders(folder / name)
            raise DataError(
                f"{folder / name} holds only folders ({len(inside)}, such as {inside[0]}): if these are the "
                "classes, name the folder above them in data.root; if each is one patient's, set "
                "data.group_folder=true"
            )
        listed += [(path, label) for path in found]
    return listed


def group_by_folder(files: Sequence[tuple[Path, int]], folder: Path) -> list[str]:
    """Whose image each file is: the name of the folder that holds it, right in its class folder."""
    groups = []
    for path, _ in files:
        inside = path.relative_to(folder).parts[1:-1]
        if not inside:
            raise DataError(
                f"{path} lies in its class folder itself, but data.group_folder=true takes the folder "
                "between as whose image it is; move it into one"
            )
        groups.append(inside[0])
    return groups


def group_by_table(files: Sequence[tuple[Path, int]], root: Path, table: str) -> list[str]:
    """Whose image each file is: by a CSV below `root` with the columns `file` and `group`.

    A `file` is a path below `root`, or a bare name that no two images share.
    """
    found = read_table(files, root, table, ("group",))["group"]
    if absent := [place for place, group in enumerate(found, 1) if not group]:
        raise DataError(
            f"data.group_file={table} does not say whose {len(absent)} of the images are (the first is "
            f"number {absent[0]} by class and name); give each a row and a group"
        )
    return found


def read_table(
    files: Sequence[tuple[Path, int]], root: Path, table: str, columns: Sequence[str]
) -> dict[str, list[str]]:
    """What columns of a CSV below `root` say of each file; nothing where it has no row, or an empty cell."""
    path = root / table
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"data.group_file={table} cannot be read below {root} ({type(error).__name__}): give a CSV in "
            f"UTF-8 with the columns file and {' and '.join(columns)}"
        ) from error
    if not rows or not {"file", *columns} <= rows[0].keys():
        wanted = " and ".join(["file", *columns])
        raise DataError(f"data.group_file={table} must have the columns {wanted}, and a row an image")
    named = {(row["file"] or "").strip(): row for row in rows}
    if len(named) < len(rows):
        raise DataError(f"data.group_file={table} names a file twice; give each image one row")
    paths = [image.relative_to(root).as_posix() for image, _ in files]
    keys = [path if path in named else image.name for path, (image, _) in zip(paths, files, strict=True)]
    known = [key for key in keys if key in named]
    if len(set(known)) < len(known):
        raise DataError(
            f"data.group_file={table} gives bare names that several folders hold; give paths below {root}"
        )
    return {column: [(named.get(key, {}).get(column) or "").strip() for key in keys] for column in columns}


def refuse_shared(groups: Mapping[str, Sequence[str]], where: str) -> None:
    """Raise DataError where someone's images are in two parts."""
    for first, second in combinations([part for part in PARTS if part in groups], 2):
        if shared := set(groups[first]) & set(groups[second]):
            places = [
                next(at for at, name in enumerate(groups[part], 1) if name in shared)
                for part in (first, second)
            ]
            raise DataError(
                f"{where}: {len(shared)} patients have images in both {first} and {second} (the first are "
                f"images {places[0]} and {places[1]}, in order): keep all images of a patient in one part"
            )


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, in order of name, but for hidden and system files and folders."""
    return sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower() not in DEBRIS
    )


def _images(folder: Path) -> Iterator[Path]:
    """Image files of a folder and of those in it; no link to a folder is followed, for it may lead back."""
    for path in _entries(folder):
        if path.is_dir():
            if not path.is_symlink():
                yield from _images(path)
        elif path.is_file() and (path.suffix.lower() in SUFFIXES or is_dicom(path)):
            yield path
