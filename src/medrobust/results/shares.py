"""Shares of images with their exact 95 % intervals, and the test that they count."""

from collections.abc import Iterable
from functools import lru_cache

from medrobust.results.rows.certified import CertifiedRow
from medrobust.smoothing import bounds
from medrobust.smoothing.bounds import Interval


def holds_at(row: CertifiedRow, radius: float) -> bool:
    """The answer is right, and no change smaller than `radius` alters it."""
    return row.correct and row.radius >= radius


@lru_cache(maxsize=4096)
def share(hits: int, total: int) -> Interval:
    """Value, exact 95 % interval, hits and total of a share."""
    return bounds.interval(hits, total)


def share_of(hits: Iterable[bool]) -> Interval:
    """The share of those that hold."""
    found = list(hits)
    return share(sum(found), len(found))
