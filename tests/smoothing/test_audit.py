"""The audit of certificates: silent where all is sound, and each planted bug is found by the check that is for it."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm
from toys import half_space, linear

from medrobust.attacks.smoothadv import smooth_adv
from medrobust.errors import SmoothingError
from medrobust.seeds import stream
from medrobust.smoothing import bounds, sampling, sequential
from medrobust.smoothing.audit import attempts as audit
from medrobust.smoothing.audit import claims
from medrobust.smoothing.audit import decision_border as border
from medrobust.smoothing.audit.claims import crossing_probability, doubts, log_mixture, supports
from medrobust.smoothing.certify import Certificate, Smoothing, certify
from medrobust.smoothing.sampling import Draws, Sampler
from medrobust.types import Classifier, Image

SIGMA = 0.5
NORMAL = torch.nn.functional.normalize(torch.randn(12, generator=torch.Generator().manual_seed(0)), dim=0)
CENTRE = torch.full((3, 2, 2), 0.5)
BORDER = half_space(NORMAL, offset=float(NORMAL @ CENTRE.flatten()))
SAMPLER = Sampler(256)
RULES = {
    name: Smoothing(SIGMA, 0.01, 50, 1000, name, radii=(0.0, 0.1, 0.25, 0.5), look=50)  # type: ignore[arg-type]
    for name in ("fixed", "spending", "anytime")
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def at(distance: float) -> Image:
    """An image so far from the border, on the side of class 1 where the distance is positive."""
    return CENTRE + distance * NORMAL.view(3, 2, 2)


def certificate(rule: Smoothing, image: Image, *, item: str = "a", classifier: Classifier = BORDER) -> Certificate:
    (found,) = certify([classifier], image, rule, seed=0, item=item, sampler=SAMPLER)
    return found


def several(rule: Smoothing) -> list[Certificate]:
    """From abstention to certainty."""
    return [certificate(rule, at(distance), item=f"{distance}") for distance in (0.0, 0.05, 0.2, 0.3, 0.45, 0.7, 4.0)]


@pytest.fixture(autouse=True)
def _fresh_tables(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a planted bug leaves behind must not be met again."""
    monkeypatch.setenv("MEDROBUST_CACHE", str(tmp_path_factory.mktemp("tables")))
    forget()
    yield
    forget()


def forget() -> None:
    for kept in (sequential.boundaries, claims._boundary, claims._error):
        kept.cache_clear()


# -- records


@every_rule
def test_sound_records_raise_no_doubt(rule: Smoothing) -> None:
    found = several(rule)
    assert [doubts(one) for one in found] == [[]] * len(found)
    assert found[0].prediction is None
    assert found[-1].radius >= 0.5


@every_rule
def test_a_radius_two_per_cent_too_large_is_found(rule: Smoothing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted where certifying and recomputing both see it, so that only the test of the claim itself can tell."""
    radius_of, threshold = bounds.radius_of, sequential.threshold
    monkeypatch.setattr(bounds, "radius_of", lambda bound, sigma: bounds.round_down(1.02 * radius_of(bound, sigma)))
    monkeypatch.setattr(sequential, "threshold", lambda radius, sigma: threshold(radius / 1.02, sigma))
    wrong = [doubts(one) for one in several(rule) if one.radius > 0]
    assert all(not any("does not follow" in sentence for sentence in told) for told in wrong)
    assert all(any("more than its record supports" in sentence for sentence in told) for told in wrong)
    assert len(wrong) >= 4


@every_rule
def test_alpha_used_twice_is_found(rule: Smoothing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds at 2 alpha, as a two-sided interval read as one-sided in the wrong way; the record says alpha."""
    lower, spending, wanted = bounds.lower_bound, sequential.spending_boundary, sequential._wanted
    monkeypatch.setattr(bounds, "lower_bound", lambda votes, trials, alpha: lower(votes, trials, 2 * alpha))
    monkeypatch.setattr(
        sequential, "spending_boundary", lambda p0, looks, alpha, weight: spending(p0, looks, 2 * alpha, weight)
    )
    monkeypatch.setattr(sequential, "_wanted", lambda alpha: wanted(2 * alpha))
    wrong = [doubts(one) for one in several(rule) if one.radius > 0]
    assert all(told == [told[0]] and "more than its record supports" in told[0] for told in wrong)
    assert len(wrong) >= 4


@every_rule
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"radius": 0.9}, "claims more than its record supports"),
        ({"radius": 0.05}, "does not follow from its record"),
        ({"radius": 0.0, "prediction": None}, "claims less than its record supports"),
        ({"votes": 300}, "claims more than its record supports"),
        ({"alpha": 1e-9}, "does not follow from its record"),
        ({"trials": 511, "votes": 500}, "its record"),
        ({"prediction": 0}, "does not follow from its record"),
        ({"drawn": 2000}, "does not follow from its record"),
    ],
)
def test_a_changed_record_is_found(rule: Smoothing, change: dict, sentence: str) -> None:
    sound = certificate(rule, at(0.7))
    assert doubts(sound) == []
    if rule.stopping == "anytime" and "trials" in change:
        pytest.skip("every number of draws is a look of a rule that holds at all times")
    told = doubts(replace(sound, **change))
    assert any(sentence in one for one in told), told


