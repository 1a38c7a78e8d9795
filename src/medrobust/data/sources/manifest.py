"""A list of images in a .csv or .jsonl file: path, label, and if wanted split and id."""

from pathlib import Path
from typing import Any, NamedTuple

from medrobust.data.sources.files import LabelledFile
from medrobust.data.sources.rows import Cells, check_ids, csv_cells, json_cells, reading, text_of
from medrobust.data.sources.ticks import several, ticked
from medrobust.data.task import Task
from medrobust.errors import DataError, TaskError


class Row(NamedTuple):
    """One image of a manifest, as it is written there."""

    line: int
    path: str
    label: str
    split: str  # empty: belongs to every split
    id: str
    cells: dict[str, Any]  # all of the row, where findings may have columns of their own


def list_manifest(manifest: Path, task: Task, split: str) -> list[LabelledFile]:
    """The images of a split in the manifest's order; relative paths start at the manifest's folder.

    A row without a split belongs to every split; a row without an id is called by its path. Where a task has findings,
    each has a column of 1 and 0, or `label` holds their names. Raises `TaskError` for a label that the task does not
    know or a class without an image, and `DataError`, with the line, for anything else.
    """
    rows = read_manifest(manifest, task)
    chosen = [row for row in rows if row.split in ("", split)]
    if not chosen:
        found = ", ".join(sorted({row.split for row in rows}))
        raise DataError(f"manifest {manifest} has no row of split {split!r}, only {found or 'a header or nothing'}")
    listing = [_file(row, manifest, task) for row in chosen]
    check_ids(manifest, [(row.line, row.id) for row in chosen])
    if not several(task):  # a finding may be rare
        task.match(
            [task.classes[label] for label in sorted({file.label for file in listing})], f"split {split} of {manifest}"
        )
    return listing


def read_manifest(manifest: Path, task: Task | None = None) -> list[Row]:
    """All rows; the files that they name are not opened. Raises `DataError` for a file that is not a manifest."""
    needed = ("path",) if several(task) else ("path", "label")
    with reading(f"manifest {manifest}"):
        if manifest.suffix.lower() == ".jsonl":
            return [_row(row, manifest, needed) for row in json_cells(manifest, expected=" and ".join(needed))]
        return _csv_rows(manifest, needed)


def label_of(row: Row, task: Task) -> int:
    """The label of a row in this task; raises `TaskError` or `DataError`."""
    return ticked(row.cells, row.label, task) if several(task) else task.index_of(row.label)


def _file(row: Row, manifest: Path, task: Task) -> LabelledFile:
    try:
        label = label_of(row, task)
    except (TaskError, DataError) as error:
        raise type(error)(f"{manifest}, line {row.line}: {error}") from error
    path = manifest.parent / row.path
    if not path.is_file():
        raise DataError(f"{manifest}, line {row.line}: there is no file {path}")
    return LabelledFile(row.id, path, label)


def _csv_rows(manifest: Path, needed: tuple[str, ...]) -> list[Row]:
    columns, rows = csv_cells(manifest)
    missing = [key for key in needed if key not in columns]
    if missing:
        found = ", ".join(columns) or "none"
        raise DataError(f"manifest {manifest} has no column {' and no column '.join(missing)}, only {found}")
    return [_row(row, manifest, needed) for row in rows]


def _row(row: Cells, manifest: Path, needed: tuple[str, ...]) -> Row:
    keys = ("path", "label", "split", "id")
    path, label, split, name = (text_of(row.values.get(key), key, manifest, row.line) for key in keys)
    lacking = [key for key, value in (("path", path), ("label", label)) if key in needed and not value]
    if lacking:
        raise DataError(f"{manifest}, line {row.line}: no {lacking[0]}; every row needs a {' and a '.join(needed)}")
    return Row(row.line, path, label, split, name or Path(path).as_posix(), dict(row.values))
