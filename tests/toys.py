"""Classifiers whose distance to the border, or whose failure, is known in closed form."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from medrobust.types import Classifier, Features, Images, Logits


def flatten(images: Images) -> Features:
    """Pixels are features: distances are the same in both."""
    return images.flatten(1)


def linear(weights: Float[Tensor, "classes dim"], offsets: Float[Tensor, " classes"]) -> Classifier:
    """logits = pixels @ weights + offsets; the border between two classes is a plane."""

    def head(features: Features) -> Logits:
        return features @ weights.T + offsets

    return Classifier(flatten, head)


def half_space(normal: Float[Tensor, " dim"], offset: float = 0.0) -> Classifier:
    """Class 1 where normal . x > offset, else class 0; with a unit normal |normal . x - offset| is the distance."""
    return linear(torch.stack([-normal, normal]), torch.tensor([offset, -offset]))


def one_pixel(threshold: float, pixel: int = 0) -> Classifier:
    """A half space whose arithmetic is the same in every batch: no sum is taken."""

    def head(features: Features) -> Logits:
        over = features[:, pixel] - threshold
        return torch.stack([-over, over], dim=1)

    return Classifier(flatten, head)


def broken_above(threshold: float, value: float = float("nan")) -> Classifier:
    """Class 0 with certainty, but `value` for a logit where the first pixel is above the threshold."""

    def head(features: Features) -> Logits:
        sure = torch.tensor([1.0, 0.0]).expand(len(features), 2)
        return torch.where(features[:, :1] > threshold, torch.tensor([0.0, value]), sure)

    return Classifier(flatten, head)


@dataclass(eq=False)
class Recorder:
    """An encoder that keeps what it was given."""

    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, images: Images) -> Features:
        self.seen.append(images.clone())
        return flatten(images)
