"""Checks of an audit on disk: one JSON line a check, with its result. Pictures are kept beside the rows.

An audit has four kinds of checks: a `record` recomputed, an `attack` inside a radius, a `redraw` of an image's
certificates, and a `border` image between two classes, certified many times.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from medrobust.results.journal import checked_form, read_journal
from medrobust.results.rows.certified import Scope

SCHEMA_VERSION = 1

Check = Literal["record", "attack", "redraw", "border"]
Retuned = Literal["same", "changed", "abstains"]


class AuditKey(NamedTuple):
    """Names a check within an audit: its kind, and the certificate; a border image lies on the line `to` another."""

    check: Check
    id: str
    sigma: float
    defence: str
    to: str | None = None

    def __str__(self) -> str:
        line = "" if self.to is None else f" to {self.to}"
        return f"{self.check} of {self.id}{line} at sigma {self.sigma:g} under {self.defence}"


@dataclass(frozen=True, kw_only=True)
class AttackTried:
    """An attack inside a radius, judged by fresh draws; `retuned`: the answer after tuning again at that point."""

    distance: float  # l2, of the attacked point
    votes: int  # for the certified class
    trials: int  # fresh draws
    broken: bool  # whether the certified class lost
    retuned: Retuned | None  # answer of what is tuned again at that point; None for scope "model"


@dataclass(frozen=True, kw_only=True)
class Redrawn:
    """A certificate made again: from its own seed the same or not, from `redrawn` others `contradicted` by a count."""

    differs: bool  # whether its own seed gave another record
    redrawn: int  # certificates held against the large count, the recorded one among them
    contradicted: int  # of them, by that count
    alpha: float  # of the certificate


@dataclass(frozen=True, kw_only=True)
class BorderTried:
    """Certificates of a border image; no `tries` where the line between the two images has no border."""

    tries: int  # certificates; 0 where the line between the two images has no border
    certified: int  # of them
    allowed: float  # chance that a sound rule certifies in one try, at most
    alpha: float  # of the tries


_KINDS = {"record": type(None), "attack": AttackTried, "redraw": Redrawn, "border": BorderTried}


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """One check of one certificate and its faults, in sentences; ValueError where it contradicts itself.

    `found` holds the numbers of its kind: None for a record, which has none.
    """

    schema_version: int = SCHEMA_VERSION
    check: Check  # kind of check
    id: str  # the image
    sigma: float  # standard deviation of the noise, pixels in [0, 1]
    defence: str  # as tables name it, with the finding where there is one
    to: str | None = None  # the other image, for a border image
    scope: Scope  # the classifier that the certificate speaks of
    found: AttackTried | Redrawn | BorderTried | None  # numbers of the check; None for a record
    sentences: tuple[str, ...] = ()  # what should not be; none where nothing is wrong

    def __post_init__(self) -> None:
        found = self.found
        demands = [
            (isinstance(found, _KINDS[self.check]), f"a {self.check} holds numbers of another check"),
            ((self.to is not None) == (self.check == "border"), f"a {self.check} has `to` {self.to}"),
            (math.isfinite(self.sigma) and self.sigma > 0, f"sigma is {self.sigma}, must be above 0"),
        ]
        if isinstance(found, AttackTried):
            demands += [
                (0 <= found.votes <= found.trials and found.trials > 0, f"{found.votes} votes in {found.trials}"),
                (found.broken == bool(self.sentences), "an attack has a sentence if and only if it broke something"),
            ]
        if isinstance(found, Redrawn):
            demands += [
                (0 <= found.contradicted <= found.redrawn, f"{found.contradicted} of {found.redrawn} contradicted"),
                (found.differs == bool(self.sentences), "a redraw has a sentence if and only if it differs"),
            ]
        if isinstance(found, BorderTried):
            demands.append((0 <= found.certified <= found.tries, f"{found.certified} of {found.tries} certified"))
        wrong = [text for holds, text in demands if not holds]
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def key(self) -> AuditKey:
        """Its name within an audit."""
        return AuditKey(self.check, self.id, self.sigma, self.defence, self.to)


AUDITED = checked_form(AuditRow, SCHEMA_VERSION, parts="checks, images or defences", command="audit")


def read_audited(path: Path) -> list[AuditRow]:
    """All whole rows of a file; a torn last line is left out. Raises RunError naming file and line."""
    return read_journal(path, AUDITED)
