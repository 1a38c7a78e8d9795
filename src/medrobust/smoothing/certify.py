"""Certificates by randomized smoothing, for several classifiers in one pass.

Reference: Cohen, Rosenfeld and Kolter, ICML 2019, Algorithm "Certify" and "Predict".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from medrobust.errors import SmoothingError
from medrobust.smoothing.bounds import fewest_trials, largest_radius, radius, two_sided_p_value
from medrobust.smoothing.noise import noise
from medrobust.smoothing.sampling import Votes, answers, count_votes, encoders
from medrobust.types import Classifier, Image, Scope


@dataclass(frozen=True)
class Smoothing:
    """How an image is certified: noise level, error probability, draws for choosing the class and for counting.

    Raises SmoothingError for settings no certificate can come out of.
    """

    sigma: float  # standard deviation of the noise, in pixels of [0, 1]
    alpha: float = 0.001  # probability that a certificate is false, for each image
    selection: int = 100
    estimation: int = 10_000
    stopping: Literal["fixed"] = "fixed"

    def __post_init__(self) -> None:
        if not 0 < self.sigma < float("inf"):
            raise SmoothingError(f"sigma is {self.sigma}, must be a positive number (pixels in [0, 1], e.g. 0.25)")
        if not 0 < self.alpha < 1:
            raise SmoothingError(f"alpha is {self.alpha}, must lie between 0 and 1 (e.g. 0.001)")
        if self.selection < 1:
            raise SmoothingError(f"selection is {self.selection}, at least one draw must choose the class")
        fewest = fewest_trials(self.alpha)
        if self.estimation < fewest:
            raise SmoothingError(
                f"n = {self.estimation} draws can certify nothing at alpha = {self.alpha}: even if all of them agree "
                f"every image abstains; take n >= {fewest} (n = 1000 reaches radius "
                f"{largest_radius(1000, self.alpha, self.sigma):.3f}, n = 10000 reaches "
                f"{largest_radius(10_000, self.alpha, self.sigma):.3f})"
            )

    @property
    def largest_radius(self) -> float:
        """No image in a run with these settings can get more."""
        return largest_radius(self.estimation, self.alpha, self.sigma)


@dataclass(frozen=True)
class Certificate:
    """`prediction` holds for every image within l2 distance `radius`, with probability 1 - alpha over the noise drawn.

    `scope` says of what: the model, or the classifier with its prompt frozen as tuned on this image.
    """

    prediction: int | None  # None: abstains
    radius: float
    selected: int | None  # the class the votes were counted for
    votes: int
    trials: int
    sigma: float
    alpha: float
    stopping: Literal["fixed", "spending", "anytime"]
    scope: Scope


def certify(
    classifiers: Sequence[Classifier],
    image: Image,
    smoothing: Smoothing,
    *,
    seed: int,
    item: str,
    batch: int,
) -> list[Certificate]:
    """One certificate a classifier, all from the same noise.

    The class is chosen from draws of its own, so that the count is independent of the choice. Noise depends on
    (seed, item, sigma) alone: results do not depend on order, resuming or on which other classifiers take part.
    """
    first = _votes(classifiers, image, smoothing, smoothing.selection, "selection", seed, item, batch)
    second = _votes(classifiers, image, smoothing, smoothing.estimation, "estimation", seed, item, batch)
    return [_conclude(a, b, smoothing, c.scope) for a, b, c in zip(first, second, classifiers, strict=True)]


@dataclass(frozen=True)
class Prediction:
    """The smoothed classifier's answer, or None where the lead of the first class could be chance."""

    prediction: int | None
    p_value: float
    top: int
    votes: int
    trials: int


def predict(
    classifiers: Sequence[Classifier], image: Image, smoothing: Smoothing, *, seed: int, item: str, batch: int
) -> list[Prediction]:
    """The smoothed answer without a radius, wrong about the smoothed classifier in at most alpha of all cases."""
    counts = _votes(classifiers, image, smoothing, smoothing.estimation, "prediction", seed, item, batch)
    answered = []
    for row in counts:
        best = torch.topk(row[:-1], 2)
        top, second = (int(v) for v in best.values)
        p_value = two_sided_p_value(top, second)
        sure = p_value <= smoothing.alpha
        answered.append(Prediction(int(best.indices[0]) if sure else None, p_value, int(best.indices[0]), top,
                                   smoothing.estimation))  # fmt: skip
    return answered


@torch.inference_mode()
def clean_answers(classifiers: Sequence[Classifier], image: Image) -> list[int | None]:
    """What each classifier says of the image as it is; None where its logits are not finite."""
    said: list[int | None] = [None] * len(classifiers)
    for encode, users in encoders(classifiers):
        features = encode(image[None])
        for number in users:
            logits = classifiers[number].head(features)
            answer = int(answers(logits)[0])
            said[number] = answer if answer < logits.shape[1] else None
    return said


def _votes(
    classifiers: Sequence[Classifier],
    image: Image,
    smoothing: Smoothing,
    trials: int,
    use: str,
    seed: int,
    item: str,
    batch: int,
) -> Votes:
    draws = noise(tuple(image.shape), image.device, seed=seed, use=use, item=item, sigma=smoothing.sigma)
    return count_votes(classifiers, image, sigma=smoothing.sigma, trials=trials, batch=batch, noise=draws)


def _conclude(first: torch.Tensor, second: torch.Tensor, smoothing: Smoothing, scope: Scope) -> Certificate:
    selected = int(first[:-1].argmax()) if int(first[:-1].sum()) > 0 else None
    votes = 0 if selected is None else int(second[selected])
    distance = radius(votes, smoothing.estimation, smoothing.alpha, smoothing.sigma)
    return Certificate(
        prediction=selected if distance > 0 else None,
        radius=distance,
        selected=selected,
        votes=votes,
        trials=smoothing.estimation,
        sigma=smoothing.sigma,
        alpha=smoothing.alpha,
        stopping=smoothing.stopping,
        scope=scope,
    )
