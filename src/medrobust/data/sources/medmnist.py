"""Where a MedMNIST file lies on this machine. Nothing is ever downloaded."""

import os
import re
from functools import cache
from pathlib import Path

from medrobust.data.task import load_task, task_names
from medrobust.errors import DataError


@cache
def medmnist_tasks() -> dict[str, str]:
    """MedMNIST name -> name of the task that goes with it."""
    tasks = [load_task(name) for name in task_names()]
    return {task.medmnist: task.name for task in tasks if task.medmnist is not None}


def is_archive_name(name: str) -> bool:
    """Whether a source means an .npz file: a MedMNIST name with or without its size, or a path that ends so."""
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
        candidates = [folder / f"{name}{end}.npz" for folder in _folders() for end in ("", "_subset")]
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
