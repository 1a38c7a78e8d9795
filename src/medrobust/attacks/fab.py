"""FAB-T: towards the nearest wrong answer, one target class after the other.

Reference: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020,
sections 3.1 to 3.4 (algorithm 1, final search); the targeted variant: their AutoAttack paper, section 5. All constants
are the papers'.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from medrobust.attacks.ball import Ball, Norm, per_pixel
from medrobust.attacks.draws import ImageDraws, Randomness, draws
from medrobust.attacks.errors import AttackError
from medrobust.attacks.losses import likeliest_others, margin, targeted_margin, wrong
from medrobust.attacks.search import GRADIENT, Rows, answer, first_look, slope
from medrobust.types import Classifier, Images, Labels

_ROUNDS = 24  # of the projection onto a plane inside the box; three or four are usual


class Nearest(NamedTuple):
    """The nearest wrongly answered image found for each original; the original at distance inf where none was."""

    images: Images
    distance: Float[Tensor, " batch"]


class _Search(NamedTuple):
    """The images of a search, the distance that ends it, and buffers for the best found."""

    classifier: Classifier
    images: Images
    labels: Labels
    ball: Ball
    enough: float
    best: Nearest


@dataclass(frozen=True)
class Fab:
    """Minimal perturbations: needs no eps, so `nearest` gives distances; called as an attack it is judged in a ball.

    `targets` of the likeliest other classes are tried. Raises AttackError for settings that contradict each other.
    """

    targets: int = 9
    steps: int = 100
    restarts: int = 1
    most: Annotated[float, Field(ge=0, le=1)] = 0.1  # alpha_max: the largest pull towards the original
    overshoot: Annotated[float, Field(ge=1)] = 1.05  # eta
    retreat: Annotated[float, Field(gt=0, le=1)] = 0.9  # beta: how much of the way is kept after a success
    refinements: Annotated[int, Field(ge=0)] = 3

    needs_gradients: ClassVar[bool] = True
    fewest_classes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if min(self.targets, self.steps, self.restarts) < 1:
            raise AttackError(
                f"{self.targets} targets, {self.steps} steps, {self.restarts} restarts were asked for; take at least "
                "one each"
            )

    def cost(self, classes: int) -> int:
        """The clean answers, a gradient and an answer a step for each restart and target, and the final search.

        Exact where a wrong answer was found outside the ball; where none was found anywhere, the final search (two
        answers and one for each refinement) is saved.
        """
        attempts = self.restarts * min(self.targets, classes - 1)
        final = 2 + self.refinements if self.refinements else 0
        return 1 + attempts * self.steps * (GRADIENT + 1) + final

    @torch.inference_mode(False)
    def __call__(
        self, classifier: Classifier, images: Images, labels: Labels, *, ball: Ball, generator: Randomness
    ) -> Images:
        """Attacked images in ball and box; an image is left as soon as a wrong answer inside the ball is found.

        Raises AttackError for what cannot be attacked.
        """
        found = self._search(classifier, images, labels, ball, generator, ball.reach(images) if len(images) else 0.0)
        return ball.project(found.images, images)

    @torch.inference_mode(False)
    def nearest(
        self, classifier: Classifier, images: Images, labels: Labels, *, ball: Ball, generator: Randomness
    ) -> Nearest:
        """The smallest change that alters the answer: 0 for images wrong from the start.

        Only the ball's norm counts, and with more than one restart its eps bounds the random starts.
        """
        return self._search(classifier, images, labels, ball, generator, 0.0)

    def _search(
        self, classifier: Classifier, images: Images, labels: Labels, ball: Ball, generator: Randomness, enough: float
    ) -> Nearest:
        clean = first_look(classifier, images, labels)
        ranked = likeliest_others(clean, labels, self.targets)
        numbers = draws(generator, len(images), "fab")
        distance = torch.where(wrong(clean, labels), 0.0, torch.inf).double()
        search = _Search(classifier, images, labels, ball, enough, Nearest(images.clone(), distance))
        for number in range(self.restarts * ranked.shape[1]):
            rows = (search.best.distance > enough).nonzero().squeeze(1)
            if not len(rows):
                break
            restart, rank = divmod(number, ranked.shape[1])
            start = _start(search, rows, numbers) if restart else images[rows]
            self._approach(search, ranked[:, rank], rows, start)
        self._refine(search)
        return search.best

    def _approach(self, search: _Search, targets: Labels, rows: Rows, points: Float[Tensor, "rows 3 h w"]) -> None:
        """One start, one target: algorithm 1. Writes what it finds into the search's buffers."""
        classifier, best, ball = search.classifier, search.best, search.ball
        for _ in range(self.steps):
            originals, labels = search.images[rows], search.labels[rows]
            here = slope(classifier, points, partial(targeted_margin, labels=labels, targets=targets[rows]))
            points = self._step(points, originals, here.gradient, here.loss.nan_to_num(), ball.norm)
            broken = wrong(answer(classifier, points), labels)
            distance = ball.distance(points, originals)
            nearer = broken & (distance < best.distance[rows])
            best.images[rows[nearer]], best.distance[rows[nearer]] = points[nearer], distance[nearer]
            points = torch.where(per_pixel(broken), originals + self.retreat * (points - originals), points)
            going = best.distance[rows] > search.enough
            rows, points = rows[going], points[going]
            if not len(rows):
                return

    def _step(
        self, points: Images, originals: Images, normal: Images, value: Float[Tensor, " batch"], norm: Norm
    ) -> Images:
        """Both projections onto the linearised border, mixed; the longer its own, the more of the original's."""
        beyond = value + (normal * (originals - points)).sum(dim=(1, 2, 3))
        own = to_plane(points, normal, value, norm)
        original = to_plane(originals, normal, beyond, norm)
        length, other = _length(own, norm), _length(original, norm)
        pull = (length / torch.where(length + other > 0, length + other, 1)).clamp(max=self.most)
        moved = (1 - per_pixel(pull)) * (points + self.overshoot * own)
        return (moved + per_pixel(pull) * (originals + self.overshoot * original)).clamp(0, 1)

    @torch.no_grad()
    def _refine(self, search: _Search) -> None:
        """Final search: the decision border on the line from the original to the point found, by secants."""
        classifier, best = search.classifier, search.best
        rows = ((best.distance > 0) & best.distance.isfinite()).nonzero().squeeze(1)
        if not len(rows) or not self.refinements:
            return
        originals, known, outside = search.images[rows], search.labels[rows], best.images[rows]
        inside, low = originals, margin(answer(classifier, originals), known)
        high = margin(answer(classifier, outside), known)
        for _ in range(self.refinements):
            share = (low / (low - high)).nan_to_num(0.5).clamp(0.1, 1)  # a secant may end just inside, and stay there
            middle = (inside + per_pixel(share) * (outside - inside)).clamp(0, 1)
            logits = answer(classifier, middle)
            broken, value = wrong(logits, known), margin(logits, known)
            outside = torch.where(per_pixel(broken), middle, outside)
            inside = torch.where(per_pixel(broken), inside, middle)
            high, low = torch.where(broken, value, high), torch.where(broken, low, value)
        distance = search.ball.distance(outside, originals)
        nearer = distance < best.distance[rows]
        best.images[rows[nearer]], best.distance[rows[nearer]] = outside[nearer], distance[nearer]


