"""Square: its patterns are the paper's, it asks for answers only, and it finds what gradients do not show."""

import pytest
import torch
from attacks.borders import NORMS, SIDE, border
from toys import Recorder, flatten

from medrobust.attacks import AttackError, Ball
from medrobust.attacks.ball import Norm
from medrobust.attacks.pgd import Pgd
from medrobust.attacks.square import Square, bump, side_at
from medrobust.seeds import stream
from medrobust.types import Classifier, Features, Logits

norms = pytest.mark.parametrize("norm", NORMS)


def rounded(classifier: Classifier, levels: float = 200.0) -> Classifier:
    """Pixels as multiples of 1 / levels: the gradient is zero wherever it exists."""

    def head(features: Features) -> Logits:
        return classifier.head((features * levels).round() / levels)

    return Classifier(flatten, head)


@norms
def test_beats_a_masked_gradient_where_pgd_fails(norm: Norm) -> None:
    known = border(2, count=4)
    masked, ball = rounded(known.classifier), Ball(norm, 2.5 * known.distance(norm))
    usual = {"ball": ball, "generator": stream(0, "test")}
    by_gradient = Pgd(steps=20)(masked, known.images, known.labels, **usual)
    by_squares = Square(queries=1500)(masked, known.images, known.labels, **usual)
    assert torch.equal(masked(by_gradient).argmax(dim=1), known.labels)
    assert bool((masked(by_squares).argmax(dim=1) != known.labels).all())


def test_asks_without_gradients_and_no_more_often_than_allowed() -> None:
    known, recorder = border(2, count=1), Recorder()

    def head(features: Features) -> Logits:
        assert not torch.is_grad_enabled()
        return known.classifier.head(features)

    attack = Square(queries=30)
    attack(Classifier(recorder, head), known.images, known.labels, ball=Ball("linf", 0.01), generator=stream(0, "t"))
    assert len(recorder.seen) == 31  # the first look is one
    assert len({tuple(images.flatten().tolist()) for images in recorder.seen}) > 25


@norms
def test_uses_the_whole_ball(norm: Norm) -> None:
    known, recorder = border(2, count=1), Recorder()
    ball = Ball(norm, 0.02)
    Square(queries=30)(
        Classifier(recorder, known.classifier.head), known.images, known.labels, ball=ball, generator=stream(0, "test")
    )
    for image in recorder.seen[1:]:
        assert float(ball.distance(image, known.images)) == pytest.approx(0.02, abs=1e-5)
        if norm == "linf":
            assert bool(((image - known.images).abs() > 0.0199).all())


def test_begins_with_stripes() -> None:
    known, recorder = border(2, count=1), Recorder()
    Square(queries=1)(
        Classifier(recorder, known.classifier.head), known.images, known.labels, ball=Ball("linf", 0.02),
        generator=stream(0, "test"),
    )  # fmt: skip
    change = (recorder.seen[1] - known.images).sign()[0]
    assert bool((change == change[:, :1]).all())
    assert len({tuple(row) for row in change[:, 0].tolist()}) > 1


@norms
def test_keeps_what_helps_only(norm: Norm) -> None:
    known = border(2, count=2)
    gaps = []
    for queries in (1, 20, 200):
        attack = Square(queries=queries)
        ball = Ball(norm, 0.9 * known.distance(norm))
        found = attack(known.classifier, known.images, known.labels, ball=ball, generator=stream(0, "test"))
        logits = known.classifier(found)
        gaps.append((logits.amax(dim=1) - logits.amin(dim=1)).mean())
    assert gaps[0] > gaps[1] > gaps[2]


