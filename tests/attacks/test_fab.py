"""FAB: nearest points of planes inside the box, and nearest wrong answers of linear models."""

import pytest
import torch
from attacks.borders import NORMS, border
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from toys import Recorder, flatten, half_space

from medrobust.attacks import AttackError, Ball
from medrobust.attacks.ball import Norm
from medrobust.attacks.fab import Fab, to_plane
from medrobust.seeds import stream
from medrobust.types import Classifier

norms = pytest.mark.parametrize("norm", NORMS)


@norms
@pytest.mark.parametrize("classes", [2, 3, 4, 9])
def test_the_nearest_wrong_answer_of_a_linear_model(norm: Norm, classes: int) -> None:
    known = border(classes)
    found = Fab(steps=40, targets=3).nearest(
        known.classifier, known.images, known.labels, ball=Ball(norm, 0.5), generator=stream(0, "test")
    )
    assert bool((known.classifier(found.images).argmax(dim=1) != known.labels).all())
    torch.testing.assert_close(found.distance, Ball(norm, 0.5).distance(found.images, known.images))
    assert float(found.distance.min()) >= 0.999 * known.distance(norm)
    assert float(found.distance.max()) <= 1.001 * known.distance(norm)


@norms
def test_the_nearest_wrong_answer_at_the_wall_of_the_box(norm: Norm) -> None:
    """Two pixels pull alike, one of them can move by 0.02 only: the other makes up for it."""
    normal = torch.tensor([1.0, 1.0, 0.0])
    images = torch.tensor([0.98, 0.4, 0.5]).reshape(1, 3, 1, 1)
    model = half_space(normal, offset=1.5)
    found = Fab().nearest(model, images, torch.tensor([0]), ball=Ball(norm, 0.5), generator=stream(0, "test"))
    wanted = 0.1 if norm == "linf" else (0.1**2 + 0.02**2) ** 0.5
    assert float(found.distance) == pytest.approx(wanted, rel=0.02)


@norms
@settings(max_examples=30, deadline=None)
@given(
    weights=st.lists(st.floats(-2, 2, width=32), min_size=6, max_size=6),
    pixels=st.lists(st.floats(0, 1, width=32), min_size=6, max_size=6),
    share=st.floats(-0.9, 0.9),
)
def test_the_projection_on_a_plane_inside_the_box(
    norm: Norm, weights: list[float], pixels: list[float], share: float
) -> None:
    """Against scipy's solvers; the plane passes through the box because the value is part of what is possible."""
    normal = torch.tensor([value if abs(value) > 0.01 else 0.0 for value in weights]).reshape(1, 3, 1, 2)
    points = torch.tensor(pixels).reshape(1, 3, 1, 2)
    up = torch.where(normal > 0, normal * (1 - points), -normal * points).sum()
    down = torch.where(normal > 0, normal * points, -normal * (1 - points)).sum()
    value = -share * (up if share > 0 else down).reshape(1)
    change = to_plane(points, normal, value, norm)
    moved = points + change
    assert bool(((moved >= -1e-6) & (moved <= 1 + 1e-6)).all())
    assert float((normal * change).sum() + value) == pytest.approx(0, abs=1e-5)
    length = float(change.abs().max()) if norm == "linf" else float(change.norm())
    wall = [(-float(p), 1 - float(p)) for p in points.flatten()]
    slopes, needed = normal.flatten().tolist(), float(-value)
    assert length == pytest.approx(_smallest(norm, slopes, needed, wall), abs=2e-3)


def _smallest(norm: Norm, slopes: list[float], needed: float, wall: list[tuple[float, float]]) -> float:
    if norm == "linf":
        above = [[float(i == j) for j in range(6)] + [-1.0] for i in range(6)]
        below = [[-float(i == j) for j in range(6)] + [-1.0] for i in range(6)]
        solved = linprog([0.0] * 6 + [1.0], A_ub=above + below, b_ub=[0.0] * 12, A_eq=[[*slopes, 0.0]], b_eq=[needed],
                         bounds=[*wall, (0, None)])  # fmt: skip
        return float(solved.x[-1])
    plane = {"type": "eq", "fun": lambda d: sum(s * x for s, x in zip(slopes, d, strict=True)) - needed}
    solved = minimize(
        lambda d: float((d**2).sum()), [0.0] * 6, bounds=wall, constraints=[plane], options={"ftol": 1e-12}
    )
    return float((solved.x**2).sum() ** 0.5)


@norms
def test_where_the_plane_misses_the_box_every_pixel_goes_to_its_wall(norm: Norm) -> None:
    points = torch.tensor([0.3, 0.6, 0.5]).reshape(1, 3, 1, 1)
    normal = torch.tensor([1.0, -0.5, 0.0]).reshape(1, 3, 1, 1)
    change = to_plane(points, normal, torch.tensor([-9.0]), norm)
    torch.testing.assert_close((points + change).flatten(), torch.tensor([1.0, 0.0, 0.5]))
    assert bool((to_plane(points, torch.zeros_like(normal), torch.tensor([-9.0]), norm) == 0).all())


def test_images_wrong_from_the_start_are_at_distance_zero_and_hopeless_ones_at_infinity() -> None:
    images = torch.full((2, 3, 1, 1), 0.5)
    found = Fab(steps=5).nearest(
        half_space(torch.tensor([1.0, 0.0, 0.0]), offset=9.0), images, torch.tensor([1, 0]), ball=Ball("l2", 0.1),
        generator=stream(0, "test"),
    )  # fmt: skip
    assert found.distance.tolist() == [0.0, float("inf")]
    assert torch.equal(found.images, images)


def test_as_an_attack_it_stops_inside_the_ball() -> None:
    known = border(4)
    ball, asked = Ball("l2", 2 * known.l2), []
    for search in (Fab().__call__, Fab().nearest):
        recorder = Recorder()
        watched = Classifier(recorder, known.classifier.head)
        search(watched, known.images, known.labels, ball=ball, generator=stream(0, "test"))
        asked.append(sum(len(images) for images in recorder.seen))
    assert asked[0] < asked[1] / 10


def test_restarts_never_hurt() -> None:
    generator = stream(0, "net")
    first, second = torch.randn(12, 16, generator=generator), torch.randn(16, 3, generator=generator)
    model = Classifier(flatten, lambda features: torch.sin(3 * features @ first) @ second)
    images = torch.rand(8, 3, 2, 2, generator=generator)
    labels = model(images).argmax(dim=1)
    once, more = (
        Fab(steps=8, restarts=restarts).nearest(
            model, images, labels, ball=Ball("l2", 0.5), generator=stream(0, "test")
        ).distance
        for restarts in (1, 3)
    )  # fmt: skip
    assert bool((more <= once + 1e-6).all())
    assert bool((more < once - 1e-6).any())


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(AttackError, match="0 targets, 100 steps, 1 restarts"):
        Fab(targets=0)
