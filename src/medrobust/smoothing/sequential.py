"""Stopping before the last draw without losing the guarantee: integer boundaries, exact. Plain numbers, no torch.

At a look the count of successes S is compared with two integers for each radius r of a grid: S >= accept certifies r,
S <= refuse gives r up. Certifying r rejects "pA <= Phi(r / sigma)" with error probability at most alpha over all looks.

References: Lan and DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70 (1983), for alpha
spending; Robbins, Ann. Math. Stat. 41 (1970), for mixtures; Horváth et al., ICLR 2022, for sampling until decided.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol, TypedDict, Unpack, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betainc, betaincc, betaln
from scipy.stats import binom, norm

from medrobust.smoothing import bounds, tables

Stopping = Literal["fixed", "spending", "anytime"]
Looks = Int[np.ndarray, " looks"]  # numbers of draws after which a count is looked at

GIVE_UP = 0.01  # chance to give up a radius that the whole budget would certify in one half of all cases
_SLACK = 1e-9  # share of alpha given away, far more than float64 can lose here
_UP = 1 + 1e-12  # p0 is rounded up: scipy's norm.cdf is good to 1e-15


@dataclass(frozen=True, eq=False)
class Boundaries:
    """Counts that certify a radius or give it up; columns are the radii of the grid, ascending."""

    looks: Looks
    accept: Int[np.ndarray, "looks radii"]  # this number of successes, or more, certifies; looks + 1 where none can
    refuse: Int[np.ndarray, "looks radii"]  # this number, or fewer, gives it up; -1 where none does

    @property
    def reachable(self) -> int:
        """The number of radii of the grid that some count can certify."""
        return int((self.accept <= self.looks[:, None]).any(axis=0).sum())


class Record(TypedDict):
    """The settings that decide a radius together with a count."""

    stopping: Stopping
    grid: tuple[float, ...]  # the radii that are tested, ascending, for `spending`; else none
    sigma: float
    alpha: float
    budget: int  # the most draws there can be
    look: int  # draws between two looks; the budget where there is one look


class Course(NamedTuple):
    """Behaviour of a rule at one pA: exact chance to certify, and exact mean number of draws."""

    certified: float
    draws: float


def spending_weight(radii: int) -> float:
    """Share of alpha spent before the last look: one radius is decided early, a whole curve seldom is."""
    return 0.5 if radii == 1 else 0.2


def look_schedule(budget: int, look: int) -> Looks:
    """Every `look` draws, and at the last one.

    >>> look_schedule(100, 32).tolist()
    [32, 64, 96, 100]
    """
    return np.append(np.arange(look, budget, look), budget)


def threshold(radius: float, sigma: float) -> float:
    """p0 = Phi(r / sigma), rounded up: the largest pA under which r must not be certified."""
    return min(1.0, float(norm.cdf(radius / sigma)) * _UP)


@lru_cache(maxsize=64)
def boundaries(
    stopping: Stopping, radii: tuple[float, ...], *, sigma: float, alpha: float, budget: int, look: int
) -> Boundaries:
    """The integer tables of a rule; `fixed` has one look. Kept in memory, and on disk where building takes long."""
    looks = look_schedule(budget, budget if stopping == "fixed" else look)
    levels = [threshold(radius, sigma) for radius in sorted(radii)]
    columns = [_columns(stopping, p0, looks, alpha, spending_weight(len(radii))) for p0 in levels]
    empty = np.zeros((len(looks), 0), dtype=np.int64)
    accept = np.stack([column[0] for column in columns], axis=1) if columns else empty
    refuse = np.stack([column[1] for column in columns], axis=1) if columns else empty
    # A count that certifies a radius must certify every smaller one: then the grid costs no correction.
    return Boundaries(looks, np.maximum.accumulate(accept, axis=1), np.maximum.accumulate(refuse, axis=1))


def _columns(stopping: Stopping, p0: float, looks: Looks, alpha: float, weight: float) -> tuple[Looks, Looks]:
    if p0 >= 1:
        return looks + 1, looks.copy()
    if stopping == "fixed":
        accept = np.array([_fixed_boundary(p0, int(looks[0]), alpha)])
        return accept, accept - 1
    if stopping == "anytime":
        accept, refuse = mixture_boundaries(p0, looks, alpha)
        return accept, refuse
    key = {"p0": p0, "looks": looks.tolist(), "alpha": alpha, "weight": weight}
    accept = tables.kept("spending", key, lambda: spending_boundary(p0, looks, alpha, weight))
    return accept, np.maximum(hopeless(accept, looks), _futile(accept, looks))


def _futile(accept: Looks, looks: Looks) -> Looks:
    """Counts from which certifying has become unlikely: the same exact boundary on failures, mirrored.

    Giving up never certifies, so this costs power (at most GIVE_UP where the budget decides one half) and no error.
    """
    decides = int(accept[-1]) / int(looks[-1])  # the pA that the whole budget certifies in one half of all cases
    if decides >= 1:
        return np.full_like(looks, -1)
    key = {"p0": 1 - decides, "looks": looks.tolist(), "alpha": GIVE_UP, "weight": 0.8}
    failures = tables.kept("spending", key, lambda: spending_boundary(1 - decides, looks, GIVE_UP, 0.8))
    return looks - failures


def _fixed_boundary(p0: float, trials: int, alpha: float) -> int:
    counts = np.arange(trials + 2)
    return int(np.argmax(binom.sf(counts - 1, trials, p0) <= alpha * (1 - _SLACK)))


def spending_boundary(p0: float, looks: Looks, alpha: float, weight: float) -> Looks:
    """Smallest counts that certify, such that under pA = p0 the chance to reach one by look k is at most alpha f(t_k).

    f(t) = weight * t^(1/4) + (1 - weight) * max(0, 10 t - 9); t is the share of the budget drawn. Spending the rest
    over the last tenth of it, not at the last look, leaves less of alpha to the integers. The distribution of the count
    among courses that have not crossed is carried along exactly; what is trimmed from it is charged to alpha.
    """
    budget = int(looks[-1])
    alive, lowest = np.ones(1), 0  # chances of counts lowest, lowest + 1, ...
    spent, before, found = 0.0, 0, []
    for trials in looks.tolist():
        alive = np.convolve(alive, binom.pmf(np.arange(trials - before + 1), trials - before, p0))
        before = trials
        time = trials / budget
        share = weight * time**0.25 + (1 - weight) * max(0.0, 10 * time - 9)
        tails = np.cumsum(alive[::-1])
        crossing = int(np.searchsorted(tails, alpha * (1 - _SLACK) * share - spent, side="right"))
        if crossing:
            spent += float(tails[crossing - 1])
            alive = alive[: len(alive) - crossing]
        found.append(lowest + len(alive))
        rare = int(np.searchsorted(np.cumsum(alive), alpha * 1e-15))
        spent += float(alive[:rare].sum())
        alive, lowest = alive[rare:], lowest + rare
    return np.array(found, dtype=np.int64)


def hopeless(accept: Looks, looks: Looks) -> Looks:
    """Largest counts from which no later look can certify: more failures than any of them allows."""
    allowed = np.maximum.accumulate((looks - accept)[::-1])[::-1]
    return looks - allowed - 1


def mixture_boundaries(p0: float, looks: Looks, alpha: float) -> tuple[Looks, Looks]:
    """Smallest counts with E_n(p0) >= 1/alpha, and largest with the mirrored E'_n(p0) >= 1/alpha."""
    accept = _first(lambda counts: log_evidence_above(p0, counts, looks) >= _wanted(alpha), looks)
    refuse = _first(lambda counts: log_evidence_below(p0, counts, looks) < _wanted(alpha), looks) - 1
    return accept, refuse