def test_every_query_changes_one_square_of_the_best_so_far() -> None:
    known, recorder, ball = border(2, count=1), Recorder(), Ball("linf", 0.02)
    watched = Classifier(recorder, known.classifier.head)
    Square(queries=80)(watched, known.images, known.labels, ball=ball, generator=stream(0, "test"))
    seen = torch.cat(recorder.seen[1:])
    logits = torch.cat([known.classifier(image[None]) for image in seen])  # one by one, because ties count
    lead = logits[:, 0] - logits[:, 1]
    for query in range(1, 80):
        best = seen[int(lead[:query].argmin())]
        changed = (seen[query] != best).any(dim=0).nonzero()
        side = side_at(query - 1, 0.8, SIDE, SIDE, ball)
        assert not len(changed) or int((changed.amax(dim=0) - changed.amin(dim=0)).max()) < side


def test_a_mate_that_breaks_early_takes_no_numbers_away() -> None:
    """The first image is broken by any change of its first pixel."""
    known = border(2, count=2)
    images = known.images.clone()
    images[0, 0, 0, 0] = 0.9

    def head(features: Features) -> Logits:
        touched = (features[:, :1] != 0.9) & (features[:, :1] > 0.85)
        return torch.where(touched, torch.nan, known.classifier.head(features))

    fragile, ball = Classifier(flatten, head), Ball("linf", 0.9 * known.linf)
    labels = fragile(images).argmax(dim=1)
    two = [stream(0, "item", row) for row in range(2)]
    both = Square(queries=40)(fragile, images, labels, ball=ball, generator=two)
    alone = Square(queries=40)(fragile, images[1:], labels[1:], ball=ball, generator=[stream(0, "item", 1)])
    assert bool(fragile(both)[0].isnan().all())
    assert torch.equal(both[1:], alone)


def test_the_share_of_the_image_halves_on_schedule() -> None:
    ball = Ball("linf", 0.1)
    wanted = {0: 0.8, 10: 0.8, 11: 0.4, 51: 0.2, 201: 0.1, 501: 0.05, 1001: 0.025, 2001: 0.0125, 4001: 0.00625}
    for query, share in wanted.items():
        assert side_at(query, 0.8, 100, 100, ball) == round(100 * share**0.5)
    assert side_at(9000, 0.8, 8, 8, ball) == 1
    assert side_at(9000, 0.8, 8, 8, Ball("l2", 0.1)) == 3
    assert side_at(0, 1.0, 2, 9, Ball("l2", 0.1)) == 2


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 9, 16])
def test_the_l2_pattern_has_length_one(side: int) -> None:
    pattern = bump(side, device=torch.device("cpu"))
    assert pattern.shape == (side, side)
    assert float(pattern.norm()) == pytest.approx(1)
    assert side == 1 or float(pattern.min()) < 0 < float(pattern.max())


def test_the_l2_pattern_by_hand() -> None:
    """Side 5: hills of 2 and of 3 columns; n = 2, so frames count 1/9, then 1/9 + 1/4, then 1/9 + 1/4 + 1."""
    pattern = bump(5, device=torch.device("cpu"))
    edge, ring, peak = 1 / 9, 1 / 9 + 1 / 4, 1 / 9 + 1 / 4 + 1
    rows = [[edge, edge], [ring, ring], [ring, peak], [ring, ring], [edge, edge]]
    torch.testing.assert_close(pattern[:, :2] / pattern[2, 1], torch.tensor(rows) / peak)
    rows = [[edge] * 3, [ring] * 3, [ring, peak, ring], [ring] * 3, [edge] * 3]
    torch.testing.assert_close(-pattern[:, 2:] / pattern[2, 1], torch.tensor(rows) / peak)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 4)])
@norms
def test_images_of_any_shape(shape: tuple[int, int], norm: Norm) -> None:
    images = torch.full((2, 3, *shape), 0.5)
    model = Classifier(flatten, lambda features: torch.stack([features[:, 0] * 0 + 0.5, features.mean(dim=1)], dim=1))
    labels = torch.zeros(2, dtype=torch.int64)
    found = Square(queries=300)(model, images, labels, ball=Ball(norm, 0.2), generator=stream(0, "test"))
    assert bool((model(found).argmax(dim=1) == 1).all())


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(AttackError, match=r"squares of 1\.5 of the image"):
        Square(area=1.5)
