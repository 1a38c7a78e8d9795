"""Each finding by itself: sensitivity and specificity, clean and certified, for the page and for Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from medrobust.results.tables import Summary, middle_radius, number_key


class Line(NamedTuple):
    """A finding under a defence: how many images have it, and shares by their heading, None where undefined."""

    finding: str
    defence: str
    scope: str
    there: int
    images: int
    shares: Mapping[str, Mapping[str, Any] | None]


def finding_lines(block: Summary) -> list[Line]:
    """The lines of one noise level, finding after finding; none where an image has one class."""
    radius = middle_radius(block)
    of_defences: Mapping[str, Mapping[str, Any]] = block.get("findings", {})
    names = list(next(iter(of_defences.values()), {}))
    return [
        Line(name, defence, block["scope"][defence], found[name]["there"], found[name]["images"],
             _shares(found[name], radius))
        for name in names
        for defence, found in of_defences.items()
    ]  # fmt: skip


def headings(lines: Sequence[Line]) -> list[str]:
    """The columns of shares."""
    return list(lines[0].shares) if lines else []


def _shares(found: Mapping[str, Any], radius: float) -> dict[str, Mapping[str, Any] | None]:
    shares: dict[str, Mapping[str, Any] | None] = {}
    for kind in ("sensitivity", "specificity"):
        part = found[kind]
        shares[kind] = part and part["clean"]
        if radius:
            shares[f"certified {kind} at {radius:g}"] = part and part["certified"][number_key(radius)]
    return shares | {"abstained": found["abstained"]}
