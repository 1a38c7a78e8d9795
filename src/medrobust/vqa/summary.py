"""Answered questions summed up, as in vqa.json and vqa.md; closed and open questions apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medrobust.results.markdown import cell_text, table
from medrobust.results.page import NOTICE, NOTICE_SENTENCE
from medrobust.results.shares import share_of
from medrobust.results.values import to_json
from medrobust.smoothing.bounds import Interval
from medrobust.vqa.rows import AnsweredRow
from medrobust.words import eps_text, percent

PARTS = ("closed", "open", "all")


@dataclass(frozen=True)
class AnsweredPart:
    """Questions of one kind under one recipe: accuracy on the images as they are, and within each ball."""

    questions: int
    clean: Interval
    robust: Mapping[str, Interval]


@dataclass(frozen=True)
class AskedModel:
    """The model that answered."""

    name: str
    sha256: str | None


@dataclass(frozen=True)
class AskedAttack:
    """The attack on the images: PGD in balls such as `linf 4/255`."""

    name: str
    steps: int
    balls: tuple[str, ...]


@dataclass(frozen=True)
class QuestionsUsed:
    """Questions of a split, and the images that they are about."""

    split: str
    questions: int
    images: int


@dataclass(frozen=True)
class VqaSummary:
    """Answered questions, as in vqa.json. Mappings to shares are by kind of question: closed, open, all.

    `blind`: answers to a grey image; `majority`: always the commonest answer of what was learned from, per kind.
    `answers` can be given; `out_of_vocabulary` are the questions whose right answer is not among them.
    """

    model: AskedModel
    data: str
    split: str
    attack: AskedAttack
    recipes: Mapping[str, Mapping[str, AnsweredPart]]
    blind: Mapping[str, Interval]
    majority: Mapping[str, Interval]
    majority_answers: Mapping[str, str]
    answers: int
    out_of_vocabulary: Mapping[str, Interval]
    learned: QuestionsUsed
    asked: QuestionsUsed
    images_learned_and_asked: int
    other_language: int
    kind_guessed: int
    skipped: tuple[str, ...]
    schema_version: int = 1
    notice: str = NOTICE

    def to_json(self) -> dict[str, Any]:
        """The object of vqa.json."""
        found: dict[str, Any] = to_json(self)
        return found


def summarise_answers(rows: Sequence[AnsweredRow]) -> dict[str, dict[str, AnsweredPart]]:
    """By recipe and kind of question: clean accuracy and accuracy under attack, with exact 95 % intervals."""
    found: dict[str, dict[str, AnsweredPart]] = {}
    for recipe in dict.fromkeys(row.recipe for row in rows):
        for part in PARTS:
            members = [row for row in rows if row.recipe == recipe and part in (row.kind, "all")]
            found.setdefault(recipe, {})[part] = AnsweredPart(
                questions=len(members),
                clean=share_of(row.clean == row.truth for row in members),
                robust={
                    f"{members[0].norm} {eps_text(eps)}": share_of(row.attacked[place] == row.truth for row in members)
                    for place, eps in enumerate(members[0].eps if members else ())
                },
            )
    return found


def answers_table(found: VqaSummary) -> str:
    """vqa.md: for each kind of questions a row a recipe, below the two answers that need no image."""
    titles, none = found.attack.balls, ["-"] * len(found.attack.balls)
    rows = []
    for part in PARTS:
        name = f"{part} ({found.out_of_vocabulary[part].total})"
        rows.append([name, "majority answer", percent(found.majority[part]), *none])
        rows.append([name, "blind: grey image", percent(found.blind[part]), *none])
        for recipe, parts in found.recipes.items():
            shares = [parts[part].clean, *(parts[part].robust[title] for title in titles)]
            rows.append([name, cell_text(recipe), *map(percent, shares)])
    outside = " and ".join(
        f"{found.out_of_vocabulary[part].hits} of {found.out_of_vocabulary[part].total} {part}" for part in PARTS[:2]
    )
    return "\n".join([
        f"**Questions answered**: {cell_text(found.model.name)}, {found.asked.questions} questions about "
        f"{found.asked.images} images, learned from {found.learned.questions} about {found.learned.images}", "",
        *table(["questions", "recipe", "clean", *(f"robust {title}" for title in titles)], rows), "",
        "Shares of all questions of a kind in %, with exact 95 % intervals. "
        f"{found.answers} answers can be given; the right one is not among them for {outside} questions, which count "
        f"as wrong. *robust*: still right under PGD of {found.attack.steps} steps, an upper bound: a stronger attack "
        f"might change more answers. {NOTICE_SENTENCE}", "",
    ])  # fmt: skip
