"""Images whose nearest wrong answer is known in closed form, in both norms, for any number of classes."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from toys import linear

from medrobust.attacks import ATTACKS, Attack
from medrobust.attacks.ball import Norm
from medrobust.seeds import stream
from medrobust.types import Classifier, Images, Labels

SIDE = 6
PIXELS = 3 * SIDE * SIDE
BLOCK = 12  # pixels that speak for one class
GAP = 0.1  # how much brighter the label's block is than the next
NORMS: tuple[Norm, ...] = ("linf", "l2")


class Border(NamedTuple):
    """A linear classifier, images, labels, and the distance of every image to the nearest border."""

    classifier: Classifier
    images: Images
    labels: Labels
    linf: float
    l2: float

    def distance(self, norm: Norm) -> float:
        return self.linf if norm == "linf" else self.l2


def border(classes: int, count: int = 3, scale: float = 20.0) -> Border:
    """Each class is the sum of twelve pixels of its own, with signs; all borders have equal distances.

    To make up a gap g = 12 GAP between two sums, 24 pixels move by g / 24 each (linf), or by g / sqrt(24) in l2. Other
    classes are farther away. Logits are scaled so that softmax sees little but the two best.
    """
    generator = stream(0, "border", classes)
    signs = torch.where(torch.rand(classes, BLOCK, generator=generator) < 0.5, -1.0, 1.0)
    weights = torch.zeros(classes, PIXELS)
    pixels = 0.4 + 0.2 * torch.rand(count, PIXELS, generator=generator)
    labels = torch.arange(count) % classes
    for name in range(classes):
        part = slice(name * BLOCK, (name + 1) * BLOCK)
        weights[name, part] = signs[name]
        rank = ((name - labels) % classes).double()
        brightness = torch.where(rank == 0, 0.2, 0.2 - GAP - 0.05 * (rank - 1)).float()
        pixels[:, part] = 0.5 + brightness[:, None] * signs[name]
    offsets = -0.5 * weights.sum(dim=1)
    gap = BLOCK * GAP
    images = pixels.reshape(count, 3, SIDE, SIDE)
    return Border(linear(scale * weights, scale * offsets), images, labels, gap / 24, gap / 24**0.5)


def quick(name: str) -> Attack:
    """An attack of the table with settings for a test of its manners, not of its strength."""
    attack: Any = ATTACKS[name].default
    few = {"steps": 7, "targets": min(2, getattr(attack, "targets", 0)), "queries": 40}
    return replace(attack, **{key: value for key, value in few.items() if hasattr(attack, key)})
