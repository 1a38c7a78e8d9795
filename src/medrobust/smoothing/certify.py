"""Certificates by randomized smoothing, for several classifiers in one pass.

Reference: Cohen, Rosenfeld and Kolter, ICML 2019, Algorithm "Certify" and "Predict".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from medrobust.errors import SmoothingError
from medrobust.smoothing import sequential
from medrobust.smoothing.bounds import fewest_trials, largest_radius, two_sided_p_value
from medrobust.smoothing.grid import RADII
from medrobust.smoothing.sampling import Answers, Copies, Draws, Sampler, answers, encoders
from medrobust.smoothing.sequential import Boundaries, Race, Record, Stopping
from medrobust.types import Classifier, Image, Scope


@dataclass(frozen=True)
class Smoothing:
    """Settings of a certificate: noise level, error probability, draws, and the rule for stopping.

    `fixed`: always `budget` draws, any radius. `spending`: stops as soon as every radius of the grid `radii` is
    certified or given up, at most `budget` draws, and certifies radii of that grid. `anytime`: stops likewise, by
    bounds that hold at every moment, any radius. Raises SmoothingError for settings that cannot give any certificate.
    """

    sigma: float  # standard deviation of the noise, in pixels of [0, 1]
    alpha: float = 0.001  # probability that a certificate is false, for each image
    selection: int = 100
    budget: int = 10_000
    stopping: Stopping = "spending"
    radii: tuple[float, ...] = RADII  # l2, pixels of [0, 1]
    look: int = 32  # draws between two looks at the count

    def __post_init__(self) -> None:
        if not 0 < self.sigma < float("inf"):
            raise SmoothingError(f"sigma is {self.sigma}, must be a positive number (pixels in [0, 1], e.g. 0.25)")
        if not 0 < self.alpha < 1:
            raise SmoothingError(f"alpha is {self.alpha}, must lie between 0 and 1 (e.g. 0.001)")
        if self.selection < 1:
            raise SmoothingError(f"selection is {self.selection}, at least one draw must choose the class")
        if self.look < 1:
            raise SmoothingError(f"look is {self.look}, at least one draw must come before a count is looked at")
        fewest = fewest_trials(self.alpha)
        if self.budget < fewest:
            raise SmoothingError(
                f"n = {self.budget} draws can certify nothing at alpha = {self.alpha:g}: even if all of them agree "
                f"every image abstains; take n >= {fewest} (n = 1000 reaches radius "
                f"{largest_radius(1000, self.alpha, self.sigma):.3f}, n = 10000 reaches "
                f"{largest_radius(10_000, self.alpha, self.sigma):.3f})"
            )
        if not self.radii or not all(math.isfinite(radius) and radius >= 0 for radius in self.radii):
            raise SmoothingError(f"radii are {list(self.radii)}, must be finite numbers that are not negative")
        if len(set(self.radii)) < len(self.radii):
            raise SmoothingError(f"radii are {list(self.radii)}, one of them is named twice")
        if self.stopping == "spending" and not self.rule.reachable:
            reach = largest_radius(self.budget, self.alpha, self.sigma)
            raise SmoothingError(
                f"n = {self.budget} draws cannot certify radius {min(self.radii):g} at sigma = {self.sigma:g} and "
                f"alpha = {self.alpha:g} even if all of them agree (below {reach:.3f} they can); take more draws, a "
                "smaller radius or a larger sigma"
            )

    @property
    def rule(self) -> Boundaries:
        """The integers that decide when to stop."""
        return sequential.boundaries(
            self.stopping,
            tuple(sorted(self.radii)),
            sigma=self.sigma,
            alpha=self.alpha,
            budget=self.budget,
            look=self.look,
        )

    @property
    def largest_radius(self) -> float:
        """No image in a run with these settings can get more."""
        return sequential.largest_certifiable(**self.record)

    @property
    def record(self) -> Record:
        """The settings that decide a radius together with a count; a row keeps them."""
        return {
            "stopping": self.stopping,
            "grid": tuple(sorted(self.radii)) if self.stopping == "spending" else (),
            "sigma": self.sigma,
            "alpha": self.alpha,
            "budget": self.budget,
            "look": self.budget if self.stopping == "fixed" else min(self.look, self.budget),
        }


@dataclass(frozen=True)
class Certificate:
    """`prediction` holds for every image within l2 distance `radius`, with probability 1 - alpha over the noise drawn.

    `votes` of `trials` at the look that decided prove the radius (`medrobust.results.recompute`). `scope` says of what
    it holds: of the model, or of the classifier with its prompt or tower frozen as tuned on this image.
    """

    prediction: int | None  # None: abstains
    radius: float
    selected: int | None  # the class the votes were counted for
    votes: int
    trials: int
    drawn: int  # when it stopped; not fewer than `trials`
    budget: int  # the most it might have drawn
    look: int  # draws between two looks; the budget where there is one look
    grid: tuple[float, ...]  # the radii that were tested, for `spending`; else none
    sigma: float
    alpha: float
    stopping: Stopping
    scope: Scope


def certify(
    classifiers: Sequence[Classifier],
    image: Image,
    smoothing: Smoothing,
    *,
    seed: int,
    item: str,
    sampler: Sampler | None = None,
) -> list[Certificate]:
    """One certificate a classifier, all from the same noise; each stops by itself.

    The class is chosen from draws of its own, so that the count is independent of the choice. Noise depends on
    (seed, item, sigma) alone: results do not depend on order, resuming or on which other classifiers take part.
    """
    copies = Copies(classifiers, image, sampler or Sampler())
    selected = _select(copies, len(classifiers), Draws(smoothing.sigma, smoothing.selection, "selection", seed, item))
    race = _race(copies, selected, smoothing, Draws(smoothing.sigma, smoothing.budget, "estimation", seed, item))
    return [_conclude(row, race, int(selected[row]), smoothing, one.scope) for row, one in enumerate(classifiers)]


def _select(copies: Copies, classifiers: int, draws: Draws) -> np.ndarray:
    """The class each answers most often, -1 where it gives no number; ends when no other class can catch up."""
    votes = _count(copies, classifiers, draws, until_settled=True)
    return np.where(votes[:, :-1].any(axis=1), votes[:, :-1].argmax(axis=1), -1)


def _count(copies: Copies, classifiers: int, draws: Draws, *, until_settled: bool = False) -> np.ndarray:
    """Votes a classifier, a column a class and one more for logits that are not finite."""
    votes = np.zeros((classifiers, 3), dtype=np.int64)
    undecided = np.ones(classifiers, dtype=bool)
    drawn = 0
    for batch in copies.answers(draws, lambda: torch.from_numpy(undecided)):
        classes = max(votes.shape[1] - 1, *(int(said.max()) + 1 for _, said in batch))
        votes = np.insert(votes, [votes.shape[1] - 1] * (classes + 1 - votes.shape[1]), 0, axis=1)
        for places, said in batch:
            votes[places] += _tally(said, classes)
        drawn += len(batch[0][1])
        if until_settled:
            leading = np.sort(votes[:, :-1], axis=1)
            undecided[:] = leading[:, -1] - leading[:, -2] <= draws.trials - drawn
    return votes


def _race(copies: Copies, selected: np.ndarray, smoothing: Smoothing, draws: Draws) -> Race:
    """Count the votes for the selected classes look after look, until every classifier has stopped."""
    rule = smoothing.rule
    race = Race(rule, len(selected))
    before = np.zeros(len(selected), dtype=np.int64)
    drawn = 0
    for batch in copies.answers(draws, lambda: torch.from_numpy(race.running)):
        size = len(batch[0][1])
        here = np.flatnonzero((rule.looks > drawn) & (rule.looks <= drawn + size))
        ends = [*(rule.looks[here] - drawn - 1).tolist(), size - 1]
        counts = np.tile(before, (len(ends), 1))
        for places, said in batch:
            wanted = torch.from_numpy(selected[places]).to(said.device)
            hits = ((said == wanted) & (wanted >= 0)).cumsum(dim=0)
            counts[:, places] += hits[ends].cpu().numpy()
        for row, look in enumerate(here.tolist()):
            race.look(look, counts[row])
        before, drawn = counts[-1], drawn + size
    return race


def _tally(said: Answers, classes: int) -> np.ndarray:
    """Count of each class among the answers, a row a classifier; the last column for no class."""
    width = classes + 1
    columns = torch.where(said >= 0, said, classes)
    flat = columns + width * torch.arange(said.shape[1], device=said.device)
    return torch.bincount(flat.flatten(), minlength=said.shape[1] * width).view(-1, width).cpu().numpy()


@dataclass(frozen=True)
class Prediction:
    """The smoothed classifier's answer, or None where the lead of the first class could be chance."""

    prediction: int | None
    p_value: float
    top: int
    votes: int
    trials: int


