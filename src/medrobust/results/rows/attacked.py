"""Attacked images on disk: one JSON line an image, eps and defence."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from medrobust.results.journal import checked_form, read_journal
from medrobust.results.rows.certified import Scope
from medrobust.words import eps_text

SCHEMA_VERSION = 1


class AttackedKey(NamedTuple):
    """Names a row within an attacked run: an image, an eps and a defence."""

    id: str
    eps: float
    defence: str

    def __str__(self) -> str:
        return f"{self.id} at eps {eps_text(self.eps)} under {self.defence}"


@dataclass(frozen=True, kw_only=True)
class AttackedRow:
    """The worst result of one set of attacks on one image under one defence; ValueError where it contradicts itself.

    `eps` and `distance` are in pixels of [0, 1], in `norm`. `standard` is true only where AutoAttack's published
    set ran with its settings.
    """

    schema_version: int = SCHEMA_VERSION
    id: str  # the image
    label: int  # the true class, in task order
    defence: str  # name of the defence in the experiment
    scope: Scope  # the classifier that was attacked
    sigma: float | None  # of the noise that the prompt was tuned with on the clean image; None where it was not
    norm: Literal["linf", "l2"]  # of the ball
    eps: float  # of the ball, pixels in [0, 1]
    attack: str  # name of the set
    standard: bool  # whether it was AutoAttack's published set
    clean: int | None  # answer on the image as it is; None where the logits were not finite
    broken_by: str | None  # "clean": wrong without an attack; None: no attack succeeded
    answer: int | None  # on the attacked image; the label where no attack succeeded
    distance: float  # of the attacked image from the image; 0.0 where nothing was broken by an attack
    seed: int  # of the run

    def __post_init__(self) -> None:
        attacked = self.broken_by not in (None, "clean")
        demands = [
            (min(number for number in (self.label, self.clean, self.answer, 0) if number is not None) >= 0,
             "a class number is negative"),
            (math.isfinite(self.eps) and self.eps > 0, f"eps is {self.eps}, must be above 0"),
            (0 <= self.distance <= self.eps * (1 + 1e-6) + 1e-6, f"distance {self.distance} is outside of {self.eps}"),
            ((self.scope == "model") == (self.sigma is None), f"sigma is {self.sigma} with scope {self.scope}"),
            ((self.broken_by == "clean") == (self.clean != self.label), "clean answer and broken_by differ"),
            ((self.broken_by is None) == (self.answer == self.label), "answer and broken_by differ"),
            (attacked or (self.distance == 0 and self.answer == self.clean), "an image that was not changed has moved"),
        ]  # fmt: skip
        wrong = [text for holds, text in demands if not holds]
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def key(self) -> AttackedKey:
        """Its name within a run."""
        return AttackedKey(self.id, self.eps, self.defence)

    @property
    def title(self) -> str:
        """The name of this attack in tables."""
        return attack_title(self.attack, self.norm, self.eps)


def attack_title(attack: str, norm: str, eps: float) -> str:
    """The name of a set of attacks in a ball, in tables.

    >>> attack_title("autoattack", "linf", 8 / 255)
    'autoattack linf 8/255'
    """
    return f"{attack} {norm} {eps_text(eps)}"


ATTACKED = checked_form(AttackedRow, SCHEMA_VERSION, parts="images or defences", command="attack")


def read_attacked(path: Path) -> list[AttackedRow]:
    """All whole rows of a file; a torn last line is left out. Raises RunError naming file and line."""
    return read_journal(path, ATTACKED)
