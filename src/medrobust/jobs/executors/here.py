"""This process, one unit after another."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from medrobust.jobs.job import Done, Unit, Work


def here(open_work: Callable[[], Work[Any]], units: Sequence[Unit]) -> Iterator[Done[Any]]:
    """Carry out the units in this process; the work is opened only where there is a unit left."""
    if units:
        yield from map(open_work(), units)