def test_fewer_draws_than_planned_are_no_fixed_sample() -> None:
    sound = certificate(RULES["fixed"], at(4.0))
    peeked = replace(sound, votes=900, trials=900, radius=bounds.radius(900, 900, 0.01, SIGMA))
    assert any("more than its record supports" in told for told in doubts(peeked))


@settings(max_examples=60, deadline=None)
@given(trials=st.integers(1, 3000), share=st.floats(0.5, 1), p0=st.floats(0.5, 0.99))
def test_the_mixture_by_quadrature_is_the_closed_form(trials: int, share: float, p0: float) -> None:
    votes = math.ceil(share * trials)
    (closed,) = sequential.log_evidence_above(p0, np.array([float(votes)]), np.array([float(trials)]))
    assert log_mixture(votes, trials, p0) == pytest.approx(closed, rel=1e-6, abs=1e-6) or closed == -math.inf


def test_the_crossing_probability_is_that_of_all_paths() -> None:
    looks, accept, p = np.array([2, 3, 5]), np.array([2, 4, 4]), 0.6
    crossed = 0.0
    for path in range(32):
        steps = [path >> place & 1 for place in range(5)]
        if any(sum(steps[:look]) >= least for look, least in zip(looks, accept, strict=True)):
            crossed += p ** sum(steps) * (1 - p) ** (5 - sum(steps))
    assert crossing_probability(accept, looks, p) == pytest.approx(crossed)


@settings(max_examples=40, deadline=None)
@given(votes=st.integers(0, 200), alpha=st.sampled_from([0.05, 0.001]))
def test_what_is_computed_is_the_largest_that_is_supported(votes: int, alpha: float) -> None:
    found = replace(certificate(Smoothing(SIGMA, alpha, 10, 200, "fixed"), at(0.3)), votes=votes)
    radius = bounds.radius(votes, 200, alpha, SIGMA)
    assert supports(found, radius) == (binom.sf(votes - 1, 200, norm.cdf(radius / SIGMA)) <= alpha)
    assert not supports(found, radius + 2e-6)


# -- attacks


def attempt(claim: Certificate, image: Image, **changes: Any) -> audit.Attempt:
    given = {
        "attack": partial(smooth_adv, steps=5, draws=16),
        "draws": Draws(SIGMA, 4000, "audit", 1, "a"),
        "level": 1e-5,
        "generator": stream(0, "audit attack"),
        "sampler": SAMPLER,
        **changes,
    }
    return audit.attack_inside(BORDER, image, claim, **given)


@every_rule
def test_no_certificate_is_broken_inside_its_radius(rule: Smoothing) -> None:
    for distance in (0.3, 0.7, 1.0):
        claim = certificate(rule, at(distance))
        found = attempt(claim, at(distance))
        assert not found.broken
        assert found.retuned is None
        assert 0.99 * claim.radius < found.distance < claim.radius
        assert found.share == pytest.approx(float(norm.cdf((distance - claim.radius) / SIGMA)), abs=0.03)


@every_rule
def test_a_radius_beyond_the_border_is_broken(rule: Smoothing) -> None:
    found = attempt(replace(certificate(rule, at(0.7)), radius=0.77), at(0.7))
    assert found.broken
    assert found.share == pytest.approx(float(norm.cdf(-0.07 / SIGMA)), abs=0.03)


def test_an_attack_that_leaves_the_ball_or_attacks_nothing_is_refused() -> None:
    claim = certificate(RULES["fixed"], at(0.7))
    with pytest.raises(SmoothingError, match="must stay below"):
        attempt(claim, at(0.7), attack=lambda classifier, image, label, **_: at(0.7 - 1.1 * claim.radius))
    with pytest.raises(SmoothingError, match="abstention"):
        attempt(replace(claim, prediction=None, radius=0.0), at(0.7))


def test_what_the_classifier_says_that_tunes_again() -> None:
    """A classifier whose border follows the image: it changes its answer though the frozen one may not."""
    claim = certificate(RULES["fixed"], at(0.7))
    for offset, answer in ((0.0, "same"), (3.0, "changed"), (0.7 - claim.radius, "abstains")):
        moved = half_space(NORMAL, offset=float(NORMAL @ CENTRE.flatten()) + offset)
        found = attempt(claim, at(0.7), retune=lambda image, moved=moved: moved)
        assert found.retuned == answer
        assert not found.broken


# -- drawing again