def to_plane(points: Images, normal: Images, value: Float[Tensor, " batch"], norm: Norm) -> Images:
    """The smallest change of each point, inside the box, that brings `value + normal . change` to zero.

    min |d| with normal . d = -value and point + d in [0, 1]. Every pixel moves against the sign of its product with the
    value, by min(m u, slack), where u is 1 (linf) or its |weight| (l2). The sum of |weight| times movement is concave
    in m, so Newton's method from 0 grows to the solution from below and ends after finitely many rounds; the same
    argument as in the paper's section 3.1, without its sorting. Where the plane misses the box, every pixel goes to its
    bound.
    """
    steepest = normal.abs().amax(dim=(1, 2, 3)).clamp(min=1e-38)
    weight, needed = normal.abs() / per_pixel(steepest), (value / steepest).abs()
    way = -normal.sign() * per_pixel(value.sign())
    slack = torch.where(way > 0, 1 - points, torch.where(way < 0, points, 0))
    unit = weight.sign() if norm == "linf" else weight
    filled, rates = weight * slack, weight * unit
    multiple = torch.zeros_like(needed)
    for _ in range(_ROUNDS):
        capped = per_pixel(multiple) * unit >= slack
        spent = torch.where(capped, filled, 0).sum(dim=(1, 2, 3))
        rate = torch.where(capped, 0, rates).sum(dim=(1, 2, 3))
        grown = torch.where(rate > 0, (needed - spent).clamp(min=0) / rate.clamp(min=1e-30), 1e30).clamp(max=1e30)
        settled = bool((grown <= multiple * (1 + 1e-6)).all())
        multiple = torch.maximum(multiple, grown)
        if settled:
            break
    return way * torch.minimum(per_pixel(multiple) * unit, slack)


def _start(search: _Search, rows: Rows, numbers: ImageDraws) -> Float[Tensor, "rows 3 h w"]:
    """A random point at half the best distance, as in section 3.4; within half the ball where nothing was found yet."""
    ball, originals = search.ball, search.images[rows]
    share = per_pixel((search.best.distance[rows].clamp(max=ball.eps) / (2 * ball.eps)).float())
    return (originals + share * (ball.random(originals, numbers.of(rows)) - originals)).clamp(0, 1)


def _length(change: Images, norm: Norm) -> Float[Tensor, " batch"]:
    flat = change.flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else torch.linalg.vector_norm(flat, dim=1)
