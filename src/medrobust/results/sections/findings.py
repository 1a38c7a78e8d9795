"""Each finding by itself: sensitivity and specificity, clean and certified, for the page and for Markdown."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from medrobust.results.summary import CertifiedSummary, FindingShares
from medrobust.smoothing.bounds import Interval


class FindingLine(NamedTuple):
    """A finding under a defence: the number of images with it, and shares by their heading, None where undefined."""

    finding: str
    defence: str
    scope: str
    there: int
    images: int
    shares: Mapping[str, Interval | None]


def finding_lines(level: CertifiedSummary) -> list[FindingLine]:
    """The lines of one noise level, finding after finding; none where an image has one class."""
    names = list(next(iter(level.findings.values()), {}))
    return [
        FindingLine(name, defence, level.scope[defence], found[name].there, found[name].images,
                    _shares(found[name], level.middle_radius))
        for name in names
        for defence, found in level.findings.items()
    ]  # fmt: skip


def headings(lines: Sequence[FindingLine]) -> list[str]:
    """The columns of shares."""
    return list(lines[0].shares) if lines else []


def _shares(found: FindingShares, radius: float) -> dict[str, Interval | None]:
    shares: dict[str, Interval | None] = {}
    for kind, part in (("sensitivity", found.sensitivity), ("specificity", found.specificity)):
        shares[kind] = part.clean if part else None
        if radius:
            shares[f"certified {kind} at {radius:g}"] = part.certified[radius] if part else None
    return shares | {"abstained": found.abstained}
