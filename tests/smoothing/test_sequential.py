"""Stopping rules: their exact error, what a simulation says, what must not depend on what."""

import bisect
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, binom, norm

from medrobust.smoothing import sequential, tables
from medrobust.smoothing.bounds import lower_bound
from medrobust.smoothing.sequential import (
    Boundaries,
    Race,
    boundaries,
    certified_radius,
    course,
    hopeless,
    log_evidence_above,
    log_evidence_below,
    look_schedule,
    mixture_lower_bound,
    spending_boundary,
    threshold,
)

ALPHA = 0.001
RULES = ("fixed", "spending", "anytime")


@pytest.fixture(autouse=True)
def _tables_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDROBUST_CACHE", str(tmp_path))
    boundaries.cache_clear()


def rule(stopping: str, radii: tuple[float, ...] = (0.25,), budget: int = 2000, alpha: float = ALPHA) -> Boundaries:
    return boundaries(stopping, radii, sigma=0.5, alpha=alpha, budget=budget, look=32)  # type: ignore[arg-type]


def crossing(accept: np.ndarray, looks: np.ndarray, p: float) -> float:
    """The chance to reach the boundary, with the whole distribution carried along and nothing trimmed."""
    alive, crossed, before = np.array([1.0]), 0.0, 0
    for trials, bound in zip(looks, accept, strict=True):
        alive = np.convolve(alive, binom.pmf(np.arange(trials - before + 1), trials - before, p))
        crossed += alive[bound:].sum()
        alive[bound:] = 0.0
        before = trials
    return float(crossed)


