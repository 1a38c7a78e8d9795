"""A list of images in a .csv or .jsonl file: path, label, and if wanted split and id."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.data.sources.files import LabelledFile
from medrobust.data.task import Task
from medrobust.errors import DataError, TaskError


class _Row(NamedTuple):
    line: int
    path: str
    label: str
    split: str  # empty: belongs to every split
    id: str


def list_manifest(manifest: Path, task: Task, split: str) -> list[LabelledFile]:
    """The images of a split in the manifest's order; relative paths start at the manifest's folder.

    A row without a split belongs to every split; a row without an id is called by its path. Raises `TaskError` for a
    label that the task does not know or a class without an image, and `DataError`, with the line, for anything else.
    """
    try:
        rows = list(_json_rows(manifest) if manifest.suffix.lower() == ".jsonl" else _csv_rows(manifest))
    except OSError as error:
        raise DataError(f"manifest {manifest} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"manifest {manifest} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    chosen = [row for row in rows if row.split in ("", split)]
    if not chosen:
        found = ", ".join(sorted({row.split for row in rows}))
        raise DataError(f"manifest {manifest} has no row of split {split!r}, only {found or 'a header or nothing'}")
    listing = [_file(row, manifest, task) for row in chosen]
    _check_ids(chosen, manifest)
    task.match(
        [task.classes[label] for label in sorted({file.label for file in listing})], f"split {split} of {manifest}"
    )
    return listing


def _file(row: _Row, manifest: Path, task: Task) -> LabelledFile:
    try:
        label = task.index_of(row.label)
    except TaskError as error:
        raise TaskError(f"{manifest}, line {row.line}: {error}") from error
    path = manifest.parent / row.path
    if not path.is_file():
        raise DataError(f"{manifest}, line {row.line}: there is no file {path}")
    return LabelledFile(row.id, path, label)


def _check_ids(rows: list[_Row], manifest: Path) -> None:
    lines: dict[str, int] = {}
    for row in rows:
        first = lines.setdefault(row.id, row.line)
        if first != row.line:
            raise DataError(f"{manifest}, line {row.line}: the id {row.id!r} stands in line {first} already")


def _csv_rows(manifest: Path) -> Iterator[_Row]:
    with manifest.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            missing = [key for key in ("path", "label") if key not in (reader.fieldnames or [])]
            if missing:
                found = ", ".join(reader.fieldnames or []) or "none"
                raise DataError(f"manifest {manifest} has no column {' and no column '.join(missing)}, only {found}")
            for cells in reader:
                if None in cells:
                    raise DataError(f"{manifest}, line {reader.line_num}: more cells than columns; quote the commas")
                yield _row(cells, manifest, reader.line_num)
        except csv.Error as error:
            raise DataError(f"{manifest}, line {reader.reader.line_num}: {error}") from error


def _json_rows(manifest: Path) -> Iterator[_Row]:
    with manifest.open(encoding="utf-8-sig") as stream:
        for line, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                cells = json.loads(text)
            except ValueError as error:
                raise DataError(f"{manifest}, line {line}: not JSON: {getattr(error, 'msg', error)}") from error
            if not isinstance(cells, dict):
                raise DataError(f"{manifest}, line {line}: {text.strip()[:40]!r} is no object with path and label")
            yield _row(cells, manifest, line)


def _row(cells: dict[str, Any], manifest: Path, line: int) -> _Row:
    path, label, split, name = (_cell(cells.get(key), key, manifest, line) for key in ("path", "label", "split", "id"))
    if not path or not label:
        raise DataError(
            f"{manifest}, line {line}: no {'label' if path else 'path'}; every row needs a path and a label"
        )
    return _Row(line, path, label, split, name or Path(path).as_posix())


def _cell(value: Any, key: str, manifest: Path, line: int) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"{manifest}, line {line}: {key} is {value!r}, expected text or a whole number")
    return str(value).strip()
