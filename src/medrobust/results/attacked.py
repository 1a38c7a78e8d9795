"""Attacked images on disk: one JSON line an image and defence; and what they add up to."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from medrobust.errors import RunError
from medrobust.levels import eps_text
from medrobust.results.journal import Form, read, values_of
from medrobust.results.records import Scope
from medrobust.results.tables import share_of

SCHEMA_VERSION = 1


class AttackedKey(NamedTuple):
    """What an attacked run holds once: an image and a defence."""

    id: str
    defence: str

    def __str__(self) -> str:
        return f"{self.id} under {self.defence}"


@dataclass(frozen=True, kw_only=True)
class AttackedRow:
    """The worst that one set of attacks did to one image under one defence; ValueError where it contradicts itself.

    `eps` and `distance` are in pixels of [0, 1], in `norm`. `standard` is true only where AutoAttack's published
    set ran with its settings.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    label: int
    defence: str
    scope: Scope
    sigma: float | None  # of the noise that the prompt was tuned with on the clean image; None where it was not
    norm: Literal["linf", "l2"]
    eps: float
    attack: str  # name of the set
    standard: bool
    clean: int | None  # answer on the image as it is; None where the logits were not finite
    broken_by: str | None  # "clean": wrong without an attack; None: no attack succeeded
    answer: int | None  # on the attacked image
    distance: float  # of the attacked image from the image; 0.0 where nothing was broken by an attack
    seed: int

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
        """What names this row within a run."""
        return AttackedKey(self.id, self.defence)

    @property
    def title(self) -> str:
        """What tables call this attack: `autoattack linf 8/255`."""
        return f"{self.attack} {self.norm} {eps_text(self.eps)}"


def to_line(row: AttackedRow) -> str:
    """One line of ASCII JSON with its newline: keys in the order of `AttackedRow`."""
    return json.dumps(asdict(row), allow_nan=False) + "\n"


def from_line(line: str) -> AttackedRow:
    """The row of a line; raises ValueError that says what is wrong with it (JSONDecodeError where it is no JSON)."""
    values_of(line, AttackedRow, SCHEMA_VERSION)
    try:
        return _reader().validate_json(line, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where + ': ' if where else ''}{first['msg']}") from error


@cache
def _reader() -> Any:  # a TypeAdapter, which beartype does not know
    return TypeAdapter(AttackedRow)


ATTACKED = Form(to_line, from_line, parts="images or defences", command="attack")


def read_attacked(path: Path) -> list[AttackedRow]:
    """All whole rows of a file; a torn last line is left out. Raises RunError naming file and line."""
    return read(path, ATTACKED)


def summarise_attack(rows: Sequence[AttackedRow]) -> dict[str, Any]:
    """What attacks add to summary.json: `robust_accuracy`, and `attack` with what it is read against.

    Clean accuracy is that of the same images. Raises RunError where rows of several attacks are mixed.
    """
    settings = {(row.attack, row.norm, row.eps, row.seed) for row in rows}
    if len(settings) > 1:
        raise RunError("rows of several attacks are mixed; attack each into its own --out")
    groups: dict[str, list[AttackedRow]] = {}
    for row in rows:
        groups.setdefault(row.defence, []).append(row)
    first = rows[0]
    return {
        "robust_accuracy": {
            name: {first.title: share_of(row.broken_by is None for row in members)} for name, members in groups.items()
        },
        "attack": {
            "name": first.attack,
            "norm": first.norm,
            "eps": first.eps,
            "standard": all(row.standard for row in rows),
            "images": len({row.id for row in rows}),
            "defences": list(groups),
            "scope": {name: members[0].scope for name, members in groups.items()},
            "clean_accuracy": {
                name: share_of(row.broken_by != "clean" for row in members) for name, members in groups.items()
            },
            "broken_by": {name: _counts(members) for name, members in groups.items()},
        },
    }


def _counts(rows: Sequence[AttackedRow]) -> dict[str, int]:
    found = [row.broken_by for row in rows if row.broken_by not in (None, "clean")]
    return {str(name): found.count(name) for name in dict.fromkeys(found)}
