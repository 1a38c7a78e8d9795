"""Auto-PGD: steps whose length halves by itself, with cross-entropy, DLR or a margin, untargeted or targeted.

Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020, section 3 and algorithm 1; section 4 for DLR. All constants are the paper's.
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from medrobust.attacks.ball import Ball, per_pixel
from medrobust.attacks.draws import ImageDraws, Randomness, draws
from medrobust.attacks.errors import AttackError
from medrobust.attacks.losses import (
    PerImage,
    cross_entropy,
    dlr,
    likeliest_others,
    logit_range,
    scale_free_margin,
    targeted_dlr,
)
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
from medrobust.types import Classifier, Images, Labels, Logits


class _Aim(NamedTuple):
    """Constants of each image that the loss needs."""

    labels: Labels
    targets: Labels | None
    scale: PerImage


class _State(NamedTuple):
    """One climb of some images: where they are, the best place by loss, and the bookkeeping of the step length."""

    rows: Rows
    points: Images
    previous: Images
    top: Images
    top_gradient: Images
    top_loss: PerImage
    loss: PerImage
    step: PerImage
    rises: PerImage  # steps since the last checkpoint that raised the loss
    halved: Bool[Tensor, " batch"]  # at the last checkpoint
    top_before: PerImage  # the best loss at the last checkpoint


@dataclass(frozen=True)
class Apgd:
    """Auto-PGD. `targets = 0` is untargeted; otherwise that number of the likeliest other classes, in turn.

    loss `dlr` needs 3 classes (4 with targets); `margin` is the scale-free margin, for any number. Images wrong from
    the start are left alone. Raises AttackError for settings that contradict each other and for too few classes.
    """

    loss: Literal["ce", "dlr", "margin"] = "ce"
    targets: int = 0
    steps: int = 100
    restarts: int = 1
    rho: Annotated[float, Field(gt=0, lt=1)] = 0.75

    needs_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.targets < 0:
            raise AttackError(
                f"{self.steps} steps, {self.restarts} restarts, {self.targets} targets were asked for; take at least "
                "one step and restart, and no negative number of targets"
            )

    @property
    def fewest_classes(self) -> int:
        """3 for DLR, 4 where it is targeted, 2 for the other losses."""
        if self.loss != "dlr":
            return 2
        return 4 if self.targets else 3

    def cost(self, classes: int) -> int:
        """Exact: the first look, and for each restart and target a gradient a step and the answer at the last point."""
        attempts = self.restarts * max(1, min(self.targets, classes - 1))
        return 1 + attempts * (GRADIENT * self.steps + 1)

    @torch.inference_mode(False)
    def __call__(
        self, classifier: Classifier, images: Images, labels: Labels, *, ball: Ball, generator: Randomness
    ) -> Images:
        """Attacked images in ball and box. Raises AttackError for what cannot be attacked."""
        clean = first_look(classifier, images, labels)
        self._loss(
            clean, _Aim(labels, labels if self.targets else None, logit_range(clean))
        )  # too few classes: say it now
        ranked = likeliest_others(clean, labels, max(self.targets, 1))
        numbers = draws(generator, len(images), f"apgd {self.loss} {self.targets}")

        def attempt(number: int, rows: Rows) -> BestFound:
            goals = ranked[rows, number // self.restarts] if self.targets else None
            aim = _Aim(labels[rows], goals, logit_range(clean[rows]))
            return self._climb(classifier, images[rows], aim, ball, numbers.of(rows))

        times = self.restarts * (ranked.shape[1] if self.targets else 1)
        return keep_trying(attempt, times, images, badness(clean, labels)).images

    def _climb(self, classifier: Classifier, images: Images, aim: _Aim, ball: Ball, numbers: ImageDraws) -> BestFound:
        """One start, one target: algorithm 1. Images with a wrong answer drop out of the batch."""
        best = nothing_yet(images)
        state = _begin(images, ball, numbers)
        marks = checkpoints(self.steps)
        for number in range(self.steps):
            now = _of(aim, state.rows)
            here = slope(classifier, state.points, partial(self._loss, aim=now))
            values = badness(here.logits, now.labels)
            record_best(best, state.rows, state.points, values)
            going = values < torch.inf
            state = _pick(_arrive(state, here.loss, here.gradient, first=number == 0), going)
            gradient = here.gradient[going]
            if not len(state.rows):
                return best
            if number in marks:
                state, gradient = _checkpoint(state, gradient, self.rho * (number - marks[number]))
            state = _advance(state, gradient, images[state.rows], ball, inertia=0.25 if number else 0.0)
        record_best(best, state.rows, state.points, badness(answer(classifier, state.points), aim.labels[state.rows]))
        return best

    def _loss(self, logits: Logits, aim: _Aim) -> PerImage:
        if self.loss == "margin":
            return scale_free_margin(logits, aim.labels, aim.scale, aim.targets)
        if aim.targets is None:
            return cross_entropy(logits, aim.labels) if self.loss == "ce" else dlr(logits, aim.labels)
        if self.loss == "ce":
            return -cross_entropy(logits, aim.targets)
        return targeted_dlr(logits, aim.labels, aim.targets)


def checkpoints(steps: int) -> dict[int, int]:
    """Steps at which the step length may halve, each with the checkpoint before it.

    w_j = ceil(p_j N), p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06).

    >>> list(checkpoints(100))
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    shares, marks = [0.0, 0.22], [0]
    while shares[-1] <= 1:
        marks.append(math.ceil(round(shares[-1] * steps, 9)))
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return {mark: before for before, mark in pairwise(marks) if mark > before}


