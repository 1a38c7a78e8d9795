"""Shares of images with their exact 95 % intervals, and what they count."""

from collections.abc import Iterable
from functools import lru_cache

from medrobust.results.rows.certified import CertifiedRow
from medrobust.smoothing import bounds


def number_key(number: float) -> str:
    """A radius or sigma as a key of JSON, without needless digits.

    >>> number_key(0.25), number_key(1.0), number_key(0.1234567)
    ('0.25', '1', '0.1234567')
    """
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def certified(row: CertifiedRow, radius: float) -> bool:
    """The answer is right, and no change smaller than `radius` alters it."""
    return row.correct and row.radius >= radius


def share(hits: int, total: int) -> dict[str, float | int]:
    """Value, exact 95 % interval, hits and total of a share."""
    return dict(_interval(hits, total)._asdict())


def share_of(hits: Iterable[bool]) -> dict[str, float | int]:
    """The share of those that hold."""
    found = list(hits)
    return share(sum(found), len(found))


@lru_cache(maxsize=4096)
def _interval(hits: int, total: int) -> bounds.Interval:
    return bounds.interval(hits, total)
