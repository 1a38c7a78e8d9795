"""Questions about images with their answers, in the forms of VQA-RAD and SLAKE. No torch here.

References: Lau et al., "A dataset of clinically generated visual questions and answers about radiology images",
Scientific Data 5 (2018) 180251 (VQA-RAD); Liu et al., "SLAKE: a semantically-labeled knowledge-enhanced dataset for
medical visual question answering", ISBI 2021.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from medrobust.data.sources.rows import Cells, csv_cells, json_cells, reading, text_of
from medrobust.errors import DataError

Kind = Literal["closed", "open"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_IMAGES, _IDS = ("image_name", "img_name", "image"), ("qid", "question_id", "id")
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val",
           "validation": "val", "dev": "val", "test": "test", "testing": "test"}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question, its image and the answer as it stands in the file."""

    id: str
    image: str  # a file's name; of an .npz, split and row with a slash
    text: str
    answer: str
    kind: Kind
    split: str
    place: str  # file and line, for sentences

    @property
    def truth(self) -> str:
        """The answer as answers are compared."""
        return normalised_answer(self.answer)


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one or several files, in their order, and those that were skipped."""

    questions: tuple[Question, ...]
    other_language: int  # left out
    guessed: int  # whose kind the file does not say: closed where the answer is yes or no
    skipped: tuple[str, ...] = ()  # where questions stand that were left out on request

    def of(self, split: str) -> tuple[Question, ...]:
        """Those of a split. Raises DataError where there is none."""
        found = tuple(question for question in self.questions if question.split == split)
        if not found:
            there = ", ".join(sorted({question.split for question in self.questions}))
            raise DataError(f"there is no question of split {split!r}, only of {there}; name one of these")
        return found


@dataclass(frozen=True)
class Vocabulary:
    """All that can be answered: the distinct answers of the training questions as they are compared, sorted."""

    answers: tuple[str, ...]

    @classmethod
    def of(cls, questions: Iterable[Question]) -> "Vocabulary":
        """Raises DataError where fewer than two answers leave nothing to choose from."""
        answers = tuple(sorted({question.truth for question in questions}))
        if len(answers) < 2:
            raise DataError(
                f"all questions to learn from have the answer {', '.join(answers) or 'none'}; give questions with two "
                "answers at least"
            )
        return cls(answers)

    def index_of(self, answer: str) -> int | None:
        """The class of an answer; None: it cannot be given, so every answer is wrong."""
        try:
            return self.answers.index(normalised_answer(answer))
        except ValueError:
            return None


def normalised_answer(answer: str) -> str:
    """An answer as it is compared: without case, final dots, and spaces beyond one between words.

    >>> normalised_answer("  Right   lung. "), normalised_answer("2")
    ('right lung', '2')
    """
    return " ".join(answer.casefold().split()).rstrip(" .")


def majority(questions: Iterable[Question]) -> dict[Kind, str]:
    """The most frequent answer of each kind; of several, the first in the alphabet."""
    counts: dict[Kind, Counter[str]] = {}
    for question in questions:
        counts.setdefault(question.kind, Counter())[question.truth] += 1
    return {kind: min(found, key=lambda answer: (-found[answer], answer)) for kind, found in counts.items()}


def read_questions(
    paths: Sequence[Path],
    *,
    language: str = "en",
    in_archive: bool = False,
    official: bool = False,
    skip_broken: bool = False,
) -> QuestionSet:
    """The questions of .json (a list), .jsonl or .csv files; column names in any case.

    A row's split is its `split`; else, as in VQA-RAD, `phrase_type` tells the test questions; else the file's name does
    (train, validate, test: SLAKE). `official`: `phrase_type` goes before `split`. `in_archive`: images are named by
    `split` and `row`. Raises DataError, naming file and line, for what cannot be used; with `skip_broken`, blank
    questions and answers are left out.
    """
    found: list[Question] = []
    other, guessed = 0, 0
    skipped: list[str] = []
    for path in paths:
        rows = _Rows(path, in_archive, official)
        for row in rows.cells:
            if rows.text(row, "q_lang").lower() not in ("", language.lower()):
                other += 1
                continue
            try:
                question = rows.question(row)
            except _BlankError as error:
                if not skip_broken:
                    raise DataError(f"{error}; mend it or pass --skip-broken") from None
                skipped.append(rows.place(row))
                continue
            guessed += not rows.text(row, "answer_type")
            found.append(question)
    _check_ids(found)
    if not found:
        why = f", {other} are in another language than {language}" if other else ""
        raise DataError(f"{', '.join(map(str, paths))}: no question is left{why}; give others, or another --language")
    return QuestionSet(tuple(found), other, guessed, tuple(skipped))


def _check_ids(questions: Iterable[Question]) -> None:
    places: dict[tuple[str, str], str] = {}
    for question in questions:
        first = places.setdefault((question.split, question.id), question.place)
        if first != question.place:
            raise DataError(f"{question.place}: the id {question.id!r} stands in {first} already; keep one")


class _BlankError(DataError):
    """A question or an answer without a word."""


class _Rows:
    """The rows of one file, and how its columns are read."""

    def __init__(self, path: Path, in_archive: bool, official: bool) -> None:
        self.path, self.in_archive, self.first = path, in_archive, official
        self.unit = "entry" if path.suffix.lower() == ".json" else "line"
        self.cells = [Cells(row.line, {str(key).strip().lower(): value for key, value in row.values.items()})
                      for row in _cells(path)]  # fmt: skip
        self.columns = {key for row in self.cells for key in row.values}
        images = ("row",) if in_archive else _IMAGES
        for wanted in (("question",), ("answer",), images):
            if not self.columns & set(wanted):
                told = ", ".join(sorted(self.columns)) or "nothing"
                raise DataError(f"{path} has no column {' or '.join(wanted)}, only {told}")
        self.official = any(self.text(row, "phrase_type").lower().startswith("test") for row in self.cells)
        if official and not self.official:
            raise DataError(f"{path} has no phrase_type that begins with test, so the official split is unknown")
        self.by_name = next((_SPLITS[word] for word in re.split(r"[\W_\d]+", path.stem.lower()) if word in _SPLITS), "")

    def text(self, row: Cells, *keys: str) -> str:
        """The first of these columns that is not empty."""
        for key in keys:
            value = row.values.get(key)
            said = (
                f"{value:g}" if isinstance(value, float) else text_of(value, key, self.path, row.line, unit=self.unit)
            )
            if said:
                return said
        return ""

    def place(self, row: Cells) -> str:
        """File and line."""
        return f"{self.path}, {self.unit} {row.line}"

    def question(self, row: Cells) -> Question:
        """One row, checked. Raises DataError."""
        place, split = self.place(row), self._split(row)
        said = self.text(row, "split").lower()
        home = _SPLITS.get(said, said) or split  # of the image in its archive
        text, answer = self.text(row, "question"), self.text(row, "answer")
        if not text or not normalised_answer(answer):
            raise _BlankError(f"{place}: the {'answer' if text else 'question'} is blank")
        image = self.text(row, "row") if self.in_archive else self.text(row, *_IMAGES)
        if not image:
            raise DataError(f"{place}: no image is named; every question needs one")
        kind = self._kind(row, answer)
        name = self.text(row, *_IDS) or f"{self.path.stem}/{row.line}"
        return Question(name, f"{home}/{image}" if self.in_archive else image, text, answer, kind, split, place)

    def _kind(self, row: Cells, answer: str) -> Kind:
        said = self.text(row, "answer_type").lower()
        if not said:
            return "closed" if normalised_answer(answer) in ("yes", "no") else "open"
        for kind in KINDS:
            if said == kind:
                return kind
        raise DataError(f"{self.place(row)}: answer_type is {said!r}, expected open or closed")

    def _split(self, row: Cells) -> str:
        said = self.text(row, "split").lower()
        if said and not self.first:
            return _SPLITS.get(said, said)
        if self.official:
            return "test" if self.text(row, "phrase_type").lower().startswith("test") else "train"
        if not self.by_name:
            raise DataError(
                f"{self.place(row)}: nothing tells the split; add a column split, or name the files train, validate "
                "and test"
            )
        return self.by_name


def _cells(path: Path) -> list[Cells]:
    suffix = path.suffix.lower()
    if suffix not in (".json", ".jsonl", ".csv"):
        raise DataError(f"{path} is not a file of questions; expected .json, .jsonl or .csv")
    with reading(str(path)):
        if suffix == ".csv":
            rows = csv_cells(path)[1]
        elif suffix == ".jsonl":
            rows = json_cells(path, expected="question and answer")
        else:
            rows = [Cells(number, values) for number, values in enumerate(_entries(path), 1)]
    if not rows:
        raise DataError(f"{path} holds no question")
    return rows


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); fetch it again") from error
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DataError(f"{path} is not a JSON list of objects with question and answer")
    return found
