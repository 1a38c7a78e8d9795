"""PGD on a batch whose rows must stay together, because each image has a question of its own.

Reference: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, section 2.1.
"""

import torch

from medrobust.attacks.ball import Ball
from medrobust.attacks.draws import Randomness, draws
from medrobust.attacks.losses import PerImage, cross_entropy
from medrobust.attacks.pgd import ascend
from medrobust.attacks.search import answer, badness, first_look, nothing_yet, record_best
from medrobust.types import Classifier, Images, Labels


def climb_together(
    classifier: Classifier, images: Images, labels: Labels, *, ball: Ball, steps: int, generator: Randomness
) -> Images:
    """Every image driven to the end of a climb of the cross-entropy from a random start, with steps of 2.5 eps / steps.

    For each, the first point with a wrong answer comes back, else the one with the largest margin. `Pgd` lets images go
    that are broken, which tears a batch apart. Raises AttackError for what cannot be attacked.
    """
    first_look(classifier, images, labels)
    best, rows = nothing_yet(images), torch.arange(len(images), device=images.device)

    def climb(points: Images) -> PerImage:
        logits = classifier(points).float()
        record_best(best, rows, points.detach(), badness(logits.detach(), labels))
        return cross_entropy(logits, labels)

    begin = ball.random(images, draws(generator, len(images), "pgd"))
    last = ascend(climb, images, ball=ball, steps=steps, step=2.5 * ball.eps / steps, start=begin)
    record_best(best, rows, last, badness(answer(classifier, last), labels))
    return best.images
