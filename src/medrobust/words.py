"""Numbers as people read them: distances in pixels of [0, 1], shares, radii, durations. No torch here."""

import math
from decimal import ROUND_FLOOR, Decimal
from typing import Protocol, runtime_checkable


@runtime_checkable
class Shared(Protocol):
    """A share with the ends of its interval, each between 0 and 1."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def eps_text(eps: float) -> str:
    """In grey levels where they are whole, or quarters that no short decimal equals.

    >>> eps_text(8 / 255), eps_text(0.5 / 255), eps_text(0.5)
    ('8/255', '0.5/255', '0.5')
    """
    levels, short = eps * 255, f"{eps:g}"
    quarters = round(4 * levels) / 4
    near = quarters > 0 and abs(levels - quarters) < 1e-6
    return f"{quarters:g}/255" if near and (quarters.is_integer() or float(short) != eps) else short


def number_key(number: float) -> str:
    """A radius or sigma as a key of JSON, without needless digits.

    >>> number_key(0.25), number_key(1.0), number_key(0.1234567)
    ('0.25', '1', '0.1234567')
    """
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def percent(share: Shared) -> str:
    """A share in % with its interval: `41.0 (36.6-45.5)`."""
    return f"{100 * share.value:.1f} ({span(share.low, share.high)})"


def span(low: float, high: float) -> str:
    """An interval in %, widened to one decimal so that it never claims more than it holds.

    >>> span(0.36659, 0.45451)
    '36.6-45.5'
    """
    return f"{math.floor(1000 * low) / 10:.1f}-{math.ceil(1000 * high) / 10:.1f}"


def radius_text(radius: float | None) -> str:
    """A radius with three decimals, rounded down; a dash where there is none.

    >>> radius_text(0.79989), radius_text(0.3), radius_text(None)
    ('0.799', '0.300', '-')
    """
    return "-" if radius is None else str(Decimal(repr(float(radius))).quantize(Decimal("0.001"), ROUND_FLOOR))


def duration(seconds: float) -> str:
    """A time in the unit that suits it, never 0.

    >>> duration(0.2), duration(89.0), duration(600.0), duration(9000.0)
    ('1 s', '89 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
