"""An .npz file with MedMNIST's keys: {split}_images and {split}_labels."""

import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from medrobust.data.image import from_array
from medrobust.data.sources.medmnist import medmnist_tasks
from medrobust.data.sources.selection import balanced
from medrobust.data.sources.ticks import masks, several
from medrobust.data.task import Dataset, Task
from medrobust.data.taskfile import load_task
from medrobust.errors import DataError
from medrobust.types import Image, Preprocess

# RuntimeError: what zipfile says of an unknown compression or of a password.
_UNREADABLE = (OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


def task_of(path: Path) -> Task:
    """The task whose MedMNIST name the file's name starts with. Raises `DataError` when there is none."""
    task = medmnist_tasks().get(re.split(r"[_.]", path.name)[0].lower())
    if task is None:
        raise DataError(
            f"the name of {path} is not that of a MedMNIST set ({', '.join(medmnist_tasks())}), so its classes are "
            "unknown; pass --task NAME or --task FILE.yaml"
        )
    return load_task(task)


def open_archive(
    path: Path, task: Task, *, source: str, preprocess: Preprocess, split: str, limit: int | None
) -> Dataset:
    """One split of the file, held in memory; the ids are `{split}/{row}`.

    Images are uint8, `N x H x W` or `N x H x W x 3`; labels are integers, `N` or `N x 1`, or a column of 0 and 1 for
    each finding of the task. Nothing is unpickled, and a class may have no image. Raises `DataError` naming
    what was found and what was expected.
    """
    images, targets = read_split(path, split, task)
    _check_range(targets, task, f"{path}: {split}_labels")
    rows = balanced(targets, limit)
    chosen = images[rows]

    def read(i: int) -> Image:
        return from_array(chosen[i], preprocess)

    return Dataset(
        task=task,
        ids=tuple(f"{split}/{row}" for row in rows),
        targets=tuple(targets[row] for row in rows),
        read=read,
        source=source,
        split=split,
    )


def read_split(path: Path, split: str, task: Task | None = None) -> tuple[np.ndarray, list[int]]:
    """Images and label numbers, whatever the classes are, unless they are findings.

    Raises `DataError` as `open_archive` does.
    """
    images, labels = _arrays(path, split, "images", "labels")
    _check_images(images, f"{path}: {split}_images")
    where = f"{path}: {split}_labels"
    alone = task is not None and task.of is not None and labels.size == len(labels)  # its own labels
    targets = masks(labels, task, where) if task and several(task) and not alone else _targets(labels, where)
    if len(images) != len(targets):
        raise DataError(f"{path} has {len(images)} images but {len(targets)} labels in split {split}")
    return images, targets


def splits_of(path: Path) -> list[str]:
    """The splits that have images, in the file's order. Raises `DataError` for a file of another kind."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            names = [key.removesuffix("_labels") for key in archive.files if key.endswith("_labels")]
            found = [name for name in names if archive[f"{name}_labels"].size]
    except (*_UNREADABLE, AttributeError, TypeError) as error:
        raise DataError(f"{path} cannot be read as an .npz file: {error}; fetch it again") from error
    if not found:
        raise DataError(f"{path} has no split with labels; expected the keys of MedMNIST, such as test_labels")
    return found


def read_images(path: Path, split: str) -> np.ndarray:
    """The images of a split without their labels. Raises `DataError` with what was found and what was expected."""
    (images,) = _arrays(path, split, "images")
    _check_images(images, f"{path}: {split}_images")
    return images


def _arrays(path: Path, split: str, *parts: str) -> list[np.ndarray]:
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(
                f"{path} {'is not an .npz file, or only the beginning of one' if path.exists() else 'does not exist'}; "
                "fetch it again"
            )
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            keys = [f"{split}_{part}" for part in parts]
            missing = [key for key in keys if key not in archive]
            if missing:
                raise DataError(
                    f"{path} has no {' and no '.join(missing)}, only {', '.join(archive.files) or 'nothing'}"
                )
            arrays = [archive[key] for key in keys]
            if len(np.atleast_1d(arrays[-1])) == 0:
                others = [key[:-7] for key in archive.files if key.endswith("_labels") and archive[key].size]
                raise DataError(f"split {split} of {path} is empty; {', '.join(others) or 'no split'} has images")
            return arrays
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an .npz file: {error}; fetch it again") from error


def _check_images(images: np.ndarray, where: str) -> None:
    grey, colour = images.ndim == 3, images.ndim == 4 and images.shape[-1] == 3
    if images.dtype != np.uint8 or not (grey or colour) or 0 in images.shape[1:]:
        raise DataError(
            f"{where} is {images.dtype} of shape {images.shape}, expected uint8 of shape N x H x W or N x H x W x 3"
        )


def _targets(labels: np.ndarray, where: str) -> list[int]:
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise DataError(
            f"{where} has {labels.shape[1]} columns, so an image has several labels; expected one column, or a task "
            "with `findings`"
        )
    if labels.ndim not in (1, 2) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{where} is {labels.dtype} of shape {labels.shape}, expected integers of shape N or N x 1")
    targets: list[int] = labels.reshape(-1).tolist()
    return targets


def _check_range(targets: list[int], task: Task, where: str) -> None:
    if task.absent:
        return
    for row, label in enumerate(targets):
        if not 0 <= label < len(task.classes):
            raise DataError(
                f"{where} has label {label} in row {row}, but task {task.name} has only the labels 0 to "
                f"{len(task.classes) - 1}: {task.describe()}"
            )
