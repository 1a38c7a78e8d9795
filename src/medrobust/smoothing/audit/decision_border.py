"""The stated error probability at an image where no radius is true: the border between two classes.

There the largest class probability is about one half, so that a sound rule certifies in at most about alpha of all
tries, however it stops. Draws that chose the class and are counted again become visible there as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binom

from medrobust.smoothing import sequential
from medrobust.smoothing.audit.attempts import LEVEL, small_batches, upper_bound
from medrobust.smoothing.audit.claims import crossing_probability
from medrobust.smoothing.certify import Certificate, Smoothing, certify, count_votes
from medrobust.smoothing.sampling import Draws, Sampler
from medrobust.types import Classifier, Image

ALPHA = 0.05  # in place of the run's, so that a few hundred tries can test it
TRIALS = 64  # draws that choose the class, and as many that are counted at most
_ROUNDS = 9  # halvings of the line between two images
_SEARCH = 512  # draws at each


@dataclass(frozen=True)
class Tries:
    """Certificates of one border image, and what a sound rule allows."""

    tries: int
    certified: int
    allowed: float  # exact chance to certify at the largest class probability that a fresh count allows
    share: float  # largest class probability, as counted
    excess: float  # share of votes for the class chosen, less the half that independent draws allow at most
    too_often: bool  # or the rule's own boundary lets it
    dependent: bool  # the votes know which class was chosen


def border_image(
    classifier: Classifier, first: Image, second: Image, answer: int, *, draws: Draws, sampler: Sampler
) -> Image | None:
    """The point on a line where `answer` loses its majority under noise, by halving; None where it does not.

    `draws` is the noise, the same at all points.
    """
    start = Draws(draws.sigma, _SEARCH, draws.use, draws.seed, draws.item)

    def wins(share: float) -> bool:
        (votes,) = count_votes([classifier], _between(first, second, share), start, sampler)
        return answer < len(votes) and bool(2 * votes[answer] > start.trials)

    low, high = 0.0, 1.0
    if not wins(low) or wins(high):
        return None
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if wins(middle) else (low, middle)
    return _between(first, second, (low + high) / 2)


def try_often(
    classifier: Classifier,
    image: Image,
    smoothing: Smoothing,
    *,
    tries: int,
    reference: int,
    seed: int,
    item: str,
    sampler: Sampler,
    level: float = LEVEL,
) -> Tries:
    """Certify a border image `tries` times from different noise, by the run's way of stopping at alpha = ALPHA.

    `too_often` and `dependent` are tests of level / 2 each, exact: a sound engine fails one with chance `level`.
    """
    small = small_batches(sampler)
    look = min(smoothing.look, TRIALS // 4)
    rule = Smoothing(smoothing.sigma, ALPHA, TRIALS, TRIALS, smoothing.stopping, (0.0,), look)
    fixed = Smoothing(smoothing.sigma, ALPHA, TRIALS, TRIALS, "fixed", (0.0,), TRIALS)
    found = [_certificate(classifier, image, rule, seed, f"{item} {number}", small) for number in range(tries)]
    counted = (
        found
        if rule.stopping == "fixed"
        else [_certificate(classifier, image, fixed, seed, f"{item} fixed {number}", small) for number in range(tries)]
    )
    (votes,) = count_votes([classifier], image, Draws(smoothing.sigma, reference, "audit border", seed, item), sampler)
    hits, largest = sum(one.prediction is not None for one in found), int(votes.max())
    # Only one class can have more than one half, so that one bound is enough for all of them.
    upper = max(0.5, upper_bound(largest, reference, level / 4))
    allowed = sequential.course(rule.rule, upper).certified
    error = crossing_probability(rule.rule.accept[:, 0], rule.rule.looks, 0.5)
    excess, chance = dependence([one for one in counted if one.selected is not None])
    return Tries(
        tries=tries,
        certified=hits,
        allowed=allowed,
        share=largest / reference,
        excess=excess,
        too_often=bool(binom.sf(hits - 1, tries, allowed) <= level / 4) or error > ALPHA * (1 + 1e-6),
        dependent=chance <= level / 2,
    )


def dependence(certificates: Sequence[Certificate]) -> tuple[float, float]:
    """Dependence of the votes on the choice of the class: their excess over one half, and an exact p-value.

    Of the two classes chosen most often, as many tries each. Where choice and votes are independent, the votes are
    sums of Bernoulli draws with probabilities p and q, p + q <= 1; by Hoeffding (Ann. Math. Stat. 27, 1956) their upper
    tail is at most that of fair coins. All certificates must have stopped after the same number of draws.
    """
    chosen: dict[int, list[Certificate]] = {}
    for one in certificates:
        chosen.setdefault(-1 if one.selected is None else one.selected, []).append(one)
    sides = sorted(chosen.values(), key=len)[-2:]
    if len(sides) < 2:
        return 0.0, 1.0
    alike = [one for side in sides for one in side[: len(sides[0])]]
    votes, trials = sum(one.votes for one in alike), sum(one.trials for one in alike)
    fair = votes <= trials // 2 + 1
    return votes / trials - 0.5, 1.0 if fair else float(binom.sf(votes - 1, trials, 0.5))


def _certificate(
    classifier: Classifier, image: Image, smoothing: Smoothing, seed: int, item: str, sampler: Sampler
) -> Certificate:
    (found,) = certify([classifier], image, smoothing, seed=seed, item=item, sampler=sampler)
    return found


def _between(first: Image, second: Image, share: float) -> Image:
    return first + share * (second - first)
