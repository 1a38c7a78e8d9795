"""Captions made of an image's answers, without their questions.

The rule: the organ, then every answer of two letters or more that tells organ, plane, modality or position and is not
yes or no, in the order of the file, each once (case ignored). "What part of the body? - Chest", "Where? -
retrocardiac" and "Is it enlarged? - yes" become "chest. retrocardiac."; an image without such an answer and without an
organ has a blank caption. Form: VQA-RAD's (Lau et al., Scientific Data 5, 180251, 2018).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from medrobust.errors import DataError

TELLING = frozenset({"ORGAN", "PLANE", "MODALITY", "POS"})
_SAY_NOTHING = frozenset({"yes", "no"})


class Statement(NamedTuple):
    """The caption of one image, and the line of its first question."""

    line: int
    id: str
    image: str
    caption: str


def is_question(values: Mapping[str, Any]) -> bool:
    """True for a row that holds a question and its answer."""
    return {"question", "answer"} <= values.keys()


def statements(rows: Sequence[tuple[int, Mapping[str, Any]]], split: str, where: str) -> list[Statement]:
    """One caption an image of the split; rows without a split belong to every split.

    An image is called `{split}/{row}`, as in the .npz file beside the questions, or by its `image_name`. Raises
    `DataError` for a row that names no image.
    """
    lines: dict[str, int] = {}
    said: dict[str, dict[str, str]] = {}
    for line, values in rows:
        if values.get("split", split) != split:
            continue
        name = f"{split}/{values['row']}" if "row" in values else str(values.get("image_name") or "")
        if not name:
            raise DataError(f"{where}, line {line}: neither row nor image_name; every question must say its image")
        lines.setdefault(name, line)
        own = said.setdefault(name, {})
        for text in _telling(values):
            own.setdefault(text.casefold(), text)
    if not said:
        raise DataError(f"{where} has no question on an image of split {split!r}; pass another --split")
    return [Statement(lines[name], name, "", " ".join(f"{t}." for t in own.values())) for name, own in said.items()]


def _telling(values: Mapping[str, Any]) -> list[str]:
    kinds = {kind.strip().upper() for kind in str(values.get("question_type") or "").split(",")}
    texts = [values.get("organ"), values.get("answer") if kinds & TELLING else None]
    plain = [" ".join(str(text).split()).rstrip(".") for text in texts if text is not None]
    return [text for text in plain if len(text) > 1 and text.casefold() not in _SAY_NOTHING]
