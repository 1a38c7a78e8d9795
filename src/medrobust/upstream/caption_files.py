"""Captions in a .csv or .jsonl file, one a row, as ROCOv2, MediCaT and `medrobust poison` write them.

What a row is called stands in a column such as `ID`, or `image` where that is a path; MediCaT's rows are called
`{pdf_hash}_{fig_uri}`, as its figures are. Rows of questions and answers become statements (`statements.py`).
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.data.sources.folder import SUFFIXES
from medrobust.errors import DataError, nearest
from medrobust.upstream.statements import is_question, statements

IDS = ("id", "image_id", "name", "image_name")
IMAGES = ("image", "path", "file", "file_name", "filename")
CAPTIONS = ("caption", "s2orc_caption", "s2_caption", "text")  # the first that is not blank


class CaptionRow(NamedTuple):
    """One row: what the image is called, where it lies if the row says so, and its caption, blank where missing."""

    line: int
    id: str
    image: str
    caption: str


class Cells(NamedTuple):
    """A row as it stands in the file."""

    line: int
    values: dict[str, Any]


def read_captions(
    path: Path, *, split: str = "train", id_column: str | None = None, caption_column: str | None = None
) -> list[CaptionRow]:
    """All rows of a file in its order, each called differently; `split` chooses among rows of questions and answers.

    Raises `DataError`, with file and line, for anything that cannot be understood.
    """
    table = _table(path)
    if not table:
        raise DataError(f"{path} has no row, expected one caption a row")
    if caption_column is None and is_question(table[0].values):
        rows = [CaptionRow(*row) for row in statements([(row.line, row.values) for row in table], split, str(path))]
    else:
        rows = _rows(path, table, id_column, caption_column)
    lines: dict[str, int] = {}
    for row in rows:
        first = lines.setdefault(row.id, row.line)
        if first != row.line:
            raise DataError(f"{path}, line {row.line}: the id {row.id!r} stands in line {first} already; keep one")
    return rows


def bare(name: str) -> str:
    """A name without the extension of an image.

    >>> bare("ROCOv2_train_1.jpg"), bare("a/2-Figure1-1.png"), bare("v1.5")
    ('ROCOv2_train_1', 'a/2-Figure1-1', 'v1.5')
    """
    end = Path(name).suffix
    return name[: -len(end)] if end.lower() in SUFFIXES else name


def _rows(path: Path, table: Sequence[Cells], id_column: str | None, caption_column: str | None) -> list[CaptionRow]:
    columns = list(dict.fromkeys(key for row in table for key in row.values))
    captions = _columns(path, columns, caption_column, CAPTIONS, "caption")
    if id_column is None and {"pdf_hash", "fig_uri"} <= set(columns):
        names, images = ["pdf_hash", "fig_uri"], []
    else:
        names = _columns(path, columns, id_column, (*IDS, *IMAGES), "id")[:1]
        images = [] if id_column else [key for key in columns if key.lower() in IMAGES][:1]
    rows = []
    for line, values in table:
        parts = [_text(path, line, key, values.get(key)) for key in names]
        if not all(parts):
            raise DataError(f"{path}, line {line}: no {' and no '.join(names)}; every row must say its image")
        image = _text(path, line, images[0], values.get(images[0])) if images else ""
        texts = (_text(path, line, key, values.get(key)) for key in captions)
        name = "_".join(parts) if image else bare("_".join(parts))
        rows.append(CaptionRow(line, name, image, next((text for text in texts if text), "")))
    return rows


def _columns(path: Path, columns: Sequence[str], given: str | None, known: Sequence[str], what: str) -> list[str]:
    """The column that was named, or all those whose name is known, in the order of the known ones."""
    if given is not None:
        if given in columns:
            return [given]
        raise DataError(f"{path} has no column {given!r}{nearest(given, columns)}; its columns are {_listed(columns)}")
    found = [key for name in known for key in columns if key.lower() == name]
    if not found:
        raise DataError(
            f"{path} has no column that is known to hold the {what}, only {_listed(columns)}; pass --{what}-column"
        )
    return found


def _text(path: Path, line: int, key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{path}, line {line}: {key} is {value!r}, expected text")
    return str(value).strip()


def _table(path: Path) -> list[Cells]:
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise DataError(f"captions are read from a .csv or .jsonl file, got {path}")
    try:
        return _json_table(path) if kind == ".jsonl" else _csv_table(path)
    except OSError as error:
        raise DataError(f"captions {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"captions {path} are not UTF-8 text (byte {error.start}); save them as UTF-8") from error


def _csv_table(path: Path) -> list[Cells]:
    rows: list[Cells] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for values in reader:
                if None in values:
                    raise DataError(f"{path}, line {reader.line_num}: more cells than columns; quote the commas")
                rows.append(Cells(reader.line_num, values))
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.reader.line_num}: {error}; save it as CSV again") from error
    return rows


def _json_table(path: Path) -> list[Cells]:
    rows = []
    for line, text in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path}, line {line}: not JSON ({getattr(error, 'msg', error)})") from error
        if not isinstance(values, dict):
            raise DataError(f"{path}, line {line}: {text.strip()[:40]!r} is no object with an id and a caption")
        rows.append(Cells(line, values))
    return rows


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns) or "none"
