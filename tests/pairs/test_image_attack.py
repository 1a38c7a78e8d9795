"""The embedding attack where the nearest point is known, and on a small CLIP."""

import pytest
import torch
from toys import flatten

from medrobust.attacks import AttackError, Ball
from medrobust.data.task import Dataset
from medrobust.models.clip import Clip
from medrobust.pairs.image_attack import EmbeddingAttack, cosine, psnr
from medrobust.seeds import stream

GREY = torch.full((2, 3, 1, 1), 0.5)


def test_features_that_are_pixels_turn_as_far_as_the_ball_lets_them() -> None:
    """In linf, the nearest direction to (1, 0, 0) from (.5, .5, .5) within 0.2 is (.7, .3, .3)."""
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    found = EmbeddingAttack(steps=200)(flatten, GREY, targets, ball=Ball("linf", 0.2))
    expected = torch.tensor([[0.7, 0.3, 0.3], [0.3, 0.3, 0.7]])
    torch.testing.assert_close(found.images.flatten(1), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.before, torch.full((2,), 3**-0.5))
    torch.testing.assert_close(found.after, torch.full((2,), 0.7 / (0.7**2 + 2 * 0.3**2) ** 0.5), atol=1e-5, rtol=0)


def test_in_l2_the_direction_turns_by_the_known_angle() -> None:
    """From a point at length r, a ball of radius e reaches directions within arcsin(e / r)."""
    target, radius = torch.tensor([[1.0, -1.0, 0.0]]), 0.3
    found = EmbeddingAttack(steps=300, step=0.005)(flatten, GREY[:1], target, ball=Ball("l2", radius))
    reached = torch.acos(found.before) - torch.asin(torch.tensor(radius / 0.75**0.5))
    assert float(torch.acos(found.after)) == pytest.approx(float(reached), abs=2e-3)
    assert float((found.images - GREY[:1]).norm()) <= radius


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_on_a_clip_features_go_to_another_image_s(tiny: Clip, dataset: Dataset, norm: str) -> None:
    images = dataset.images(range(6))
    with torch.no_grad():
        targets = tiny.encode_image(dataset.images(range(6, 12)).flip(0))
    ball = Ball.parse(norm, {"linf": 0.1, "l2": 2.0}[norm])
    found = EmbeddingAttack(steps=20, step=ball.eps / 8, batch=4)(tiny.encode_image, images, targets, ball=ball)
    assert ball.contains(found.images, images).all()
    far = found.before < 0.95  # the other colours'
    assert far.sum() == 4
    assert (1 - found.after < 0.1 * (1 - found.before))[far].all()
    assert (found.after >= found.before).all()
    unit = torch.nn.functional.normalize(targets, dim=1)
    torch.testing.assert_close(cosine(tiny.encode_image, found.images, unit), found.after, atol=1e-5, rtol=0)
    again = EmbeddingAttack(steps=20, step=ball.eps / 8, batch=6)(tiny.encode_image, images, targets, ball=ball)
    torch.testing.assert_close(again.after, found.after, atol=1e-3, rtol=0)


def test_a_climb_that_overshoots_keeps_its_best_point() -> None:
    target = torch.tensor([[1.0, 0.98, 1.0]])
    found = EmbeddingAttack(steps=3, step=0.3)(flatten, GREY[:1], target, ball=Ball("linf", 0.4))
    assert float(found.after) >= float(found.before)


def test_steps_that_shrink_end_nearer_than_steps_of_one_length() -> None:
    """The nearest direction lies inside of the ball, where a step of one length jumps to and fro."""
    target, ball = torch.tensor([[1.0, 0.7, 0.85]]), Ball("linf", 0.4)
    constant = EmbeddingAttack(steps=15, step=0.13)(flatten, GREY[:1], target, ball=ball)
    shrinking = EmbeddingAttack(steps=15, step=0.13, decay=True)(flatten, GREY[:1], target, ball=ball)
    assert float(1 - shrinking.after) < 0.2 * float(1 - constant.after)


def test_a_grey_image_stays_grey_on_request_and_a_coloured_one_does_not() -> None:
    images = torch.cat([GREY[:1].expand(1, 3, 2, 2), torch.rand(1, 3, 2, 2, generator=stream(0, "colours"))])
    targets = torch.rand(2, 12, generator=stream(0, "targets"))
    targets[0, :4] += 2  # red is wanted
    attack = EmbeddingAttack(steps=5, step=0.05, keep_grey=True)
    found = attack(flatten, images, targets, ball=Ball("linf", 0.2)).images
    assert (found[0] == found[0, :1]).all()
    assert not torch.equal(found[0], images[0])
    assert ((found[1] - images[1]) != (found[1] - images[1])[:1]).any()
    free = EmbeddingAttack(steps=5, step=0.05)(flatten, images, targets, ball=Ball("linf", 0.2))
    assert (free.images[0] != free.images[0, :1]).any()
    torch.testing.assert_close(free.images[1], found[1])


def test_what_does_not_go_together() -> None:
    with pytest.raises(AttackError, match="2 images and 1 targets; pass one target an image"):
        EmbeddingAttack()(flatten, GREY, torch.ones(1, 3), ball=Ball("l2", 0.1))
    with pytest.raises(AttackError, match="a target has no direction"):
        EmbeddingAttack()(flatten, GREY, torch.zeros(2, 3), ball=Ball("l2", 0.1))


def test_noise_of_a_known_size() -> None:
    shifted = GREY + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    torch.testing.assert_close(psnr(GREY, shifted), torch.tensor([20.0, 40.0]), atol=1e-3, rtol=0)
    assert psnr(GREY, GREY).isinf().all()
