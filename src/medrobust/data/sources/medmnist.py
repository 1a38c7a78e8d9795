"""MedMNIST files on this machine. Nothing is ever downloaded."""

import os
import re
from functools import cache
from pathlib import Path

from medrobust.data.taskfile import load_task, task_names
from medrobust.errors import DataError

SIZES = (28, 64, 128, 224)  # pixels; a file of 28 is official without its size in the name


@cache
def medmnist_tasks() -> dict[str, str]:
    """MedMNIST name -> name of the task that goes with it."""
    tasks = [load_task(name) for name in task_names()]
    return {task.medmnist: task.name for task in tasks if task.medmnist is not None}


def is_archive_name(name: str) -> bool:
    """True for a source that means an .npz file: a MedMNIST name with or without its size, or a path ending in .npz."""
    return name.lower().endswith(".npz") or re.sub(r"_\d+$", "", name) in medmnist_tasks()


def find_archive(name: str) -> Path:
    """The .npz file that a MedMNIST name or a path means; a bare file name is also looked for among the data folders.

    Raises `DataError` with the places where it was looked for.
    """
    given = Path(name)
    if given.suffix.lower() == ".npz":
        if given.exists() or given.name != name:
            return given
        candidates = [folder / name for folder in _folders()]
    else:
        flag, _, size = name.partition("_")
        if size and int(size) not in SIZES:
            raise DataError(
                f"MedMNIST has {flag} at {', '.join(map(str, SIZES))} pixels, not at {size}; take one of them, or give "
                "the path of your own .npz file"
            )
        names = [name, flag] if size == "28" else [name]
        candidates = [folder / f"{it}{end}.npz" for folder in _folders() for it in names for end in ("", "_subset")]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise DataError(
        f"{name} was not found, looked for {', '.join(map(str, candidates))}; put the file there, set MEDROBUST_DATA "
        "to its folder, or give its path (official files: doi:10.5281/zenodo.10519652)"
    )


def _folders() -> list[Path]:
    own = os.environ.get("MEDROBUST_DATA")
    return [*([Path(own)] if own else []), Path.home() / ".medmnist"]
