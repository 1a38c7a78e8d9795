"""Findings of an image from its row of labels: a column each, names in one cell, or a row of a matrix."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from medrobust.data.task import NO_FINDING, Task, plain
from medrobust.errors import DataError

_TICKS = {"1": True, "1.0": True, "true": True, "yes": True, "0": False, "0.0": False, "false": False, "no": False}
_NONE = {NO_FINDING, "no findings", "none"}
_BETWEEN = "|"  # names in one cell, as in the tables of ChestX-ray14


def several(task: Task | None) -> Task | None:
    """The task with all findings, where this is one or a single finding of one; else None."""
    return task if task is not None and task.absent else task and task.of


def ticked(cells: Mapping[str, Any], label: str, task: Task) -> int:
    """The label of a row, of one finding or of all: from columns that bear their names, else from names in `label`.

    A column holds 1 or 0; of one finding only its own is read. Names stand between bars, `No Finding` for none of
    them. Raises `DataError` where a finding is neither there nor absent, `TaskError` for an unknown name.
    """
    every = several(task) or task
    asked = [every.classes.index(task.classes[1])] if task.of else list(range(len(every.classes)))
    columns = {place: column for column in cells for place in [_place(column, every)] if place is not None}
    if columns:
        missing = [every.classes[place] for place in asked if place not in columns]
        if missing:
            raise DataError(f"no column {', '.join(map(repr, missing))}; each finding of task {every.name} needs one")
        bits = [_tick(cells[columns[place]], columns[place]) for place in asked]
    else:
        named = _named(label, every)
        bits = [place in named for place in asked]
    return sum(bit << number for number, bit in enumerate(bits))


def masks(labels: Shaped[np.ndarray, "..."], task: Task, where: str) -> list[int]:
    """The labels of a matrix of 0 and 1, a column a finding. Raises `DataError` for any other array."""
    every = several(task) or task
    columns = labels.reshape(len(labels), -1)
    if columns.shape[1] != len(every.classes) or not np.isin(columns, (0, 1)).all():
        raise DataError(
            f"{where} is {labels.dtype} of shape {labels.shape}, expected 0 or 1 in {len(every.classes)} columns, one "
            f"for each finding of task {every.name}: {every.describe()}"
        )
    if task.of:
        return [int(bit) for bit in columns[:, every.classes.index(task.classes[1])]]
    return [sum(int(bit) << place for place, bit in enumerate(row)) for row in columns]


def _place(column: str, every: Task) -> int | None:
    names = zip(every.classes, every.aliases, strict=True)
    return next((at for at, (name, more) in enumerate(names) if plain(column) in map(plain, (name, *more))), None)


def _tick(cell: Any, column: str) -> bool:
    found = _TICKS.get(str(cell).strip().casefold())
    if found is None:
        raise DataError(
            f"{column} is {cell!r}, expected 1 (there) or 0 (absent); decide first what uncertain and empty ones are"
        )
    return found


def _named(label: str, every: Task) -> set[int]:
    words = [word.strip() for word in label.split(_BETWEEN) if word.strip()]
    if not words:
        raise DataError(f"neither a column for each finding of task {every.name} nor names in `label`")
    lacking = _NONE | set(map(plain, every.absent))
    return {every.index_of(word) for word in words if plain(word) not in lacking}
