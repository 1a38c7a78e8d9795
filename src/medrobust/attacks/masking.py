"""Signs of masked gradients, which make robust accuracy look better than it is. Each is one sentence.

Reference: Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security", ICML 2018, section 3.1;
the tests of the classifier itself follow Croce and Hein's AutoAttack. Thresholds are ours.
"""

from collections.abc import Sequence
from functools import partial

import torch

from medrobust.attacks.attack import Attack
from medrobust.attacks.ball import Ball
from medrobust.attacks.errors import NoGradientError
from medrobust.attacks.losses import cross_entropy, logit_range, margin
from medrobust.attacks.pgd import Pgd
from medrobust.attacks.search import answer, badness, slope
from medrobust.types import Classifier, Images, Labels

PROBED = 32  # images for which one step is compared with many
_RARE = 0.002  # of all images: fewer that only Square breaks are chance (AutoAttack's own threshold)
_STEPS = 20


def randomness(classifier: Classifier, images: Images) -> str | None:
    """The same images twice; dropout and noise change the logits, rounding does not."""
    first, second = answer(classifier, images), answer(classifier, images)
    if not len(images) or bool(((first - second).abs().nan_to_num() <= 1e-4 * (1 + logit_range(first)[:, None])).all()):
        return None
    return (
        "The same image gets other logits each time: dropout or noise is active. Put the model in evaluation mode, or "
        "attack the mean over its noise; these numbers speak of neither."
    )


def black_box_better(name: str, broken: int, total: int) -> str | None:
    """Images that white-box attacks left standing and a black-box attack broke."""
    if broken <= _RARE * total:
        return None
    return (
        f"The black-box attack {name} broke {broken} of {total} images that every white-box attack left standing: "
        "gradients mislead here, so read robust accuracy as an upper bound."
    )


def flat(classifier: Classifier, images: Images, labels: Labels) -> tuple[int, int]:
    """Numbers of images whose gradient is exactly zero: (of cross-entropy, of the margin)."""
    counts = []
    for loss in (cross_entropy, margin):
        here = slope(classifier, images, partial(loss, labels=labels))
        counts.append(int((here.gradient == 0).flatten(1).all(dim=1).sum()))
    return counts[0], counts[1]


def flatness(zero: tuple[int, int], total: int) -> str | None:
    """The sentence about zero gradients at clean images."""
    entropy, logits = zero
    if logits:
        return (
            f"The gradient by the pixels is zero at {logits} of {total} rightly answered images: the classifier is "
            "piecewise constant there (rounding, thresholds), and no white-box attack can see a direction."
        )
    if entropy:
        return (
            f"The gradient of the cross-entropy is zero at {entropy} of {total} rightly answered images, that of the "
            "logits is not: the softmax is saturated, so trust attacks on margins, not those on cross-entropy."
        )
    return None


def more_steps(
    classifier: Classifier, images: Images, labels: Labels, *, ball: Ball, generators: Sequence[torch.Generator]
) -> str | None:
    """One step of the full length against many short ones, from the same start, on a few images.

    Many must be at least as good as one, because they can reach every point that it can. A tenth of the images, and
    no fewer than one, must speak against it.
    """
    if not len(images):
        return None

    def worst(attack: Attack) -> torch.Tensor:
        attacked = attack(classifier, images, labels, ball=ball, generator=generators)
        return badness(answer(classifier, attacked), labels)

    try:
        one = worst(Pgd(steps=1, step=ball.eps, random_start=False))
        many = worst(Pgd(steps=_STEPS, random_start=False))
    except NoGradientError:
        return None
    behind = int((one > many + 1e-3 * logit_range(answer(classifier, images))).sum())
    if behind < max(1.0, 0.1 * len(images)):
        return None
    return (
        f"For {behind} of {len(images)} images one long step comes nearer to a wrong answer than {_STEPS} short ones: "
        "more steps are not better, so the loss is rugged and white-box attacks get lost."
    )
