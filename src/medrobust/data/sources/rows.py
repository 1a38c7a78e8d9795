"""Rows of a .csv or .jsonl file, each with the line where it stands; shared by manifests and captions."""

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.errors import DataError


class Cells(NamedTuple):
    """A row as it stands in the file."""

    line: int
    values: dict[str, Any]


@contextmanager
def reading(what: str, *, are: str = "is", them: str = "it") -> Iterator[None]:
    """Raise `DataError`, in words, where a file of rows cannot be opened or is not UTF-8 text."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{what} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{what} {are} not UTF-8 text (byte {error.start}); save {them} as UTF-8") from error


def csv_cells(path: Path) -> tuple[list[str], list[Cells]]:
    """Columns and rows; none of either in an empty file. Raises `DataError`, with the line, where it is not CSV."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        rows: list[Cells] = []
        try:
            for values in reader:
                if None in values:
                    raise DataError(f"{path}, line {reader.line_num}: more cells than columns; quote the commas")
                rows.append(Cells(reader.line_num, values))
            return list(reader.fieldnames or []), rows
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.reader.line_num}: {error}; save it as CSV again") from error


def json_cells(path: Path, *, expected: str) -> list[Cells]:
    """Rows of one JSON object a line; `expected` says what must be in it. Raises `DataError`, with the line."""
    rows = []
    with path.open(encoding="utf-8-sig") as stream:
        for line, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                values = json.loads(text)
            except ValueError as error:
                raise DataError(f"{path}, line {line}: not JSON ({getattr(error, 'msg', error)})") from error
            if not isinstance(values, dict):
                raise DataError(f"{path}, line {line}: {text.strip()[:40]!r} is not an object with {expected}")
            rows.append(Cells(line, values))
    return rows


def text_of(value: Any, key: str, path: Path, line: int, *, unit: str = "line") -> str:
    """A cell as text, empty where there is none. Raises `DataError` for what is neither text nor a whole number."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{path}, {unit} {line}: {key} is {value!r}, expected text or a whole number")
    return str(value).strip()


def check_ids(path: Path, ids: Iterable[tuple[int, str]]) -> None:
    """Raise `DataError` where an id, given with its line, stands in two lines."""
    lines: dict[str, int] = {}
    for line, name in ids:
        first = lines.setdefault(name, line)
        if first != line:
            raise DataError(f"{path}, line {line}: the id {name!r} stands in line {first} already; keep one")