@pytest.mark.parametrize("radius", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("budget", [10_000, 5000])
@pytest.mark.parametrize(("alpha", "least"), [(0.0001, 0.85), (0.001, 0.95), (0.01, 0.95)])
def test_spending_uses_alpha_and_no_more(radius: float, budget: int, alpha: float, least: float) -> None:
    found = rule("spending", (radius,), budget, alpha)
    error = crossing(found.accept[:, 0], found.looks, float(norm.cdf(radius / 0.5)))
    assert least * alpha <= error <= alpha


@pytest.mark.parametrize("stopping", RULES)
@pytest.mark.parametrize("below", [0.0, 0.001, 0.01, 0.1, 0.4])
def test_no_rule_certifies_below_the_threshold_more_often_than_alpha(stopping: str, below: float) -> None:
    for radius in (0.1, 0.5, 1.0):
        found = rule(stopping, (radius,))
        assert crossing(found.accept[:, 0], found.looks, float(norm.cdf(radius / 0.5)) - below) <= ALPHA


def test_a_grid_of_radii_costs_no_correction() -> None:
    grid = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    found = rule("spending", grid, 10_000)
    for number, radius in enumerate(grid):
        p0 = float(norm.cdf(radius / 0.5))
        # any radius that is not below the true one is certified: the smallest such, or one above it
        smallest = found.accept[:, number:].min(axis=1)
        assert 0.85 * ALPHA <= crossing(smallest, found.looks, p0) <= ALPHA


@pytest.mark.parametrize("stopping", RULES)
def test_a_simulation_agrees(stopping: str) -> None:
    generator, runs, alpha, p0 = np.random.default_rng(3), 40_000, 0.05, float(norm.cdf(0.5))
    found = rule(stopping, (0.25,), 400, alpha)
    counts = (generator.random((runs, 400)) < p0).cumsum(axis=1)[:, found.looks - 1]
    crossed = (counts >= found.accept[:, 0]).any(axis=1)
    expected = crossing(found.accept[:, 0], found.looks, p0)
    assert crossed.mean() == pytest.approx(expected, abs=4 * np.sqrt(alpha / runs))
    race = Race(found, runs)
    for look, column in enumerate(counts.T):
        race.look(look, column)
    assert not race.running.any()
    told = course(found, p0)
    assert (race.certified > 0).mean() == pytest.approx(told.certified, abs=4 * np.sqrt(alpha / runs))
    assert (race.certified > 0).sum() <= crossed.sum()  # giving up loses a few, and adds none
    assert race.drawn.mean() == pytest.approx(told.draws, abs=4 * 200 / np.sqrt(runs))


def test_the_course_of_a_grid_is_that_of_a_simulation() -> None:
    found = rule("spending", (0.0, 0.25, 0.5), 640, 0.05)
    generator, runs = np.random.default_rng(0), 20_000
    for p in (0.55, 0.75, 0.9):
        counts = (generator.random((runs, 640)) < p).cumsum(axis=1)[:, found.looks - 1]
        race = Race(found, runs)
        for look, column in enumerate(counts.T):
            race.look(look, column)
        assert race.drawn.mean() == pytest.approx(course(found, p).draws, rel=0.02)
        assert (race.certified > 0).mean() == pytest.approx(course(found, p).certified, abs=0.012)


@settings(max_examples=40, deadline=None)
@given(
    p0=st.floats(0.5, 0.995),
    alpha=st.floats(1e-5, 0.2),
    weight=st.floats(0.05, 1.0),
    budget=st.integers(1, 700),
    look=st.integers(1, 100),
)
def test_boundaries_are_valid_and_monotone(p0: float, alpha: float, weight: float, budget: int, look: int) -> None:
    looks = look_schedule(budget, look)
    found = spending_boundary(p0, looks, alpha, weight)
    assert crossing(found, looks, p0) <= alpha
    assert ((found >= 0) & (found <= looks + 1)).all()
    assert (np.diff(found) <= np.diff(looks) + 1).all()
    stricter = spending_boundary(p0, looks, alpha / 2, weight)
    assert crossing(stricter, looks, p0) <= alpha / 2
    given_up = hopeless(found, looks)
    for here in range(len(looks)):  # from a hopeless count even successes alone reach no later boundary
        assert (given_up[here] + looks[here:] - looks[here] < found[here:]).all()
        reached = given_up[here] + 1 + looks[here:] - looks[here]
        assert given_up[here] + 1 > looks[here] or (reached >= found[here:]).any()


@settings(max_examples=30, deadline=None)
@given(
    radii=st.lists(st.floats(0, 1.5), min_size=1, max_size=5, unique=True),
    budget=st.integers(50, 800),
    stopping=st.sampled_from(RULES),
)
def test_larger_radii_never_need_fewer_votes(radii: list[float], budget: int, stopping: str) -> None:
    found = rule(stopping, tuple(radii), budget)
    assert (np.diff(found.accept, axis=1) >= 0).all()
    assert (np.diff(found.refuse, axis=1) >= 0).all()
    assert (found.refuse < found.accept).all()


def test_a_grid_in_any_order_is_the_same_rule() -> None:
    assert (rule("spending", (0.5, 0.0, 0.25)).accept == rule("spending", (0.0, 0.25, 0.5)).accept).all()


def test_the_fixed_boundary_is_clopper_and_pearsons() -> None:
    for radius in (0.0, 0.25, 0.8):
        (votes,) = rule("fixed", (radius,), 1000).accept[:, 0]
        p0 = float(norm.cdf(radius / 0.5))
        assert lower_bound(int(votes), 1000, ALPHA) >= p0 > lower_bound(int(votes) - 1, 1000, ALPHA)


@pytest.mark.parametrize("p", [0.5, 0.7, 0.95])
@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (7, 10), (10, 10), (90, 100), (50, 100)])
def test_evidence_is_the_mixture_it_says(p: float, successes: int, trials: int) -> None:
    def mixed(low: float, high: float) -> float:
        def likelihood(theta: float) -> float:
            return float((theta / p) ** successes * ((1 - theta) / (1 - p)) ** (trials - successes))

        return quad(likelihood, low, high, epsrel=1e-9, limit=200)[0] / (high - low)

    s, n = np.array([float(successes)]), np.array([float(trials)])
    assert np.exp(log_evidence_above(p, s, n)[0]) == pytest.approx(mixed(p, 1), rel=1e-6)
    assert np.exp(log_evidence_below(p, s, n)[0]) == pytest.approx(mixed(0, p), rel=1e-6)


