"""Synthetic blood smears as a source: nothing to download, the same images for every seed."""

from medrobust.data.image import from_array
from medrobust.data.sources.selection import balanced
from medrobust.data.task import Dataset, Task
from medrobust.data.taskfile import load_task
from medrobust.errors import DataError, TaskError
from medrobust.types import Image, Preprocess

COUNTS = {"train": 1600, "val": 200, "test": 400}


def is_phantom(name: str) -> bool:
    """True for a source that means the phantom."""
    return name == "phantom" or name.startswith("phantom:")


def open_phantom(name: str, task: Task | None, *, preprocess: Preprocess, split: str, limit: int | None) -> Dataset:
    """`phantom`, or `phantom:COUNT`, whose image i is of class i modulo 8.

    Raises `DataError` when the count or the split is unknown, `TaskError` when the task has other classes.
    """
    count = count_of(name, split)
    task = phantom_task(task)
    chosen = balanced([i % len(task.classes) for i in range(count)], limit)
    ids = tuple(f"{split}/{i}" for i in chosen)
    targets = tuple(i % len(task.classes) for i in chosen)

    def read(i: int) -> Image:
        from medrobust.data.phantom import draw  # the only source that needs it

        return from_array(draw(targets[i], seed=0, item=ids[i]), preprocess)

    return Dataset(task=task, ids=ids, targets=targets, read=read, source=name, split=split)


def phantom_task(task: Task | None) -> Task:
    """That task, or the phantom's own. Raises `TaskError` where it has other classes."""
    own = load_task("phantom")
    if task is not None and task.classes != own.classes:
        raise TaskError(f"the phantom has the classes {own.describe()}, task {task.name} has {task.describe()}")
    return task or own


def count_of(name: str, split: str) -> int:
    """The number of images in a split. Raises `DataError`."""
    if split not in COUNTS:
        raise DataError(f"the phantom has no split {split!r}, only {', '.join(COUNTS)}")
    _, given, count = name.partition(":")
    if not given:
        return COUNTS[split]
    if not (count.isascii() and count.isdecimal() and len(count) < 8 and int(count) > 0):
        raise DataError(
            f"{name!r} asks for {count!r} images, expected a whole number from 1 to 9999999 as in phantom:400"
        )
    return int(count)
