"""The Square attack: random squares, kept where they help. It asks for answers only, never for gradients.

Reference: Andriushchenko et al., "Square attack: a query-efficient black-box adversarial attack via random search",
ECCV 2020, algorithms 1 to 3; first size of the squares and number of queries as in AutoAttack (Croce and Hein, 2020).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medrobust.attacks.ball import Ball, per_pixel
from medrobust.attacks.draws import ImageDraws, Randomness, draws
from medrobust.attacks.errors import AttackError
from medrobust.attacks.search import (
    BestFound,
    Rows,
    answer,
    badness,
    first_look,
    keep_trying,
    nothing_yet,
    record_best,
)
from medrobust.types import Classifier, Images, Labels

Numbers = Float[Tensor, "batch numbers"]  # uniform in [0, 1): all that one query needs
Patches = Float[Tensor, "batch 3 side side"]
Offsets = Int[Tensor, " batch"]

_NUMBERS = 8  # two corners, three signs, one orientation
_BLOCK = 250  # queries whose numbers are drawn at once
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which squares have half the area
_TINY = 1e-12


@dataclass(frozen=True)
class Square:
    """Random search by squares; `area` is the share of the image that the first ones cover.

    Every image takes its numbers in the same order whatever happens to its batch mates. Images wrong from the start
    are left alone; the best point by margin is returned where none was wrong. Raises AttackError for settings that
    contradict each other.
    """

    queries: int = 5000
    restarts: int = 1
    area: float = 0.8

    needs_gradients: ClassVar[bool] = False
    fewest_classes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.queries < 1 or self.restarts < 1 or not 0 < self.area <= 1:
            raise AttackError(
                f"{self.queries} queries, {self.restarts} restarts and squares of {self.area:g} of the image were "
                "asked for; take at least one query and restart, and a share above 0 and up to 1"
            )

    def cost(self, classes: int) -> int:  # noqa: ARG002 - the same for any number of classes
        """Exact: the clean answers and the queries."""
        return 1 + self.restarts * self.queries

    def __call__(
        self, classifier: Classifier, images: Images, labels: Labels, *, ball: Ball, generator: Randomness
    ) -> Images:
        """Attacked images in ball and box. Raises AttackError for what cannot be attacked."""
        clean = first_look(classifier, images, labels)
        numbers = draws(generator, len(images), "square")

        def attempt(_: int, rows: Rows) -> BestFound:
            return self._search(classifier, images[rows], labels[rows], ball, numbers.of(rows))

        return keep_trying(attempt, self.restarts, images, badness(clean, labels)).images

    def _search(
        self, classifier: Classifier, images: Images, labels: Labels, ball: Ball, numbers: ImageDraws
    ) -> BestFound:
        best, rows = nothing_yet(images), torch.arange(len(images), device=images.device)
        points = _begin(images, ball, numbers)
        height, width = images.shape[2:]
        for query in range(self.queries):
            record_best(best, rows, points, badness(answer(classifier, points), labels[rows]))
            rows = best.standing
            if not len(rows):
                break
            if query % _BLOCK == 0:  # rows that are done draw too, so that a row's place never changes
                block = numbers.uniform(_BLOCK, _NUMBERS, device=images.device)
            side = side_at(query, self.area, height, width, ball)
            propose = _propose_linf if ball.norm == "linf" else _propose_l2
            points = propose(best.images[rows], images[rows], ball, side, block[rows, query % _BLOCK])
        return best


def side_at(query: int, area: float, height: int, width: int, ball: Ball) -> int:
    """Side of the squares: the share of the image halves on a schedule made for 10,000 queries, as AutoAttack has it.

    The l2 pattern has two halves and a middle, so its side is odd and at least 3 where the image allows.
    """
    share = area / 2 ** sum(query > after for after in _HALVINGS)
    side = round(math.sqrt(share * height * width))
    if ball.norm == "l2":
        side = max(3, side + 1 - side % 2)
    return min(max(1, side), height, width)


def bump(side: int, *, device: torch.device) -> Float[Tensor, "side side"]:
    """The l2 pattern of equation 2: two hills of opposite sign side by side, of length one in l2.

    A hill of h1 rows and h2 columns is sum_{k=0}^{M(r,s)} 1 / (n + 1 - k)^2, n = floor(h1 / 2), with M the number of
    frames between the pixel and the hill's edge.
    """
    return _bump(side).to(device)


@lru_cache(maxsize=64)
def _bump(side: int) -> Float[Tensor, "side side"]:
    upper = side // 2
    first, second = _hill(side, upper), _hill(side, side - upper)
    whole = torch.cat([first, -second], dim=1) if upper else second
    return whole / whole.norm()


def _hill(rows: int, columns: int) -> Float[Tensor, "rows columns"]:
    middle = rows // 2
    down = (torch.arange(rows) - middle).abs()[:, None]
    across = (torch.arange(columns) - columns // 2).abs()[None, :]
    frames = (middle - torch.maximum(down.expand(rows, columns), across.expand(rows, columns))).clamp(min=0)
    sums = torch.cumsum(1.0 / (middle + 1 - torch.arange(middle + 1)).double() ** 2, dim=0).float()
    return sums[frames]


def _begin(images: Images, ball: Ball, numbers: ImageDraws) -> Images:
    """linf: vertical stripes of one sign a column and channel. l2: the pattern on five by five tiles, random signs."""
    channels, height, width = images.shape[1:]
    if ball.norm == "linf":
        stripes = (numbers.uniform(channels, 1, width, device=images.device) < 0.5).float() * 2 - 1
        return ball.project(images + ball.eps * stripes, images)
    side = max(1, min(height, width) // 5)
    change = torch.zeros_like(images)
    tiles = [(top, left) for top in range(0, height - side + 1, side) for left in range(0, width - side + 1, side)]
    signs = (numbers.uniform(len(tiles), channels + 1, device=images.device) < 0.5).float() * 2 - 1
    pattern = bump(side, device=images.device)
    for number, (top, left) in enumerate(tiles):
        turned = torch.where(per_pixel(signs[:, number, -1]) > 0, pattern, pattern.T)
        change[:, :, top : top + side, left : left + side] = signs[:, number, :channels, None, None] * turned
    return ball.project(images + ball.eps * ball.direction(change), images)


def _propose_linf(points: Images, images: Images, ball: Ball, side: int, numbers: Numbers) -> Images:
    """Algorithm 2: one square moves by 2 eps or -2 eps, one sign a channel; the projection makes it eps."""
    top, left = _corner(numbers[:, 0:2], images, side)
    signs = (numbers[:, 4:7] < 0.5).float() * 2 - 1
    square = _read(points, top, left, side) + 2 * ball.eps * signs[:, :, None, None]
    return ball.project(_write(points, square, top, left), images)


def _propose_l2(points: Images, images: Images, ball: Ball, side: int, numbers: Numbers) -> Images:
    """Algorithm 3: the mass of two windows, and the rest of eps, goes into the first as a pattern."""
    change = points - images
    top, left = _corner(numbers[:, 0:2], images, side)
    top2, left2 = _corner(numbers[:, 2:4], images, side)
    emptied = _write(change, torch.zeros_like(_read(change, top2, left2, side)), top2, left2)
    emptied = _write(emptied, torch.zeros_like(_read(change, top, left, side)), top, left)
    freed = (change.square() - emptied.square()).sum(dim=(2, 3)).clamp(min=0)  # of the union of both, a channel
    unused = (ball.eps**2 - change.square().sum(dim=(1, 2, 3))).clamp(min=0)
    available = (freed + unused[:, None] / images.shape[1]).sqrt()
    signs = (numbers[:, 4:7] < 0.5).float() * 2 - 1
    pattern = bump(side, device=images.device)
    pattern = torch.where(per_pixel(numbers[:, 7]) < 0.5, pattern, pattern.T)
    window = _read(change, top, left, side)
    mixed = signs[:, :, None, None] * pattern + window / (_lengths(window) + _TINY)
    mass = available[:, :, None, None] * mixed / (_lengths(mixed) + _TINY)
    return ball.project(images + _write(emptied, mass, top, left), images)


def _lengths(patches: Patches) -> Float[Tensor, "batch 3 1 1"]:
    return torch.linalg.vector_norm(patches, dim=(2, 3), keepdim=True)


def _corner(numbers: Float[Tensor, "batch 2"], images: Images, side: int) -> tuple[Offsets, Offsets]:
    """Upper left corners, uniform over all places where the square fits."""
    height, width = images.shape[2:]
    top = (numbers[:, 0] * (height - side + 1)).long().clamp(max=height - side)
    return top, (numbers[:, 1] * (width - side + 1)).long().clamp(max=width - side)


def _index(images: Images, top: Offsets, left: Offsets, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    reach = torch.arange(side, device=images.device)
    batch = torch.arange(len(images), device=images.device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return batch, channels, (top[:, None] + reach)[:, None, :, None], (left[:, None] + reach)[:, None, None, :]


def _read(images: Images, top: Offsets, left: Offsets, side: int) -> Patches:
    return images[_index(images, top, left, side)]


def _write(images: Images, patches: Patches, top: Offsets, left: Offsets) -> Images:
    written = images.clone()
    written[_index(images, top, left, patches.shape[-1])] = patches
    return written