def predict(
    classifiers: Sequence[Classifier],
    image: Image,
    smoothing: Smoothing,
    *,
    seed: int,
    item: str,
    sampler: Sampler | None = None,
) -> list[Prediction]:
    """The smoothed answer without a radius, wrong about the smoothed classifier in at most alpha of all cases."""
    draws = Draws(smoothing.sigma, smoothing.budget, "prediction", seed, item)
    return [_answer(row, smoothing) for row in count_votes(classifiers, image, draws, sampler or Sampler())]


def count_votes(
    classifiers: Sequence[Classifier], image: Image, draws: Draws, sampler: Sampler
) -> Int[np.ndarray, "classifiers classes"]:
    """Votes of each classifier for each class, over all draws; an answer with a non-finite logit counts for none."""
    return _count(Copies(classifiers, image, sampler), len(classifiers), draws)[:, :-1]


def _answer(votes: np.ndarray, smoothing: Smoothing) -> Prediction:
    best = int(votes.argmax())
    top, second = int(votes[best]), int(np.delete(votes, best).max())
    p_value = two_sided_p_value(top, second)
    sure = p_value <= smoothing.alpha
    return Prediction(best if sure else None, p_value, best, top, smoothing.budget)


@torch.inference_mode()
def clean_answers(classifiers: Sequence[Classifier], image: Image) -> list[int | None]:
    """Each classifier's answer to the clean image; None where its logits are not finite."""
    said: list[int | None] = [None] * len(classifiers)
    for encode, users in encoders(classifiers):
        features = encode(image[None])
        for number in users:
            answer = int(answers(classifiers[number].head(features))[0])
            said[number] = answer if answer >= 0 else None
    return said


def _conclude(row: int, race: Race, selected: int, smoothing: Smoothing, scope: Scope) -> Certificate:
    known = smoothing.record
    counts = [(int(race.votes[row]), int(race.trials[row]))]
    if smoothing.stopping == "anytime":  # the bounds of all looks hold at once: that of the last counts too
        counts.append((int(race.last_votes[row]), int(race.drawn[row])))
    found = [(sequential.certified_radius(*count, **known), count) for count in counts]
    distance, (votes, trials) = max(found, key=lambda pair: -1.0 if pair[0] is None else pair[0])
    return Certificate(
        prediction=None if distance is None else selected,
        radius=distance or 0.0,
        selected=selected if selected >= 0 else None,
        votes=votes,
        trials=trials,
        drawn=int(race.drawn[row]),
        scope=scope,
        **known,
    )