def log_evidence_above(p: float, successes: np.ndarray, trials: np.ndarray) -> Float[np.ndarray, " looks"]:
    """log E_n(p): the likelihood of pA mixed uniformly over (p, 1), against that of pA = p."""
    won, lost = successes + 1.0, trials - successes + 1.0
    with np.errstate(divide="ignore"):
        upper = np.log(betaincc(won, lost, p))
    return betaln(won, lost) + upper - np.log1p(-p) - successes * np.log(p) - (trials - successes) * np.log1p(-p)


def log_evidence_below(p: float, successes: np.ndarray, trials: np.ndarray) -> Float[np.ndarray, " looks"]:
    """The mirror image: mixed uniformly over (0, p)."""
    won, lost = successes + 1.0, trials - successes + 1.0
    with np.errstate(divide="ignore"):
        lower = np.log(betainc(won, lost, p))
    return betaln(won, lost) + lower - np.log(p) - successes * np.log(p) - (trials - successes) * np.log1p(-p)


def _wanted(alpha: float) -> float:
    return -float(np.log(alpha)) + _SLACK


def _first(holds: Callable[[Looks], np.ndarray], looks: Looks) -> Looks:
    """The smallest counts in 0 .. n + 1 from which a monotone condition holds, by bisection at all looks at once."""
    low, high = np.zeros_like(looks), looks + 1
    while (low < high).any():
        middle = np.minimum((low + high) // 2, looks)
        yes = holds(middle) & (middle < high)
        high, low = np.where(yes, middle, high), np.where(yes | (low >= high), low, middle + 1)
    return high


def mixture_lower_bound(successes: int, trials: int, alpha: float) -> float:
    """L_n = inf{p : E_n(p) < 1/alpha}: pA is above it at all n at once, with probability 1 - alpha."""
    low, high = 0.0, successes / trials
    s, n = np.array([float(successes)]), np.array([float(trials)])
    for _ in range(60):
        middle = (low + high) / 2
        if 0 < middle < 1 and log_evidence_above(middle, s, n)[0] >= _wanted(alpha):
            low = middle
        else:
            high = middle
    return low


def course(rule: Boundaries, p: float) -> Course:
    """The exact course of a rule where every draw succeeds with probability p: its chance to certify, its mean draws.

    The mean counts the draws until every radius of the grid is certified or given up.
    """
    alive: dict[int, np.ndarray] = {0: np.ones(1)}  # radii certified so far -> chances of the counts 0, 1, ...
    certified, draws, before = 0.0, 0.0, 0
    radii = rule.accept.shape[1]
    for look, trials in enumerate(rule.looks.tolist()):
        draws += (trials - before) * sum(float(part.sum()) for part in alive.values())
        step = binom.pmf(np.arange(trials - before + 1), trials - before, p)
        moved: dict[int, np.ndarray] = {}
        for reached, part in alive.items():
            chances = np.convolve(part, step)
            counts = np.arange(len(chances))
            now = np.maximum(reached, np.searchsorted(rule.accept[look], counts, side="right"))
            for level in np.unique(now[chances > 0]).tolist():
                here = np.where(now == level, chances, 0.0)
                certified += float(here.sum()) if reached == 0 and level > 0 else 0.0
                if level < radii:
                    here[counts <= rule.refuse[look, level]] = 0.0
                    moved[level] = moved.get(level, 0.0) + here
        alive, before = moved, trials
    return Course(certified, draws)


@runtime_checkable
class Recorded(Protocol):
    """A certificate, fresh or from a file, as far as it decides a radius; attributes as in `Record`."""

    @property
    def stopping(self) -> Stopping: ...
    @property
    def grid(self) -> tuple[float, ...]: ...
    @property
    def sigma(self) -> float: ...
    @property
    def alpha(self) -> float: ...
    @property
    def budget(self) -> int: ...
    @property
    def look(self) -> int: ...


def record_of(one: Recorded) -> Record:
    """The settings in a certificate that decide its radius together with its count."""
    return {
        "stopping": one.stopping,
        "grid": one.grid,
        "sigma": one.sigma,
        "alpha": one.alpha,
        "budget": one.budget,
        "look": one.look,
    }


def certified_radius(votes: int, trials: int, **record: Unpack[Record]) -> float | None:
    """The l2 radius that `votes` of `trials` prove at the look where sampling decided; None where nothing (abstain).

    All arguments stand in a record. Raises ValueError where the rule has no look at `trials`.
    """
    known = _Known(**record)
    if known.stopping == "spending":
        rule = _rule_of(known)
        row = int(np.searchsorted(rule.looks, trials))
        if row >= len(rule.looks) or rule.looks[row] != trials:
            raise ValueError(f"no look at {trials} draws: one comes every {known.look} of {known.budget}")
        certified = int(np.searchsorted(rule.accept[row], votes, side="right"))
        return known.grid[certified - 1] if certified else None
    if known.stopping == "anytime":
        bound = mixture_lower_bound(votes, trials, known.alpha)
        return (bounds.radius_of(bound, known.sigma) if bound > 0.5 else 0.0) or None
    return bounds.radius(votes, trials, known.alpha, known.sigma) or None


class _Known(NamedTuple):
    """A `Record` by attribute."""

    stopping: Stopping
    grid: tuple[float, ...]
    sigma: float
    alpha: float
    budget: int
    look: int


def _rule_of(known: _Known) -> Boundaries:
    return boundaries(
        known.stopping, known.grid, sigma=known.sigma, alpha=known.alpha, budget=known.budget, look=known.look
    )


def largest_certifiable(**record: Unpack[Record]) -> float:
    """Radius of an image when every vote is right: no radius can exceed it."""
    known = _Known(**record)
    if known.stopping == "spending":
        reachable = _rule_of(known).reachable
        return known.grid[reachable - 1] if reachable else 0.0
    return certified_radius(known.budget, known.budget, **record) or 0.0


class Race:
    """Counts of several classifiers on their way through one rule; each stops by itself."""

    def __init__(self, rule: Boundaries, classifiers: int) -> None:
        self.rule = rule
        self.running = np.ones(classifiers, dtype=bool)
        self.certified = np.zeros(classifiers, dtype=np.int64)  # radii of the grid, from the smallest on
        self.votes = np.zeros(classifiers, dtype=np.int64)  # at the look that decided
        self.trials = np.zeros(classifiers, dtype=np.int64)
        self.last_votes = np.zeros(classifiers, dtype=np.int64)  # at the look that stopped it
        self.drawn = np.zeros(classifiers, dtype=np.int64)

    def look(self, number: int, successes: Int[np.ndarray, " classifiers"]) -> None:
        """Take the counts at a look; those of classifiers that have stopped are not read."""
        trials = int(self.rule.looks[number])
        now = np.searchsorted(self.rule.accept[number], successes, side="right")
        further = self.running & (now > self.certified)
        self.certified[further] = now[further]
        next_one = np.minimum(self.certified, self.rule.accept.shape[1] - 1)
        given_up = successes <= self.rule.refuse[number][next_one]
        complete = self.certified == self.rule.accept.shape[1]
        stops = self.running & (complete | given_up | (number == len(self.rule.looks) - 1))
        decided = further | (stops & (self.certified == 0))
        self.votes[decided], self.trials[decided] = successes[decided], trials
        self.last_votes[stops], self.drawn[stops] = successes[stops], trials
        self.running &= ~stops
