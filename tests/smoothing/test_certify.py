"""Certificates of classifiers whose distance to the border is known; what they may and may not depend on."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest, norm
from toys import Recorder, broken_above, half_space, linear, one_pixel

from medrobust.errors import SmoothingError
from medrobust.smoothing.bounds import radius
from medrobust.smoothing.certify import Certificate, Smoothing, certify, clean_answers, predict
from medrobust.smoothing.sampling import Sampler
from medrobust.types import Classifier, Image

SIGMA = 0.5
SMOOTHING = Smoothing(SIGMA, alpha=0.001, selection=100, budget=10_000, stopping="fixed")
NORMAL = torch.nn.functional.normalize(torch.randn(12, generator=torch.Generator().manual_seed(0)), dim=0)
CENTRE = torch.full((3, 2, 2), 0.5)
BORDER = half_space(NORMAL, offset=float(NORMAL @ CENTRE.flatten()))


def at(distance: float) -> Image:
    """An image so far from the border, on the side of class 1 where the distance is positive."""
    return CENTRE + distance * NORMAL.view(3, 2, 2)


def certificate(
    classifier: Classifier, image: Image, smoothing: Smoothing = SMOOTHING, **changes: object
) -> Certificate:
    given = {"seed": 0, "item": "a"} | changes
    sampler = Sampler(given.pop("batch", 1000))  # type: ignore[arg-type]
    (found,) = certify([classifier], image, smoothing, sampler=sampler, **given)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("side", [-1, 1])
def test_the_radius_is_below_the_true_distance_and_above_nine_tenths_of_it(side: int) -> None:
    for number, distance in enumerate(torch.linspace(0.6, 2.8, 30).tolist()):
        distance *= SIGMA
        found = certificate(BORDER, at(side * distance), replace(SMOOTHING, budget=40_000), item=f"image {number}")
        assert found.prediction == (side > 0)
        assert 0.9 * distance <= found.radius <= distance


def test_a_border_between_three_classes_is_as_far_as_its_nearest_plane() -> None:
    weights = torch.zeros(3, 12)
    weights[0, 0], weights[1, 1] = 1.0, 1.0
    image = torch.zeros(3, 2, 2)
    image[0, 0, 0], image[0, 0, 1] = 0.9, -1.5
    found = certificate(linear(weights, torch.zeros(3)), image)
    assert found.prediction == 0
    assert 0.85 * 0.9 <= found.radius <= 0.9


def test_on_the_border_it_abstains() -> None:
    abstained = [certificate(BORDER, at(0.0), item=str(number)) for number in range(20)]
    assert all(found.prediction is None and found.radius == 0 for found in abstained)
    assert all(found.selected in (0, 1) and found.trials == 10_000 for found in abstained)


def test_noise_that_crosses_the_border_both_ways_is_counted_against_the_answer() -> None:
    votes = certificate(BORDER, at(0.7 * SIGMA)).votes
    assert binomtest(votes, 10_000, float(norm.cdf(0.7))).pvalue > 0.001


def test_the_radius_follows_from_the_record_alone() -> None:
    found = certificate(BORDER, at(0.4))
    assert found.radius == radius(found.votes, found.trials, found.alpha, found.sigma)
    assert (found.sigma, found.alpha, found.trials, found.stopping) == (SIGMA, 0.001, 10_000, "fixed")


def test_the_class_is_chosen_from_draws_that_are_not_counted() -> None:
    encoder = Recorder()
    certificate(Classifier(encoder, BORDER.head), CENTRE, replace(SMOOTHING, selection=50, budget=50), batch=50)
    selection, estimation = (batch[:50].flatten() for batch in encoder.seen)
    assert not torch.isin(selection, estimation).any()


def test_the_choice_is_the_selections_even_where_the_estimation_disagrees() -> None:
    lopsided = [certificate(BORDER, at(0.0), replace(SMOOTHING, selection=1), item=str(number)) for number in range(20)]
    assert {found.selected for found in lopsided} == {0, 1}
    wrong = [found for found in lopsided if found.votes < 5000]
    assert wrong
    assert all(found.prediction is None for found in wrong)


@pytest.mark.parametrize("place", range(3))
def test_a_certificate_does_not_depend_on_its_neighbours(place: int) -> None:
    others = [half_space(-NORMAL), one_pixel(0.4), half_space(NORMAL, 0.1)]
    alone = [certificate(classifier, at(0.3)) for classifier in others]
    order = [(place + turn) % 3 for turn in range(3)]
    together = certify([others[i] for i in order], at(0.3), SMOOTHING, seed=0, item="a", sampler=Sampler(1000))
    assert together == [alone[i] for i in order]


def test_a_certificate_depends_on_seed_item_and_sigma_alone() -> None:
    classifier, image = one_pixel(0.4), at(0.1)
    first = certificate(classifier, image)
    certificate(classifier, image, item="other")
    torch.manual_seed(7)
    assert certificate(classifier, image) == first
    assert certificate(classifier, image, batch=333) == first
    assert certificate(classifier, image, item="b").votes != first.votes
    assert certificate(classifier, image, seed=1).votes != first.votes


def test_logits_that_are_no_numbers_never_certify() -> None:
    never = broken_above(-100.0)
    found = certificate(never, CENTRE)
    assert (found.prediction, found.selected, found.votes, found.radius) == (None, None, 0, 0.0)
    often = certificate(broken_above(0.0), CENTRE)
    assert often.prediction is None
    assert often.votes == pytest.approx(10_000 * norm.cdf(-1), abs=200)
    assert clean_answers([never, broken_above(0.6)], CENTRE) == [None, 0]


def test_scopes_are_written_down_one_a_classifier() -> None:
    pair = [BORDER.tuned(BORDER.head), one_pixel(0.4)]
    found = certify(pair, CENTRE, SMOOTHING, seed=0, item="a", sampler=Sampler(1000))
    assert [one.scope for one in found] == ["tuned on input", "model"]
    assert certificate(BORDER, CENTRE).scope == "model"


def test_clean_answers_are_those_without_noise() -> None:
    assert clean_answers([BORDER, half_space(-NORMAL, -100.0)], at(0.01)) == [1, 1]
    assert clean_answers([BORDER], at(-0.01)) == [0]


def test_a_prediction_is_made_only_where_the_lead_is_no_chance() -> None:
    def prediction(distance: float) -> object:
        return predict([BORDER], at(distance), SMOOTHING, seed=0, item="a", sampler=Sampler(1000))[0]

    sure, unsure = prediction(-0.2), prediction(0.0)
    assert (sure.prediction, sure.top, sure.trials) == (0, 0, 10_000)
    assert sure.p_value == pytest.approx(binomtest(sure.votes, 10_000).pvalue)
    assert unsure.prediction is None
    assert unsure.p_value > SMOOTHING.alpha


def test_a_prediction_draws_noise_of_its_own() -> None:
    encoder = Recorder()
    classifier, few = Classifier(encoder, BORDER.head), replace(SMOOTHING, selection=50, budget=50)
    certificate(classifier, CENTRE, few, batch=50)
    predict([classifier], CENTRE, few, seed=0, item="a", sampler=Sampler(50))
    *certified, predicted = encoder.seen
    assert not torch.isin(predicted, torch.cat(certified)).any()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sigma": 0.0}, r"sigma is 0.0, must be a positive number"),
        ({"sigma": float("nan")}, r"sigma is nan"),
        ({"sigma": float("inf")}, r"sigma is inf"),
        ({"alpha": 0.0}, r"alpha is 0.0, must lie between 0 and 1"),
        ({"alpha": 1.0}, r"alpha is 1.0"),
        ({"selection": 0}, r"selection is 0, at least one"),
        ({"budget": 9}, r"n = 9 draws can certify nothing at alpha = 0.001.* take n >= 10"),
    ],
)
def test_settings_no_certificate_can_come_out_of_are_refused(change: dict, sentence: str) -> None:
    with pytest.raises(SmoothingError, match=sentence):
        replace(SMOOTHING, **change)


def test_the_largest_radius_is_what_agreement_of_all_gets() -> None:
    found = certificate(BORDER, at(100.0))
    assert found.votes == 10_000
    assert found.radius == SMOOTHING.largest_radius == pytest.approx(3.1986 * SIGMA, abs=1e-4)
    assert replace(SMOOTHING, budget=10).largest_radius > 0


EARLY = {stopping: replace(SMOOTHING, stopping=stopping) for stopping in ("spending", "anytime")}


@pytest.mark.parametrize("stopping", EARLY)
def test_early_certificates_are_below_the_true_distance_and_near_the_fixed_ones(stopping: str) -> None:
    grid, fewer = sorted(SMOOTHING.radii), 0
    for number, distance in enumerate(torch.linspace(0.02, 1.7, 40).tolist()):
        found = certificate(BORDER, at(distance), EARLY[stopping], item=f"image {number}")
        fixed = certificate(BORDER, at(distance), item=f"image {number}")
        assert found.radius <= distance
        on_grid = max(radius for radius in grid if radius <= fixed.radius)
        assert found.prediction == 1 or distance < 0.1
        assert max(radius for radius in grid if radius <= found.radius) >= on_grid - 0.25
        fewer += found.drawn < fixed.drawn
    assert fewer >= 15


@pytest.mark.parametrize("stopping", EARLY)
def test_an_early_certificate_does_not_depend_on_batch_or_neighbours(stopping: str) -> None:
    others = [one_pixel(0.4), one_pixel(0.45), one_pixel(-2.0), one_pixel(0.5)]
    alone = [certificate(classifier, at(0.1), EARLY[stopping], batch=64) for classifier in others]
    assert len({found.drawn for found in alone}) > 1
    for batch in (32, 100, 1000, 20_000):
        together = certify(others, at(0.1), EARLY[stopping], seed=0, item="a", sampler=Sampler(batch))
        assert together == alone


@pytest.mark.parametrize("look", [1, 7, 32, 5000])
def test_any_distance_between_looks_is_sound(look: int) -> None:
    few = replace(EARLY["spending"], look=look, radii=(0.25,))
    far, near = (certificate(BORDER, at(distance), few) for distance in (0.6, 0.2))
    assert (far.prediction, far.radius, near.prediction, near.radius) == (1, 0.25, None, 0.0)
    assert far.drawn % look == 0
    assert far.look == look


def test_one_radius_is_decided_sooner_than_a_curve() -> None:
    one = certificate(BORDER, at(1.0), replace(EARLY["spending"], radii=(0.25,)))
    curve = certificate(BORDER, at(1.0), EARLY["spending"])
    assert one.drawn < curve.drawn / 4
    assert (one.radius, one.grid) == (0.25, (0.25,))
    assert curve.grid == tuple(sorted(SMOOTHING.radii))


def test_the_class_is_the_same_though_the_choice_ends_early() -> None:
    encoder = Recorder()
    few = replace(SMOOTHING, budget=30)
    full, short = (
        [certificate(BORDER, at(0.02), few, item=str(number), batch=batch).selected for number in range(30)]
        for batch in (100, 3)
    )
    assert short == full
    assert {0, 1} == set(full)
    far = Classifier(encoder, BORDER.head)
    certificate(far, at(3.0), few, batch=10)
    assert len(encoder.seen) == 6 + 3  # 51 of 100 agree after six batches, and nobody can catch up


def test_a_radius_that_the_draws_cannot_reach_is_refused_where_it_is_the_smallest() -> None:
    with pytest.raises(SmoothingError, match=r"n = 100 draws cannot certify radius 1 at sigma = 0.5 .*\(below 0.75"):
        Smoothing(SIGMA, budget=100, radii=(1.0, 1.5))
    few = Smoothing(SIGMA, budget=100, radii=(0.25, 1.5))
    assert few.largest_radius == 0.25
    assert certificate(BORDER, at(5.0), few).radius == 0.25


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"look": 0}, "look is 0, at least one draw"),
        ({"radii": ()}, r"radii are \[\]"),
        ({"radii": (0.1, -1.0)}, "not negative"),
        ({"radii": (float("nan"),)}, "must be finite"),
        ({"radii": (0.25, 0.1, 0.25)}, "named twice"),
    ],
)
def test_bad_looks_and_radii_are_refused(change: dict, sentence: str) -> None:
    with pytest.raises(SmoothingError, match=sentence):
        replace(SMOOTHING, **change)


@pytest.mark.parametrize("stopping", EARLY)
def test_numbers_that_are_none_never_certify_early(stopping: str) -> None:
    found = certificate(broken_above(-100.0), CENTRE, EARLY[stopping])
    assert (found.prediction, found.selected, found.votes, found.radius) == (None, None, 0, 0.0)
    assert found.drawn < 1000
