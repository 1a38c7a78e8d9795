"""Tests of certificates: attacked inside their radius, drawn again, compared with a large count of fresh noise.

Noise here comes from streams of its own (uses that begin with "audit"), which no certificate has seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from scipy.stats import beta, binom, norm

from medrobust.errors import SmoothingError
from medrobust.smoothing.audit.chance import LEVEL as LEVEL
from medrobust.smoothing.audit.chance import too_many as too_many
from medrobust.smoothing.audit.claims import Claim
from medrobust.smoothing.certify import Certificate, Smoothing, certify, count_votes, predict
from medrobust.smoothing.sampling import Draws, Sampler
from medrobust.types import Classifier, Image

Answer = Literal["same", "changed", "abstains"]
Votes = Int[np.ndarray, " classes"]


@runtime_checkable
class AttackInside(Protocol):
    """An attack on the smoothed classifier: an image strictly within `radius` that should not be answered `label`."""

    def __call__(
        self,
        classifier: Classifier,
        image: Image,
        label: int,
        *,
        radius: float,
        sigma: float,
        generator: torch.Generator,
    ) -> Image: ...


@dataclass(frozen=True, eq=False)
class Attempt:
    """The outcome of an attack inside a certified radius."""

    attacked: Image
    distance: float  # l2, in float64
    votes: int  # for the certified class, under fresh noise at the attacked image
    trials: int
    broken: bool  # the certified class has no majority there, beyond doubt
    retuned: Answer | None  # of the classifier that tunes again at the attacked image, where there is one

    @property
    def share(self) -> float:
        """Of the votes, for the certified class."""
        return self.votes / self.trials


def attack_inside(
    classifier: Classifier,
    image: Image,
    claim: Claim,
    attack: AttackInside,
    *,
    draws: Draws,
    level: float,
    generator: torch.Generator,
    sampler: Sampler,
    retune: Callable[[Image], Classifier] | None = None,
) -> Attempt:
    """Attack a certificate inside its radius and judge by fresh draws, unjustly against it with chance `level`.

    The theorem promises a majority at every point inside. `retune` makes the classifier that would answer the attacked
    image; its answer is told, not judged. Raises SmoothingError where the attack leaves the ball.
    """
    if claim.prediction is None:
        raise SmoothingError("an abstention promises nothing that could be attacked")
    attacked = attack(
        classifier, image, claim.prediction, radius=claim.radius, sigma=claim.sigma, generator=generator
    )  # fmt: skip
    distance = float(torch.linalg.vector_norm(attacked.double() - image.double()))
    if not distance < claim.radius:
        raise SmoothingError(f"the attack went to distance {distance:.9g}, must stay below {claim.radius:.9g}")
    (votes,) = count_votes([classifier], attacked, draws, sampler)
    hits = int(votes[claim.prediction]) if claim.prediction < len(votes) else 0
    broken = bool(binom.cdf(hits, draws.trials, 0.5) <= level)
    answer = None if retune is None else _answer_of(retune(attacked), attacked, claim.prediction, draws, sampler)
    return Attempt(attacked, distance, hits, draws.trials, broken, answer)


def _answer_of(classifier: Classifier, image: Image, certified: int, draws: Draws, sampler: Sampler) -> Answer:
    fixed = Smoothing(draws.sigma, 0.001, 1, draws.trials, "fixed")
    (found,) = predict([classifier], image, fixed, seed=draws.seed, item=f"audit {draws.item}", sampler=sampler)
    if found.prediction is None:
        return "abstains"
    return "same" if found.prediction == certified else "changed"


def differing(certificate: Certificate, claim: Claim) -> list[str]:
    """The fields in which a certificate drawn again from the same seed is not the recorded one; none should be."""
    return [
        f"{name} {getattr(claim, name)!r}, drawn again {value!r}"
        for name, value in vars(certificate).items()
        if getattr(claim, name) != value
    ]


def redraw(
    classifiers: Sequence[Classifier],
    image: Image,
    smoothing: Smoothing,
    *,
    seed: int,
    item: str,
    repeats: int,
    sampler: Sampler,
) -> list[list[Certificate]]:
    """`repeats` new certificates of one image for each classifier, from noise that the run has not seen."""
    found = [
        certify(classifiers, image, smoothing, seed=seed, item=f"audit {item} {number}", sampler=sampler)
        for number in range(repeats)
    ]
    return [[certificates[place] for certificates in found] for place in range(len(classifiers))]


def contradicted(claim: Claim, votes: Votes, trials: int, *, level: float = 1e-6) -> bool:
    """True where the radius is larger than any that a large fresh count allows, with confidence 1 - level."""
    if claim.prediction is None:
        return False
    hits = int(votes[claim.prediction]) if claim.prediction < len(votes) else 0
    return claim.radius > claim.sigma * float(norm.ppf(upper_bound(hits, trials, level)))


def upper_bound(hits: int, trials: int, level: float) -> float:
    """One-sided Clopper-Pearson: the true probability is above it in at most `level` of all experiments."""
    return 1.0 if hits == trials else float(beta.ppf(1 - level, hits + 1, trials - hits))


def small_batches(sampler: Sampler, batch: int = 64) -> Sampler:
    """The same encoders, in batches that suit many small counts."""
    return sampler if sampler.batch <= batch else replace(sampler, batch=batch)