@every_rule
def test_the_same_seed_gives_the_same_certificate_and_another_seed_a_sound_one(rule: Smoothing) -> None:
    image, own = at(0.4), certificate(rule, at(0.4))
    assert audit.differing(certificate(rule, image), own) == []
    assert audit.differing(own, replace(own, votes=own.votes - 1)) == [
        f"votes {own.votes - 1}, drawn again {own.votes}"
    ]
    ((*new, last),) = audit.redraw([BORDER], image, rule, seed=5, item="a", repeats=6, sampler=SAMPLER)
    assert len({(one.votes, one.drawn) for one in (*new, last, own)}) > 1
    (votes,) = audit.count_votes([BORDER], image, Draws(SIGMA, 20_000, "audit reference", 5, "a"), SAMPLER)
    assert votes.sum() == 20_000
    assert votes[1] / 20_000 == pytest.approx(norm.cdf(0.4 / SIGMA), abs=0.015)
    wrong = [audit.contradicted(one, votes, 20_000) for one in (*new, last)]
    assert not audit.too_many(sum(wrong), len(wrong), rule.alpha)
    assert audit.contradicted(replace(own, radius=0.45), votes, 20_000)
    assert audit.contradicted(replace(own, prediction=0, radius=0.0), votes, 20_000)
    assert not audit.contradicted(replace(own, prediction=None, radius=0.0), votes, 20_000)


def test_one_false_certificate_is_chance_and_many_are_not() -> None:
    assert not audit.too_many(0, 0, 0.001)
    assert not audit.too_many(1, 30, 0.001)
    assert audit.too_many(4, 30, 0.001)


# -- the border

LEFT, RIGHT = at(1.0), at(-0.5)


def tries(rule: Smoothing, image: Image, **changes: Any) -> border.Tries:
    given = {"tries": 60, "reference": 10_000, "seed": 3, "item": "a", "sampler": SAMPLER, **changes}
    return border.try_often(BORDER, image, rule, **given)


def test_the_border_image_lies_on_the_border() -> None:
    found = border.border_image(BORDER, LEFT, RIGHT, 1, draws=Draws(SIGMA, 1, "audit line", 0, "a"), sampler=SAMPLER)
    assert found is not None
    assert abs(float(NORMAL @ (found - CENTRE).flatten())) < 0.06
    nothing = partial(border.border_image, BORDER, draws=Draws(SIGMA, 1, "audit line", 0, "a"), sampler=SAMPLER)
    assert nothing(LEFT, at(0.9), 1) is None
    assert nothing(RIGHT, LEFT, 1) is None


@every_rule
def test_a_sound_engine_certifies_a_border_image_in_alpha_of_all_tries(rule: Smoothing) -> None:
    found = tries(rule, at(0.0), tries=120)
    assert not found.too_often
    assert not found.dependent
    assert found.certified <= 120 * found.allowed * 2
    assert 0.45 < found.share < 0.55
    assert abs(found.excess) < 0.02


@every_rule
def test_draws_that_chose_the_class_and_are_counted_again_are_found(
    rule: Smoothing, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = sampling.noise

    def reused(shape: tuple[int, ...], device: torch.device, *, use: str, **rest: Any) -> object:
        return noise(shape, device, use="selection" if use == "estimation" else use, **rest)

    assert not tries(rule, at(0.0)).dependent
    monkeypatch.setattr(sampling, "noise", reused)
    found = tries(rule, at(0.0))
    assert found.dependent
    assert found.excess > 0.02


def test_a_point_beside_the_border_does_not_look_like_reused_draws() -> None:
    found = tries(RULES["fixed"], at(0.1))
    assert found.share > 0.55
    assert not found.dependent
    assert not found.too_often


def test_three_classes_at_a_point_do_not_look_like_reused_draws() -> None:
    weights = torch.zeros(3, 12)
    weights[0, 0], weights[1, 1], weights[2, 2] = 1.0, 1.0, 1.0
    found = border.try_often(
        linear(weights, torch.zeros(3)), torch.zeros(3, 2, 2), RULES["fixed"], tries=60, reference=5000, seed=0,
        item="a", sampler=SAMPLER,
    )  # fmt: skip
    assert not found.dependent
    assert not found.too_often
    assert found.excess < -0.1


@pytest.mark.parametrize("stopping", ["fixed", "spending"])
def test_a_level_that_is_not_kept_is_found_at_the_border(stopping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lower, spending = bounds.lower_bound, sequential.spending_boundary
    monkeypatch.setattr(bounds, "lower_bound", lambda votes, trials, alpha: lower(votes, trials, 8 * alpha))
    monkeypatch.setattr(
        sequential, "spending_boundary", lambda p0, looks, alpha, weight: spending(p0, looks, 8 * alpha, weight)
    )
    found = tries(RULES[stopping], at(0.0), tries=120)
    assert found.too_often
    assert not found.dependent
