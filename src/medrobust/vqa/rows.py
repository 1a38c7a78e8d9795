"""Answered questions on disk: one JSON line a question and recipe; and what they add up to, closed and open apart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from medrobust.results.journal import checked_form
from medrobust.results.report.markdown import percent, plain, table_line
from medrobust.results.tables import share_of
from medrobust.words import eps_text

SCHEMA_VERSION = 1
PARTS = ("closed", "open", "all")


class AnsweredKey(NamedTuple):
    """What a run holds once: a question and a recipe."""

    id: str
    recipe: str

    def __str__(self) -> str:
        return f"question {self.id} under {self.recipe}"


@dataclass(frozen=True, kw_only=True)
class AnsweredRow:
    """One question answered by one recipe, clean and attacked; ValueError where it contradicts itself.

    Answers are as they are compared, empty where the logits were not finite. `attacked` and `distance` (in `norm`,
    pixels of [0, 1]) have an entry for each eps, the smallest first; a question lost at one is lost at all larger ones.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    image: str
    kind: Literal["closed", "open"]
    recipe: str
    truth: str
    in_vocabulary: bool
    clean: str
    norm: Literal["linf", "l2"]
    eps: tuple[float, ...]
    attacked: tuple[str, ...]
    distance: tuple[float, ...]
    steps: int
    seed: int

    def __post_init__(self) -> None:
        hits = (self.clean == self.truth, *(answer == self.truth for answer in self.attacked))
        demands = [
            (len(self.eps) == len(self.attacked) == len(self.distance), "eps, attacked and distance differ in length"),
            (list(self.eps) == sorted(set(self.eps)), "eps do not ascend"),
            (all(math.isfinite(eps) and eps > 0 for eps in self.eps), "an eps is not above 0"),
            (all(0 <= far <= eps * (1 + 1e-6) + 1e-6 for far, eps in zip(self.distance, self.eps, strict=False)),
             "a distance is outside of its eps"),
            (self.in_vocabulary or not any(hits), "an answer outside of the vocabulary was given"),
            (list(hits) == sorted(hits, reverse=True), "an answer that was lost came back"),
            (hits[0] or not any(self.distance), "a question that was answered wrongly was attacked"),
        ]  # fmt: skip
        wrong = [text for holds, text in demands if not holds]
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def key(self) -> AnsweredKey:
        """What names this row within a run."""
        return AnsweredKey(self.id, self.recipe)


ANSWERED = checked_form(AnsweredRow, SCHEMA_VERSION, parts="questions or recipes", command="vqa")


def summarise_answers(rows: Sequence[AnsweredRow]) -> dict[str, Any]:
    """By recipe and kind of question: clean accuracy and accuracy under attack, with exact 95 % intervals."""
    found: dict[str, Any] = {}
    for recipe in dict.fromkeys(row.recipe for row in rows):
        found[recipe] = {}
        for part in PARTS:
            members = [row for row in rows if row.recipe == recipe and part in (row.kind, "all")]
            levels = members[0].eps if members else ()
            found[recipe][part] = {
                "questions": len(members),
                "clean": share_of(row.clean == row.truth for row in members),
                "robust": {
                    f"{members[0].norm} {eps_text(eps)}": share_of(row.attacked[place] == row.truth for row in members)
                    for place, eps in enumerate(levels)
                },
            }
    return found


def answers_table(result: Mapping[str, Any]) -> str:
    """vqa.md: for each kind of questions a row a recipe, below the two answers that need no image."""
    titles = result["attack"]["balls"]
    header = ["questions", "recipe", "clean", *(f"robust {title}" for title in titles)]
    lines = [table_line(header), table_line(["---", "---", *["---:"] * (len(header) - 2)])]
    none = ["-"] * len(titles)
    for part in PARTS:
        outside = result["out_of_vocabulary"][part]
        name = f"{part} ({outside['total']})"
        lines.append(table_line([name, "majority answer", percent(result["majority"][part]), *none]))
        lines.append(table_line([name, "blind: grey image", percent(result["blind"][part]), *none]))
        for recipe, parts in result["recipes"].items():
            shares = [parts[part]["clean"], *(parts[part]["robust"][title] for title in titles)]
            lines.append(table_line([name, plain(recipe), *map(percent, shares)]))
    outside, asked, learned = result["out_of_vocabulary"], result["asked"], result["learned"]
    return "\n".join([
        f"**Questions answered**: {plain(result['model']['name'])}, {asked['questions']} questions about "
        f"{asked['images']} images, learned from {learned['questions']} about {learned['images']}", "", *lines, "",
        "Shares of all questions of a kind in %, with exact 95 % intervals. "
        f"{result['answers']} answers can be given; the right one is not among them for {outside['closed']['hits']} of "
        f"{outside['closed']['total']} closed and {outside['open']['hits']} of {outside['open']['total']} open "
        f"questions, which count as wrong. *robust*: still right under PGD of {result['attack']['steps']} steps, an "
        "upper bound: a stronger attack might change more answers. Not a medical device.", "",
    ])  # fmt: skip
