"""Projected gradient descent, with restarts, momentum and a choice of losses.

References: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, section 2.1;
Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018, algorithm 1; Carlini and Wagner, S&P 2017 (the
margin as loss).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from medrobust.attacks.ball import Ball, Distance
from medrobust.attacks.draws import Randomness, draws
from medrobust.attacks.errors import AttackError, NoGradientError
from medrobust.attacks.losses import PerImage, cross_entropy, dlr, margin
from medrobust.attacks.search import (
    GRADIENT,
    BestFound,
    Rows,
    answer,
    badness,
    first_look,
    keep_trying,
    nothing_yet,
    record_best,
    slope,
)
from medrobust.types import Classifier, Images, Labels

_LOSSES = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


@dataclass(frozen=True)
class Pgd:
    """Steps of one length along the gradient, each followed by a projection into ball and box.

    `step` is in pixels of [0, 1]; by default 2.5 eps / steps, so that any start can reach any point of the ball.
    An image is left alone from its first wrong answer on; otherwise the point with the largest margin of all restarts
    comes back. Raises AttackError for settings that contradict each other.
    """

    steps: int = 100
    restarts: int = 1
    step: Distance | None = None
    loss: Literal["ce", "margin", "dlr"] = "ce"
    momentum: Annotated[float, Field(ge=0)] = 0.0
    random_start: bool = True

    needs_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise AttackError(f"{self.steps} steps and {self.restarts} restarts were asked for; take at least one each")
        if self.step is not None and not 0 < self.step < 8:
            raise AttackError(f"step is {self.step:g}, must be positive and in pixels of [0, 1], such as 2/255")
        if self.restarts > 1 and not self.random_start:
            raise AttackError(f"{self.restarts} restarts from the same point find the same; take random_start=True")

    @property
    def fewest_classes(self) -> int:
        """3 for DLR, 2 for the other losses."""
        return 3 if self.loss == "dlr" else 2

    def cost(self, classes: int) -> int:  # noqa: ARG002 - the same for any number of classes
        """Exact: the clean answers, and for each restart a gradient a step and the answer at the last point."""
        return 1 + self.restarts * (GRADIENT * self.steps + 1)

    @torch.inference_mode(False)
    def __call__(
        self, classifier: Classifier, images: Images, labels: Labels, *, ball: Ball, generator: Randomness
    ) -> Images:
        """Attacked images in ball and box. Raises AttackError for what cannot be attacked."""
        clean = first_look(classifier, images, labels)
        numbers = draws(generator, len(images), "pgd")

        def attempt(_: int, rows: Rows) -> BestFound:
            start = ball.random(images[rows], numbers.of(rows)) if self.random_start else images[rows].clone()
            return self._climb(classifier, images[rows], labels[rows], ball, start)

        return keep_trying(attempt, self.restarts, images, badness(clean, labels)).images

    def _climb(self, classifier: Classifier, images: Images, labels: Labels, ball: Ball, start: Images) -> BestFound:
        """One start. Images with a wrong answer drop out of the batch."""
        best, rows = nothing_yet(images), torch.arange(len(images), device=images.device)
        points, velocity = start, torch.zeros_like(start)
        length = self.step if self.step is not None else 2.5 * ball.eps / self.steps
        for _ in range(self.steps):
            here = slope(classifier, points, partial(_LOSSES[self.loss], labels=labels[rows]))
            values = badness(here.logits, labels[rows])
            record_best(best, rows, points, values)
            going = values < torch.inf
            rows, points, velocity, gradient = rows[going], points[going], velocity[going], here.gradient[going]
            if not len(rows):
                return best
            velocity = self.momentum * velocity + (_mean_scaled(gradient) if self.momentum else gradient)
            points = ball.project(points + length * ball.direction(velocity), images[rows])
        record_best(best, rows, points, badness(answer(classifier, points), labels[rows]))
        return best


@torch.inference_mode(False)
def ascend(
    loss: Callable[[Images], PerImage],
    images: Images,
    *,
    ball: Ball,
    steps: int,
    step: float,
    start: Images,
    decay: bool = False,
) -> Images:
    """The last point of a climb of any loss of the pixels, every image to the end: for training, and for targets.

    Only the pixels are differentiated, so no gradient reaches a parameter's `.grad`. `step` is in pixels of [0, 1];
    with `decay` the steps shrink, each by the same length, so that one more would be 0.
    Raises NoGradientError where the loss does not depend on the pixels.
    """
    points = start
    for turn in range(steps):
        length = step * (1 - turn / steps) if decay else step
        with torch.enable_grad():
            leaves = points.detach().requires_grad_(True)
            value = loss(leaves).sum()
            gradient = torch.autograd.grad(value, leaves, allow_unused=True)[0] if value.requires_grad else None
        if gradient is None:
            raise NoGradientError("no gradient of the loss reaches the pixels; the model cuts the graph")
        points = ball.project(points + length * ball.direction(gradient.nan_to_num(0.0, 0.0, 0.0)), images)
    return points


def _mean_scaled(gradient: Images) -> Images:
    """Mean absolute entry one, so that steps of a steep and of a flat place weigh the same in the momentum."""
    mean = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
    return gradient / torch.where(mean > 0, mean, 1)
