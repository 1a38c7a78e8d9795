"""Answered questions on disk: one JSON line a question and recipe."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from medrobust.results.journal import checked_form

SCHEMA_VERSION = 1


class AnsweredKey(NamedTuple):
    """Names a row within a run: a question and a recipe."""

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
    id: str  # the question
    image: str  # its image
    kind: Literal["closed", "open"]  # whether the answer is one of a few words
    recipe: str  # what answered
    truth: str  # the right answer, as it is compared
    in_vocabulary: bool  # whether the right answer is among those that were learned
    clean: str  # answer on the image as it is
    norm: Literal["linf", "l2"]  # of the balls
    eps: tuple[float, ...]  # of the balls, ascending, pixels in [0, 1]
    attacked: tuple[str, ...]  # answer on the attacked image, at each eps
    distance: tuple[float, ...]  # of the attacked image, in `norm`, at each eps
    steps: int  # of the attack
    seed: int  # of the run

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
        """Its name within a run."""
        return AnsweredKey(self.id, self.recipe)


ANSWERED = checked_form(AnsweredRow, SCHEMA_VERSION, parts="questions or recipes", command="vqa")