def _begin(images: Images, ball: Ball, numbers: ImageDraws) -> _State:
    start = ball.random(images, numbers)
    count = len(images)
    nothing = torch.full((count,), -torch.inf, device=images.device)
    zero = torch.zeros(count, device=images.device)
    return _State(
        rows=torch.arange(count, device=images.device),
        points=start,
        previous=start,
        top=start,
        top_gradient=torch.zeros_like(start),
        top_loss=nothing,
        loss=nothing,
        step=torch.full((count,), 2 * ball.eps, device=images.device),
        rises=zero,
        halved=torch.zeros(count, dtype=torch.bool, device=images.device),
        top_before=nothing,
    )


def _arrive(state: _State, loss: PerImage, gradient: Images, *, first: bool) -> _State:
    """Take note of the loss at the point that was reached; the start counts as no rise."""
    loss = loss.nan_to_num(-torch.inf)
    higher = loss > state.top_loss
    arrived = state._replace(
        top=torch.where(per_pixel(higher), state.points, state.top),
        top_gradient=torch.where(per_pixel(higher), gradient, state.top_gradient),
        top_loss=torch.where(higher, loss, state.top_loss),
        rises=state.rises if first else state.rises + (loss > state.loss),
        loss=loss,
    )
    return arrived._replace(top_before=arrived.top_loss) if first else arrived


def _checkpoint(state: _State, gradient: Images, enough: float) -> tuple[_State, Images]:
    """Halve the step where too few steps rose, or where nothing improved although the step stayed; go back to the top.

    Conditions 1 and 2 of section 3.2.
    """
    few = state.rises < enough
    stuck = ~state.halved & (state.top_loss <= state.top_before)
    halve = few | stuck
    back = per_pixel(halve)
    marked = state._replace(
        points=torch.where(back, state.top, state.points),
        previous=torch.where(back, state.top, state.previous),
        loss=torch.where(halve, state.top_loss, state.loss),
        step=torch.where(halve, state.step / 2, state.step),
        rises=torch.zeros_like(state.rises),
        halved=halve,
        top_before=state.top_loss,
    )
    return marked, torch.where(back, state.top_gradient, gradient)


def _advance(state: _State, gradient: Images, centres: Images, ball: Ball, *, inertia: float) -> _State:
    """z = P(x + step d); then P(x + (1 - inertia) (z - x) + inertia (x - x_before))."""
    ahead = ball.project(state.points + per_pixel(state.step) * ball.direction(gradient), centres)
    moved = state.points + (1 - inertia) * (ahead - state.points) + inertia * (state.points - state.previous)
    return state._replace(points=ball.project(moved, centres), previous=state.points)


def _pick(state: _State, going: Bool[Tensor, " batch"]) -> _State:
    return state if bool(going.all()) else _State(*(part[going] for part in state))


def _of(aim: _Aim, rows: Rows) -> _Aim:
    return _Aim(aim.labels[rows], None if aim.targets is None else aim.targets[rows], aim.scale[rows])
