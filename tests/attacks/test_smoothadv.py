"""SmoothAdv on classifiers whose nearest border point is known; where it may go, and what it may not change."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import half_space, linear

from medrobust.attacks.errors import AttackError, NoGradientError
from medrobust.attacks.smoothadv import log_odds, smooth_adv, within
from medrobust.types import Classifier, Features, Image, Logits

SIGMA = 0.5
NORMAL = torch.nn.functional.normalize(torch.randn(12, generator=torch.Generator().manual_seed(0)), dim=0)
CENTRE = torch.full((3, 2, 2), 0.5)


def border(steepness: float = 1.0) -> Classifier:
    return half_space(steepness * NORMAL, offset=steepness * float(NORMAL @ CENTRE.flatten()))


def at(distance: float) -> Image:
    """An image of class 1, so far from the border."""
    return CENTRE + distance * NORMAL.view(3, 2, 2)


def attacked(classifier: Classifier, image: Image, radius: float, seed: int = 0, **settings: object) -> Image:
    generator = torch.Generator().manual_seed(seed)
    return smooth_adv(classifier, image, 1, radius=radius, sigma=SIGMA, generator=generator, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("steepness", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize("distance", [1e-3, 0.2, 3.0])
@pytest.mark.parametrize("fresh", [False, True])
def test_it_crosses_just_outside_of_the_true_distance_and_never_inside(
    distance: float, steepness: float, fresh: bool
) -> None:
    classifier, image = border(steepness), at(distance)
    for factor, broken in ((1.1, True), (0.9, False)):
        found = attacked(classifier, image, factor * distance, fresh=fresh)
        assert bool(classifier(found[None]).argmax() == 0) == broken
        offset = (found - image).flatten()
        assert float(offset.norm()) == pytest.approx(factor * distance, rel=1e-3)
        assert float(torch.cosine_similarity(offset, -NORMAL, dim=0)) > 0.999


def test_of_two_borders_it_takes_the_nearer() -> None:
    weights = torch.zeros(3, 12)
    weights[0, 0], weights[2, 1] = -3.0, 3.0
    image = torch.zeros(3, 2, 2)
    image[0, 0, 0], image[0, 0, 1] = 0.9, -0.3  # class 1 while -x0 < 0 and x1 < 0
    found = attacked(linear(weights, torch.zeros(3)), image, 0.4)
    assert int(linear(weights, torch.zeros(3))(found[None]).argmax()) == 2


@settings(max_examples=60, deadline=None)
@given(
    radius=st.floats(1e-7, 20),
    scale=st.floats(0, 100),
    centre=st.floats(-3, 3),
    clip=st.booleans(),
    seed=st.integers(0, 99),
)
def test_points_stay_strictly_within(radius: float, scale: float, centre: float, clip: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    middle = torch.rand(3, 4, 4, generator=generator) * (1 if clip else centre)
    middle = middle.clamp(0, 1) if clip else middle
    point = middle + scale * radius * torch.randn(3, 4, 4, generator=generator)
    moved = within(point, middle, radius, clip=clip)
    assert float((moved.double() - middle.double()).norm()) < radius
    assert not clip or (float(moved.min()) >= 0 and float(moved.max()) <= 1)
    if scale * 7 < 0.5 and not clip:
        assert torch.equal(moved, point)


def test_the_attack_stays_strictly_within_and_in_the_box_if_asked() -> None:
    image = at(0.3).clamp(0, 1)
    for radius in (1e-6, 0.01, 2.0):
        for clip in (False, True):
            found = attacked(border(), image, radius, clip=clip, restarts=3)
            assert float((found.double() - image.double()).norm()) < radius
            assert not clip or (float(found.min()) >= 0 and float(found.max()) <= 1)
    assert float(attacked(border(), image, 2.0).min()) < 0


def test_its_gradient_is_that_of_the_mean_softmax() -> None:
    from medrobust.attacks.smoothadv import _gradient

    weights = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    classifier, image = linear(weights, torch.zeros(3)), at(0.1)
    noise = torch.randn(7, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    pixels = image.clone().requires_grad_(True)
    mean = classifier(pixels + noise).double().softmax(dim=1)[:, 1].mean()
    (wanted,) = torch.autograd.grad(mean, pixels)
    odds = math.log(float(mean.detach()) / (1 - float(mean.detach())))
    for batch in (1, 3, 7):
        found = _gradient(classifier, image, 1, noise, batch)
        assert float(torch.cosine_similarity(found.flatten(), wanted.flatten(), dim=0)) == pytest.approx(1, abs=1e-6)
        assert log_odds(classifier, image, 1, noise, batch) == pytest.approx(odds, abs=1e-6)


def test_the_number_of_copies_at_a_time_changes_nothing() -> None:
    few, many = (attacked(border(), at(0.3), 0.25, batch=batch, draws=10) for batch in (3, 64))
    assert torch.allclose(few, many, atol=1e-5)


def test_at_most_a_batch_is_encoded_at_a_time() -> None:
    seen = []

    def head(features: Features) -> Logits:
        seen.append(len(features))
        return border().head(features)

    attacked(Classifier(border().encode, head), at(0.3), 0.25, batch=5, draws=12, steps=2)
    assert max(seen) == 5


def test_it_gives_nothing_to_the_classifier_s_weights() -> None:
    weights = torch.nn.Parameter(torch.stack([-NORMAL, NORMAL]))
    attacked(Classifier(border().encode, lambda features: features @ weights.T), at(0.3), 0.2, steps=2)
    assert weights.grad is None


def test_numbers_that_are_none_lead_nowhere() -> None:
    found = attacked(_nan_beyond(0.4), at(0.3), 0.5)
    assert bool(found.isfinite().all())
    assert torch.equal(within(torch.full((3, 2, 2), math.nan), CENTRE, 0.1), CENTRE)


def _nan_beyond(threshold: float) -> Classifier:
    def head(features: Features) -> Logits:
        logits = border().head(features)
        return torch.where(features[:, :1] > threshold, torch.tensor(float("nan")), logits)

    return Classifier(border().encode, head)


def test_what_cannot_be_attacked_is_refused() -> None:
    with pytest.raises(AttackError, match="radius must be above 0"):
        attacked(border(), at(0.3), 0.0)
    with pytest.raises(AttackError, match="at least 1"):
        attacked(border(), at(0.3), 0.1, steps=0)
    stuck = Classifier(border().encode, lambda features: border().head(features).sign())
    with pytest.raises(NoGradientError):
        attacked(Classifier(stuck.encode, lambda features: stuck.head(features).detach()), at(0.3), 0.1)
