"""The statistics of a certificate with a fixed number of trials: plain numbers, no torch.

References: Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019,
sections 3.2.1 and 3.2.2; Clopper and Pearson, Biometrika 26 (1934).
"""

import math
from typing import NamedTuple

from scipy.stats import beta, binomtest, norm

_SLACK = 1e-12  # relative error granted to scipy's quantiles; measured errors are below 1e-13


class Interval(NamedTuple):
    """A share with its exact two-sided interval."""

    value: float
    low: float
    high: float
    hits: int
    total: int


def lower_bound(successes: int, trials: int, alpha: float) -> float:
    """One-sided Clopper-Pearson: the true probability is below it in at most `alpha` of all experiments.

    >>> round(lower_bound(10_000, 10_000, 0.001), 6)
    0.999309
    """
    _check(successes, trials, alpha)
    if successes == 0:
        return 0.0
    return max(0.0, float(beta.ppf(alpha, successes, trials - successes + 1)) * (1 - _SLACK))


def radius(successes: int, trials: int, alpha: float, sigma: float) -> float:
    """l2 radius in pixels of [0, 1], rounded down; 0.0 where the bound is not above one half (abstain).

    >>> radius(10_000, 10_000, 0.001, 1.0) < 3.19861 < radius(10_000, 10_000, 0.001, 1.0) + 1e-4
    True
    """
    bound = lower_bound(successes, trials, alpha)
    return 0.0 if bound <= 0.5 else radius_of(bound, sigma)


def radius_of(bound: float, sigma: float) -> float:
    """sigma * PhiInv(bound), rounded down."""
    return float(round_down(max(0.0, sigma * float(norm.ppf(bound)) * (1 - _SLACK))))


def round_down(value: float, digits: int = 6) -> float:
    """The largest number with `digits` decimals that is not above `value`.

    >>> round_down(0.123456789)
    0.123456
    """
    scaled = math.floor(value * 10**digits)
    rounded = scaled / 10**digits
    return rounded if rounded <= value else (scaled - 1) / 10**digits


def largest_radius(trials: int, alpha: float, sigma: float) -> float:
    """Radius of an image when every vote is right: no radius of a run can exceed it."""
    return radius(trials, trials, alpha, sigma)


def fewest_trials(alpha: float) -> int:
    """The smallest number of trials with which anything can be certified: alpha^(1/n) > 1/2.

    >>> fewest_trials(0.001)
    10
    """
    trials = max(1, math.floor(math.log2(1 / alpha)))
    while lower_bound(trials, trials, alpha) <= 0.5:
        trials += 1
    return trials


def two_sided_p_value(top: int, second: int) -> float:
    """Cohen's PREDICT: the chance of such a lead if the two leading classes were equally likely."""
    return 1.0 if top + second == 0 else float(binomtest(top, top + second, 0.5).pvalue)


def interval(hits: int, total: int, confidence: float = 0.95) -> Interval:
    """A share of images with its exact (Clopper-Pearson) two-sided interval.

    >>> interval(0, 0)
    Interval(value=0.0, low=0.0, high=1.0, hits=0, total=0)
    """
    if total == 0:
        return Interval(0.0, 0.0, 1.0, 0, 0)
    bounds = binomtest(hits, total).proportion_ci(confidence, method="exact")
    return Interval(hits / total, float(bounds.low), float(bounds.high), hits, total)


def _check(successes: int, trials: int, alpha: float) -> None:
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes in {trials} trials are not a count")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, must lie between 0 and 1")
