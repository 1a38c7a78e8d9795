"""A folder with one sub-folder a class, or one sub-folder a split and in it one a class."""

from pathlib import Path

from medrobust.data.dicom import DICOM_SUFFIXES
from medrobust.data.sources.files import LabelledFile
from medrobust.data.task import Task
from medrobust.errors import DataError, TaskError

SUFFIXES = DICOM_SUFFIXES | {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"
}  # fmt: skip
SPLITS = ("train", "val", "test")


def list_folder(folder: Path, task: Task, split: str) -> list[LabelledFile]:
    """The image files of a split in the order of their relative paths, which are their ids.

    A folder without splits serves every split. Hidden files and files without an image's suffix are left out, and
    images must lie directly in their class folder. Raises `TaskError`, listing both sides, when class folders and
    classes differ, and `DataError` when there is nothing to read.
    """
    if task.absent:
        raise TaskError(
            f"{folder} has one class an image, and several findings of task {task.name} may be in one; list the images "
            "in a manifest with a column of 1 and 0 for each"
        )
    root = _split_folder(folder, split)
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{root} has no sub-folder, expected one for each class: {task.describe()}")
    labels = task.match(names, str(root))
    listing = [file for name, label in labels.items() for file in _images(folder, root / name, label)]
    return sorted(listing, key=lambda file: file.id)


def _split_folder(folder: Path, split: str) -> Path:
    if (folder / split).is_dir():
        return folder / split
    present = [name for name in SPLITS if (folder / name).is_dir()]
    if present:
        raise DataError(f"{folder} has no split {split!r}, only {', '.join(present)}")
    return folder


def _images(folder: Path, home: Path, label: int) -> list[LabelledFile]:
    paths = [path for path in home.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not paths:
        inside = ", ".join(sorted(path.name for path in home.iterdir() if path.is_dir()))
        raise DataError(
            f"class folder {home} has no image directly in it{f' but the folders {inside}' * bool(inside)}; expected "
            f"files that end in {', '.join(sorted(SUFFIXES))}"
        )
    return [LabelledFile(path.relative_to(folder).as_posix(), path, label) for path in paths]