def test_the_anytime_bound_is_below_the_share_and_grows_with_the_draws() -> None:
    found = [mixture_lower_bound(9 * n // 10, n, ALPHA) for n in (10, 100, 1000, 10_000, 100_000)]
    assert found == sorted(found)
    assert found[0] < 0.5 < found[2] < found[-1] < 0.9
    assert mixture_lower_bound(0, 10, ALPHA) == 0.0
    assert found[3] < beta.ppf(ALPHA, 9000, 1001)  # the price of looking at every moment
    assert found[3] > beta.ppf(ALPHA / 500, 9000, 1001)


def test_anytime_bounds_hold_at_all_moments_together() -> None:
    generator, p, alpha = np.random.default_rng(1), 0.8, 0.1
    candidates = {n: range(n + 1) for n in range(8, 800, 24)}
    needed = {
        n: bisect.bisect(counts, p, key=lambda votes, n=n: mixture_lower_bound(votes, n, alpha))
        for n, counts in candidates.items()
    }
    counts = (generator.random((4000, 800)) < p).cumsum(axis=1)
    wrong = np.zeros(4000, dtype=bool)
    for n, votes in needed.items():
        wrong |= counts[:, n - 1] >= votes
    assert 0.001 < wrong.mean() <= alpha


def test_the_radius_follows_from_the_count_at_its_look() -> None:
    grid = (0.0, 0.25, 0.5)
    record = {"stopping": "spending", "grid": grid, "sigma": 0.5, "alpha": ALPHA, "budget": 2000, "look": 32}
    found = rule("spending", grid)
    for look, number in itertools.product((3, 20, len(found.looks) - 1), range(3)):
        votes, trials = int(found.accept[look, number]), int(found.looks[look])
        if votes <= trials:
            assert certified_radius(votes, trials, **record) >= grid[number]  # type: ignore[arg-type]
            below = certified_radius(votes - 1, trials, **record)  # type: ignore[arg-type]
            assert below is None if number == 0 else below < grid[number]  # type: ignore[operator]
    with pytest.raises(ValueError, match="no look at 33 draws: one comes every 32 of 2000"):
        certified_radius(33, 33, **record)  # type: ignore[arg-type]


def test_a_race_stops_each_by_itself_and_keeps_the_count_that_decided() -> None:
    found = rule("spending", (0.0, 0.25), 2000)
    race = Race(found, 3)
    always, half = 1.0, 0.67
    for look, trials in enumerate(found.looks.tolist()):
        race.look(look, np.array([always * trials, half * trials, 0.3 * trials]).astype(np.int64))
    sure, some, never = range(3)
    assert race.certified.tolist() == [2, 1, 0]
    assert race.drawn[sure] == race.trials[sure] < 100
    assert race.trials[some] < race.drawn[some] < 2000
    assert race.votes[some] == int(half * race.trials[some])
    assert race.drawn[never] == race.trials[never] < 200


def test_early_stopping_saves_what_it_promises() -> None:
    """Mean draws at a budget of 10,000 against the published rules; docs/evidence/speed-stopping.md has real images."""
    for radius, p, most in ((0.25, 0.99, 100), (0.25, 0.3, 60), (0.5, 0.95, 200)):
        found = rule("spending", (radius,), 10_000)
        assert course(found, p).draws <= most
    power = course(rule("spending", (0.25,), 10_000), 0.72).certified
    assert power >= course(rule("fixed", (0.25,), 10_000), 0.72).certified - 0.01


def test_tables_are_kept_and_a_damaged_one_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rule("spending").accept
    files = sorted(tmp_path.glob("*.json"))
    assert files
    with monkeypatch.context() as patch:
        patch.setattr(sequential, "spending_boundary", None)
        boundaries.cache_clear()
        assert (rule("spending").accept == first).all()
    for path in files:
        stored = json.loads(path.read_text())
        stored["values"][0] = 0  # a table that certifies everything
        path.write_text(json.dumps(stored))
    boundaries.cache_clear()
    assert (rule("spending").accept == first).all()
    for path in files:
        path.write_text("{")
    boundaries.cache_clear()
    assert (rule("spending").accept == first).all()
    assert json.loads(files[0].read_text())["values"]


def test_tables_of_other_inputs_are_others(tmp_path: Path) -> None:
    one = tables.kept("spending", {"p0": 0.5}, lambda: np.array([1, 2]))
    other = tables.kept("spending", {"p0": 0.6}, lambda: np.array([3]))
    again = tables.kept("spending", {"p0": 0.5}, lambda: np.array([9]))
    assert (one.tolist(), other.tolist(), again.tolist()) == ([1, 2], [3], [1, 2])


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDROBUST_CACHE", str(tmp_path / "file" / "folder"))
    assert rule("spending").accept.shape == (63, 1)


def test_the_threshold_is_rounded_up() -> None:
    assert threshold(0.25, 0.5) >= norm.cdf(0.5)
    assert threshold(100.0, 0.5) == 1.0
    assert rule("spending", (0.25, 100.0)).reachable == 1
