"""The certificates that an audit checks: chosen by its seed, the same number for each defence."""

from collections.abc import Iterator, Sequence
from itertools import combinations, zip_longest
from typing import TypeVar

from medrobust.results import CertifiedRow
from medrobust.seeds import numpy_stream

T = TypeVar("T")


def certified(rows: Sequence[CertifiedRow], each: int, seed: int) -> dict[str, list[CertifiedRow]]:
    """At most `each` rows a defence whose radius is above 0."""
    sample = {}
    for defence in dict.fromkeys(row.name for row in rows):
        there = [row for row in rows if row.name == defence and row.radius > 0]
        sample[defence] = _shuffled(there, seed, f"attacked {defence}")[:each]
    return sample


def levels(rows: Sequence[CertifiedRow], wanted: int, seed: int) -> list[dict[str, CertifiedRow]]:
    """At most `wanted` images, each at one noise level, with their rows by defence."""
    groups: dict[tuple[str, float], dict[str, CertifiedRow]] = {}
    for row in rows:
        groups.setdefault((row.id, row.sigma), {})[row.name] = row
    return _shuffled(list(groups.values()), seed, "redrawn")[:wanted]


def opposed(rows: Sequence[CertifiedRow], seed: int, *, most: int = 20) -> Iterator[tuple[CertifiedRow, CertifiedRow]]:
    """Pairs of images certified for different classes, one of each defence and noise level in turn."""
    groups: dict[tuple[str, float], list[CertifiedRow]] = {}
    for row in rows:
        if row.prediction is not None:
            groups.setdefault((row.name, row.sigma), []).append(row)
    turns = []
    for (defence, sigma), members in groups.items():
        few = _shuffled(members, seed, f"border {defence} {sigma!r}")[:most]
        turns.append([(one, two) for one, two in combinations(few, 2) if one.prediction != two.prediction])
    for turn in zip_longest(*turns):
        yield from (pair for pair in turn if pair is not None)


def _shuffled(values: Sequence[T], seed: int, item: str) -> list[T]:
    order = numpy_stream(seed, "audit sample", item).permutation(len(values))
    return [values[number] for number in order]
