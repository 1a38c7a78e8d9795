"""What the attacks share."""

import torch
from attacks.borders import border
from toys import flatten

from medrobust.attacks.losses import margin
from medrobust.attacks.search import BestFound, badness, keep_trying, record_best, slope
from medrobust.types import Classifier


def test_the_slope_is_by_the_pixels_and_without_nan() -> None:
    known = border(2, count=2, scale=1.0)
    with torch.no_grad():
        here = slope(known.classifier, known.images, lambda logits: margin(logits, known.labels))
    assert not here.logits.requires_grad
    torch.testing.assert_close(here.gradient.flatten(1).abs().sum(dim=1), torch.tensor([24.0, 24.0]))
    broken = Classifier(flatten, lambda features: torch.stack([(features[:, 0] * 0).sqrt(), features[:, 0]], dim=1))
    assert bool(slope(broken, known.images, lambda logits: logits.sum(dim=1)).gradient.isfinite().all())


def test_badness() -> None:
    logits = torch.tensor([[3.0, 1.0], [1.0, 3.0], [torch.nan, 0.0]])
    assert badness(logits, torch.zeros(3, dtype=torch.int64)).tolist() == [-2.0, float("inf"), float("inf")]


def test_later_attempts_see_only_what_stands_and_the_best_is_kept() -> None:
    images = torch.zeros(3, 3, 1, 1)
    asked: list[list[int]] = []

    def attempt(number: int, rows: torch.Tensor) -> BestFound:
        asked.append(rows.tolist())
        values = torch.tensor([-1.0, -3.0, torch.inf])[rows] - number
        return BestFound(torch.full((len(rows), 3, 1, 1), number + 1.0), values)

    found = keep_trying(attempt, 2, images, torch.tensor([-2.0, -2.0, -2.0]))
    assert asked == [[0, 1, 2], [0, 1]]
    assert found.images[:, 0].flatten().tolist() == [1.0, 0.0, 1.0]
    assert found.standing.tolist() == [0, 1]
    assert bool((images == 0).all())
    record_best(found, torch.tensor([1]), torch.ones(1, 3, 1, 1), torch.tensor([-1.5]))
    assert found.images[1, 0, 0, 0] == 1
