"""Balls: what is read, what is refused, and that projections are the nearest points."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medrobust.attacks.ball import Ball, Norm, unit
from medrobust.attacks.draws import draws
from medrobust.attacks.errors import AttackError
from medrobust.seeds import stream

norms = pytest.mark.parametrize("norm", ["linf", "l2"])


@pytest.mark.parametrize(
    ("norm", "eps", "wanted"),
    [("linf", "8/255", Ball("linf", 8 / 255)), ("Linf", " 0.03 ", Ball("linf", 0.03)), ("L_2", 3, Ball("l2", 3.0)),
     ("l2", "128/255", Ball("l2", 128 / 255)), ("2", "1e-2", Ball("l2", 0.01))],
)  # fmt: skip
def test_reads_what_people_write(norm: str, eps: str | float, wanted: Ball) -> None:
    assert Ball.parse(norm, eps) == wanted


def test_says_what_it_is() -> None:
    assert str(Ball("linf", 8 / 255)) == "linf 8/255"
    assert str(Ball("l2", 0.05)) == "l2 0.05"


@pytest.mark.parametrize(
    ("norm", "eps", "sentence"),
    [("linf", "8", r"eps is 8, must be below 1 in the norm linf.*did you mean 8/255\?"),
     ("linf", 1, r"did you mean 1/255\?"), ("l2", "128", r"below 8 in the norm l2.*did you mean 128/255\?"),
     ("linf", "0", "must be above 0.*clean accuracy"), ("linf", "-0.1", "must be above 0"), ("linf", "nan", "above 0"),
     ("l2", "inf", "above 0"), ("linf", "8/0", "not a number; write it as 8/255"), ("linf", "8/255/2", "not a number"),
     ("linf", "eight", "'eight' is not a number"), ("l1", "0.1", "no norm 'l1'.*linf and l2"),
     ("linff", "0.1", "did you mean 'linf'")],
)  # fmt: skip
def test_refuses_with_a_sentence(norm: str, eps: str | float, sentence: str) -> None:
    with pytest.raises(AttackError, match=sentence):
        Ball.parse(norm, eps)


def test_distances() -> None:
    centre = torch.full((2, 3, 1, 1), 0.5)
    moved = centre + torch.tensor([[0.3, -0.4, 0.0], [0.0, 0.0, 0.0]]).reshape(2, 3, 1, 1)
    torch.testing.assert_close(Ball("linf", 0.1).distance(moved, centre).float(), torch.tensor([0.4, 0.0]))
    torch.testing.assert_close(Ball("l2", 0.1).distance(moved, centre).float(), torch.tensor([0.5, 0.0]))


def test_contains_looks_at_ball_and_box_and_numbers() -> None:
    centre = torch.tensor([0.05, 0.5, 0.5, 0.5])[:, None, None, None].expand(4, 3, 1, 1)
    moved = centre + torch.tensor([-0.06, 0.05, 0.2, torch.nan])[:, None, None, None]
    assert Ball("linf", 0.1).contains(moved, centre).tolist() == [False, True, False, False]


pixel = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32))
far = st.floats(-3, 4, width=32)


@norms
@settings(max_examples=150, deadline=None)
@given(
    centre=st.lists(pixel, min_size=12, max_size=12),
    point=st.lists(far, min_size=12, max_size=12),
    other=st.lists(far, min_size=12, max_size=12),
    eps=st.floats(0.001, 0.9),
)
def test_projection_is_the_nearest_point_of_ball_and_box(
    norm: Norm, centre: list[float], point: list[float], other: list[float], eps: float
) -> None:
    """p is the projection of x on a convex set if and only if (x - p).(v - p) <= 0 for all v of the set."""
    ball = Ball(norm, eps)
    middle, far_away, third = (torch.tensor(values).reshape(1, 3, 2, 2) for values in (centre, point, other))
    nearest = ball.project(far_away, middle)
    assert bool(((nearest >= 0) & (nearest <= 1)).all())
    assert float(ball.distance(nearest, middle)) <= eps
    assert torch.equal(ball.project(nearest, middle), nearest) or norm == "l2"
    torch.testing.assert_close(ball.project(nearest, middle), nearest, atol=1e-5, rtol=0)
    for feasible in (ball.project(third, middle), middle):
        inner = ((far_away - nearest).double() * (feasible - nearest).double()).sum()
        assert float(inner) <= 1e-4


@norms
def test_projection_reaches_the_border_of_the_ball_and_keeps_what_is_inside(norm: Norm) -> None:
    ball, centre = Ball(norm, 0.2), torch.rand(4, 3, 5, 5, generator=stream(0, "centre"))
    far_away = centre + torch.randn(4, 3, 5, 5, generator=stream(0, "far"))
    reached = ball.distance(ball.project(far_away, centre), centre)
    torch.testing.assert_close(reached, torch.full((4,), 0.2, dtype=torch.float64), atol=1e-5, rtol=0)
    near = (centre + 0.01 * torch.randn(4, 3, 5, 5, generator=stream(0, "far"))).clamp(0, 1)
    assert torch.equal(ball.project(near, centre), near)


def test_a_white_pixel_costs_no_l2_radius() -> None:
    """Scaling first and clipping then would stop short of eps; the nearest point uses all of it."""
    centre = torch.tensor([0.9, 0.5, 0.5]).reshape(1, 3, 1, 1)
    moved = Ball("l2", 0.3).project(centre + torch.tensor([1.0, 1.0, 0.0]).reshape(1, 3, 1, 1), centre)
    torch.testing.assert_close(moved.flatten(), torch.tensor([1.0, 0.5 + 0.08**0.5, 0.5]), atol=1e-5, rtol=0)


@norms
def test_random_images_fill_the_ball(norm: Norm) -> None:
    """Uniform in n = 12 dimensions: linf offsets have variance eps^2 / 3, l2 lengths have mean eps n / (n + 1)."""
    ball, centre = Ball(norm, 0.2), torch.full((400, 3, 2, 2), 0.5)
    images = ball.random(centre, draws(stream(0, "ball"), 400, "test"))
    if norm == "linf":
        assert abs(float((images - centre).square().mean()) - 0.04 / 3) < 0.0006
    else:
        assert abs(float(ball.distance(images, centre).mean()) - 0.2 * 12 / 13) < 0.003
    assert abs(float((images - centre).mean())) < 0.01


def test_unit_of_gradients_too_small_to_square() -> None:
    gradient = torch.tensor([3e-30, 4e-30, 0.0, 0.0, 0.0, 0.0]).reshape(2, 3, 1, 1)
    torch.testing.assert_close(unit(gradient).flatten(), torch.tensor([0.6, 0.8, 0, 0, 0, 0]))


@norms
def test_direction_is_steepest(norm: Norm) -> None:
    """The inner product with the gradient is its dual norm."""
    gradient = torch.randn(2, 3, 2, 2, generator=stream(0, "gradient"))
    flat = gradient.flatten(1)
    dual = flat.abs().sum(dim=1) if norm == "linf" else flat.norm(dim=1)
    torch.testing.assert_close((Ball(norm, 0.1).direction(gradient) * gradient).sum(dim=(1, 2, 3)), dual)
    assert math.isclose(float(Ball("linf", 0.1).reach(gradient)), 0.1, abs_tol=1e-7)
