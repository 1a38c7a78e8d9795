"""Captions in a .csv or .jsonl file, one a row, as ROCOv2, MediCaT and `medrobust poison` write them.

The name of a row stands in a column such as `ID`, or `image` where that is a path; MediCaT's rows are called
`{pdf_hash}_{fig_uri}`, as its figures are. Rows of questions and answers become statements (`statements.py`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medrobust.data.sources.folder import SUFFIXES
from medrobust.data.sources.rows import Cells, check_ids, csv_cells, json_cells, reading, text_of
from medrobust.errors import DataError, nearest
from medrobust.pairs.statements import is_question, statements

IDS = ("id", "image_id", "name", "image_name")
IMAGES = ("image", "path", "file", "file_name", "filename")
CAPTIONS = ("caption", "s2orc_caption", "s2_caption", "text")  # the first that is not blank


class CaptionRow(NamedTuple):
    """One row: the image's name, its path if the row has one, and its caption, blank where missing."""

    line: int
    id: str
    image: str
    caption: str


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
    check_ids(path, [(row.line, row.id) for row in rows])
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
        parts = [text_of(values.get(key), key, path, line) for key in names]
        if not all(parts):
            raise DataError(f"{path}, line {line}: no {' and no '.join(names)}; every row must say its image")
        image = text_of(values.get(images[0]), images[0], path, line) if images else ""
        texts = (text_of(values.get(key), key, path, line) for key in captions)
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


def _table(path: Path) -> list[Cells]:
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise DataError(f"captions are read from a .csv or .jsonl file, got {path}")
    with reading(f"captions {path}", are="are", them="them"):
        return json_cells(path, expected="an id and a caption") if kind == ".jsonl" else csv_cells(path)[1]


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns) or "none"
