"""Steps that the attacks share: clean answers, gradients by the pixels, and the best image found so far."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from medrobust.attacks.errors import AttackError, NoGradientError
from medrobust.attacks.losses import PerImage, margin, wrong
from medrobust.types import Classifier, Images, Labels, Logits

Rows = Int[Tensor, " rows"]  # places in the batch

GRADIENT = 3  # a gradient by the pixels, in forward passes: one forward, and one backward that costs two


class BestFound(NamedTuple):
    """The best image found for each original, and how bad its answer is."""

    images: Images
    badness: PerImage

    @property
    def standing(self) -> Rows:
        """The rows whose answer is still right."""
        return (self.badness < torch.inf).nonzero().squeeze(1)


class Slope(NamedTuple):
    """Answers at some points, the loss there, and its gradient by the pixels (NaN set to 0)."""

    logits: Logits
    loss: PerImage
    gradient: Images


Attempt = Callable[[int, Rows], BestFound]  # (number of the attempt, rows of the batch) -> what it found for these rows


def badness(logits: Logits, labels: Labels) -> PerImage:
    """Infinite where the answer is wrong, else the margin, which is at most 0."""
    return torch.where(wrong(logits, labels), torch.inf, margin(logits, labels).nan_to_num())


def first_look(classifier: Classifier, images: Images, labels: Labels) -> Logits:
    """The logits of the clean images, after a check of all that an attack is given.

    Raises AttackError for pixels outside [0, 1] or not float32, labels that do not fit, and fewer than two classes.
    """
    if images.dtype != torch.float32 or not bool(((images >= 0) & (images <= 1)).all()):
        low, high = (float(images.min()), float(images.max())) if images.numel() else (0.0, 0.0)
        raise AttackError(
            f"images are {images.dtype} from {low:g} to {high:g}, must be torch.float32 in [0, 1]; "
            "divide grey levels by 255, and leave normalisation to the model"
        )
    if len(labels) != len(images):
        raise AttackError(f"there are {len(images)} images and {len(labels)} labels; pass one label an image")
    logits = answer(classifier, images)
    classes = logits.shape[1]
    if classes < 2:
        raise AttackError("the classifier knows one class only, so no image can be answered wrongly; give it two")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise AttackError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, the classifier knows 0 to {classes - 1}"
        )
    return logits


@torch.no_grad()
def answer(classifier: Classifier, images: Images) -> Logits:
    """Logits in float32, without a graph."""
    return classifier(images).float()


def slope(classifier: Classifier, points: Images, loss: Callable[[Logits], PerImage]) -> Slope:
    """Value and gradient of a loss of the logits, by the pixels alone: no parameter's gradient is touched.

    Raises NoGradientError where the classifier cuts the graph.
    """
    with torch.enable_grad():
        leaves = points.detach().requires_grad_(True)
        logits = classifier(leaves).float()
        value = loss(logits)
        gradient = torch.autograd.grad(value.sum(), leaves, allow_unused=True)[0] if value.requires_grad else None
    if gradient is None:
        raise NoGradientError(
            "no gradient reaches the pixels, because the classifier cuts the graph (no_grad, argmax, NumPy); "
            "take the attack 'square', which needs none"
        )
    return Slope(logits.detach(), value.detach(), gradient.nan_to_num(0.0, 0.0, 0.0))


def record_best(best: BestFound, rows: Rows, points: Images, values: PerImage) -> None:
    """Write into `best`, which the caller owns, the points that are worse answered than what it holds."""
    better = values > best.badness[rows]
    best.images[rows[better]] = points[better]
    best.badness[rows[better]] = values[better]


def nothing_yet(images: Images) -> BestFound:
    """The originals, in buffers of their own, beaten by any point."""
    return BestFound(images.clone(), torch.full((len(images),), -torch.inf, device=images.device))


def keep_trying(attempt: Attempt, times: int, images: Images, clean: PerImage) -> BestFound:
    """Several attempts, each at the images that are still right; those wrong from the start are left alone."""
    best = BestFound(images.clone(), clean.clone())
    for number in range(times):
        rows = best.standing
        if not len(rows):
            break
        record_best(best, rows, *attempt(number, rows))
    return best
