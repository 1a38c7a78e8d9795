"""Bounds against arbitrary precision, scipy's tests, the paper's numbers and simulation; radii never rounded up."""

from math import floor

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm

from medrobust.smoothing import bounds

counts = st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
alphas = st.sampled_from([0.05, 0.01, 0.001, 1e-6])


def exact_bound(successes: int, trials: int, alpha: float, near: float) -> mpmath.mpf:
    """The p at which so many successes or more have probability alpha, to 40 digits, by Newton's method."""
    p = mpmath.mpf(near)
    for _ in range(4):
        first = mpmath.binomial(trials, successes) * p**successes * (1 - p) ** (trials - successes)
        term, tail, count = first, mpmath.mpf(0), successes
        while term > mpmath.mpf("1e-45"):
            tail += term
            term *= mpmath.mpf(trials - count) / (count + 1) * p / (1 - p)
            count += 1
        p -= (tail - mpmath.mpf(alpha)) / (first * successes / p)
    return p


def exact_radius(bound: mpmath.mpf, sigma: float) -> mpmath.mpf:
    return mpmath.mpf(sigma) * mpmath.sqrt(2) * mpmath.erfinv(2 * bound - 1)


@pytest.mark.parametrize("trials", [10, 11, 137, 1000, 10_000, 100_000])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_bounds_and_radii_are_below_the_exact_ones_and_close(trials: int, alpha: float) -> None:
    with mpmath.workdps(40):
        for share in (0.52, 0.7, 0.9, 0.99, 0.9995, 1.0):
            successes = round(share * trials)
            found = bounds.lower_bound(successes, trials, alpha)
            exact = exact_bound(successes, trials, alpha, found)
            assert exact * (1 - mpmath.mpf("1e-11")) < found <= exact
            for sigma in (0.1, 0.25, 1.0):
                radius = bounds.radius(successes, trials, alpha, sigma)
                if exact <= 0.5:
                    assert radius == 0
                else:
                    assert exact_radius(exact, sigma) - mpmath.mpf("1.001e-6") < radius <= exact_radius(exact, sigma)


@given(counts, alphas)
def test_the_bound_is_where_scipys_binomial_test_is_at_alpha(count: tuple[int, int], alpha: float) -> None:
    successes, trials = count
    bound = bounds.lower_bound(successes, trials, alpha)
    if successes == 0:
        assert bound == 0
    else:
        reference = binomtest(successes, trials, alternative="greater").proportion_ci(1 - alpha, method="exact").low
        assert bound == pytest.approx(reference, rel=1e-9)
        assert binom.sf(successes - 1, trials, bound) == pytest.approx(alpha, rel=1e-6)


@given(counts, alphas, st.floats(0.01, 2))
def test_more_votes_never_mean_a_smaller_radius(count: tuple[int, int], alpha: float, sigma: float) -> None:
    successes, trials = count
    radius = bounds.radius(successes, trials, alpha, sigma)
    assert bounds.radius(min(trials, successes + 1), trials, alpha, sigma) >= radius
    assert radius <= bounds.largest_radius(trials, alpha, sigma)
    assert bounds.radius(successes, trials, alpha / 10, sigma) <= radius


def test_the_papers_numbers() -> None:
    assert bounds.radius(10_000, 10_000, 0.001, 1.0) == pytest.approx(3.1986, abs=1e-4)
    assert bounds.largest_radius(10_000, 0.001, 0.25) == pytest.approx(3.1986 / 4, abs=1e-4)
    assert bounds.radius(5_155, 10_000, 0.001, 1.0) == 0 < bounds.radius(5_156, 10_000, 0.001, 1.0)
    assert bounds.radius(8_525, 10_000, 0.001, 1.0) < 1 <= bounds.radius(8_526, 10_000, 0.001, 1.0)


@pytest.mark.parametrize("alpha", [0.4, 0.25, 0.05, 0.01, 0.001, 1e-6])
def test_the_fewest_trials_are_those_whose_agreement_beats_a_coin(alpha: float) -> None:
    fewest = bounds.fewest_trials(alpha)
    assert bounds.lower_bound(fewest, fewest, alpha) > 0.5
    assert fewest == 1 or bounds.lower_bound(fewest - 1, fewest - 1, alpha) <= 0.5
    assert fewest == floor(-np.log2(alpha)) + 1


def test_ten_trials_are_the_fewest_at_the_papers_alpha() -> None:
    assert bounds.fewest_trials(0.001) == 10


def test_a_coin_gets_a_certificate_no_oftener_than_alpha() -> None:
    rounds, alpha = 200_000, 0.01
    votes, times = np.unique(np.random.default_rng(0).binomial(100, 0.5, size=rounds), return_counts=True)
    false = sum(
        count
        for vote, count in zip(votes.tolist(), times.tolist(), strict=True)
        if bounds.radius(vote, 100, alpha, 1.0)
    )
    assert binomtest(false, rounds, alpha, alternative="greater").pvalue > 0.001
    # the exact rate is that of the fewest votes which certify, so the test is not empty
    fewest = next(vote for vote in range(101) if bounds.radius(vote, 100, alpha, 1.0))
    assert binomtest(false, rounds, float(binom.sf(fewest - 1, 100, 0.5))).pvalue > 0.001


@given(st.floats(0.5, 1 - 1e-9), st.floats(0.01, 2))
def test_a_radius_is_sigma_times_the_quantile_rounded_down(bound: float, sigma: float) -> None:
    radius = bounds.radius_of(bound, sigma)
    assert radius <= sigma * norm.ppf(bound) < radius + 1.001e-6


@settings(max_examples=300)
@given(st.floats(0, 1e6), st.integers(0, 8))
@example(0.049999999999999996, 2)
@example(0.8999999999999999, 1)
@example(1.9999999999999998e-05, 6)
def test_rounding_is_down_and_by_less_than_one_unit(value: float, digits: int) -> None:
    rounded = bounds.round_down(value, digits)
    assert rounded <= value
    assert value - rounded < 1.01 * 10**-digits
    assert rounded == round(rounded, digits)


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_lead_of_a_class_is_tested_two_sided(top: int, second: int) -> None:
    more = max(top, second)
    expected = min(1.0, 2 * float(binom.sf(more - 1, top + second, 0.5))) if top + second else 1.0
    assert bounds.two_sided_p_value(top, second) == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_has_half_the_doubt_on_either_side(count: tuple[int, int]) -> None:
    hits, total = count
    found = bounds.interval(hits, total, 0.9)
    assert found.value == hits / total
    assert (found.hits, found.total) == count
    assert binom.sf(hits - 1, total, found.low) == pytest.approx(0.05, rel=1e-6) if hits else found.low == 0
    assert binom.cdf(hits, total, found.high) == pytest.approx(0.05, rel=1e-6) if hits < total else found.high == 1


@pytest.mark.parametrize(
    ("successes", "trials", "alpha"), [(-1, 10, 0.1), (11, 10, 0.1), (0, 0, 0.1), (5, 10, 0.0), (5, 10, 1.0)]
)
def test_impossible_counts_are_refused(successes: int, trials: int, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"are not a count|must lie between 0 and 1"):
        bounds.lower_bound(successes, trials, alpha)
