"""Checks that a record supports the radius it claims, by other means than those that computed it.

A radius r is supported where "pA <= Phi(r / sigma)" is rejected at level alpha. `bounds` and `sequential` invert that
test; here the test itself is carried out, by binomial tails, by a dynamic programme and by numerical integration.
"""

import math
from functools import lru_cache
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.integrate import quad
from scipy.special import xlog1py, xlogy
from scipy.stats import binom, norm

from medrobust.smoothing import sequential
from medrobust.smoothing.sequential import Looks, Recorded

_STEP = 2e-6  # radii are rounded down to 1e-6: a record supports nothing that is so much larger
_NEARLY = 1e-6  # relative error granted to the numbers here


@runtime_checkable
class Claim(Recorded, Protocol):
    """The fields of a certificate that a check reads, fresh or from a file; attributes as in `Certificate`."""

    @property
    def prediction(self) -> int | None: ...
    @property
    def selected(self) -> int | None: ...
    @property
    def radius(self) -> float: ...
    @property
    def votes(self) -> int: ...
    @property
    def trials(self) -> int: ...
    @property
    def drawn(self) -> int: ...


def doubts(claim: Claim) -> list[str]:
    """Sentences about faults of a certificate, judged from its record alone; empty where there are none."""
    counts = f"{claim.votes} votes in {claim.trials} of at most {claim.budget} draws, {claim.stopping}"
    try:
        found = sequential.certified_radius(claim.votes, claim.trials, **sequential.record_of(claim))
    except ValueError as problem:
        return [f"does not follow from its record: {problem}"]
    told = []
    if not claim.trials <= claim.drawn <= claim.budget or claim.prediction not in (None, claim.selected):
        told.append(f"does not follow from its record: {counts}, {claim.drawn} drawn, class {claim.selected}")
    claimed = None if claim.prediction is None else claim.radius
    if found != claimed:
        told.append(f"does not follow from its record: {counts}, give {_told(found)}, not {_told(claimed)}")
    if claimed is not None and not supports(claim, claimed):
        told.append(f"claims more than its record supports: {_told(claimed)} from {counts}")
    larger = _next(claim, claimed)
    if larger is not None and supports(claim, larger):
        told.append(f"claims less than its record supports: {_told(claimed)} from {counts}")
    return told


def supports(claim: Claim, radius: float) -> bool:
    """True where the recorded counts reject "pA <= Phi(radius / sigma)" at the recorded level, by the recorded rule."""
    p0 = float(norm.cdf(radius / claim.sigma))
    if p0 >= 1 or claim.trials < 1:
        return False
    if claim.stopping == "fixed":
        chance = float(binom.sf(claim.votes - 1, claim.trials, p0))
        return claim.trials == claim.budget and chance <= claim.alpha * (1 + _NEARLY)
    if claim.stopping == "anytime":
        return log_mixture(claim.votes, claim.trials, p0) >= -math.log(claim.alpha) - _NEARLY
    if radius not in claim.grid:
        return False
    looks, accept = _boundary(tuple(claim.grid), claim.sigma, claim.alpha, claim.budget, claim.look, radius)
    row = looks.index(claim.trials) if claim.trials in looks else None
    error = _error(accept, looks, p0)
    return row is not None and claim.votes >= accept[row] and error <= claim.alpha * (1 + _NEARLY)


def crossing_probability(accept: Looks, looks: Looks, p: float) -> float:
    """The chance that a count of draws, each a success with probability p, reaches `accept` at one of the looks."""
    below, crossed, before = np.ones(1), 0.0, 0
    for trials, least in zip(looks.tolist(), accept.tolist(), strict=True):
        below = np.convolve(below, binom.pmf(np.arange(trials - before + 1), trials - before, p))
        crossed += float(below[least:].sum())
        below, before = below[:least], trials
    return crossed


def log_mixture(votes: int, trials: int, p0: float) -> float:
    """log of the mean likelihood over pA uniform in (p0, 1), relative to that of pA = p0, by quadrature."""

    def likelihood(p: float) -> float:
        return float(xlogy(votes, p) + xlog1py(trials - votes, -p))

    peak = min(max(votes / trials, p0), 1.0)
    width = math.sqrt(peak * (1 - peak) / trials) + 1 / trials
    inside = sorted({p for p in (peak + k * width for k in (-9, -3, 0, 3, 9)) if p0 < p < 1})
    ends = [p0, *inside, 1.0]
    mass = sum(
        quad(lambda p: math.exp(likelihood(p) - likelihood(peak)), low, high, epsabs=0, epsrel=1e-10)[0]
        for low, high in pairwise(ends)
    )
    return math.log(mass) + likelihood(peak) - likelihood(p0) - math.log1p(-p0) if mass > 0 else -math.inf


def _next(claim: Claim, radius: float | None) -> float | None:
    """The smallest radius beyond the claimed one that the rule could have given."""
    if claim.stopping == "spending":
        return next((r for r in sorted(claim.grid) if radius is None or r > radius), None)
    return (radius or 0.0) + _STEP


@lru_cache(maxsize=256)
def _boundary(
    grid: tuple[float, ...], sigma: float, alpha: float, budget: int, look: int, radius: float
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Looks and accepted counts of the rule that the run has used, for one radius of its grid."""
    rule = sequential.boundaries("spending", grid, sigma=sigma, alpha=alpha, budget=budget, look=look)
    return tuple(rule.looks.tolist()), tuple(rule.accept[:, sorted(grid).index(radius)].tolist())


@lru_cache(maxsize=256)
def _error(accept: tuple[int, ...], looks: tuple[int, ...], p0: float) -> float:
    return crossing_probability(np.array(accept), np.array(looks), p0)


def _told(radius: float | None) -> str:
    return "an abstention" if radius is None else f"radius {radius:g}"
