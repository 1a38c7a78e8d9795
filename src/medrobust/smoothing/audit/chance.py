"""Chance of false alarms in the checks of an audit: plain numbers, no torch."""

from scipy.stats import binom

LEVEL = 1e-4  # chance that a check of a sound run finds something, over all its tests together


def too_many(found: int, tested: int, alpha: float, level: float = LEVEL) -> bool:
    """True for more events than `tested` chances of `alpha` each can explain at this level."""
    return bool(found and binom.sf(found - 1, tested, alpha) <= level)
