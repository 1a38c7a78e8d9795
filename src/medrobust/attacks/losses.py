"""Losses that attacks climb: one number an image, larger the nearer the answer is to being wrong.

References: Carlini and Wagner, "Towards evaluating the robustness of neural networks", S&P 2017 (margin, their f_6
without its floor); Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020, section 4 (DLR) and appendix (targeted DLR).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medrobust.attacks.errors import AttackError
from medrobust.types import Labels, Logits

PerImage = Float[Tensor, " batch"]

_TINY = 1e-12


def wrong(logits: Logits, labels: Labels) -> Bool[Tensor, " batch"]:
    """Mask of the rows whose largest logit is not the label's; a row with a NaN or infinite logit is wrong."""
    return (logits.nan_to_num().argmax(dim=1) != labels) | ~logits.isfinite().all(dim=1)


def cross_entropy(logits: Logits, labels: Labels) -> PerImage:
    """-log softmax(z)_y. Its gradient vanishes in float32 where the answer is very sure."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Logits, labels: Labels) -> PerImage:
    """max_{c != y} z_c - z_y: positive where another class leads."""
    return others(logits, labels).amax(dim=1) - _at(logits, labels)


def targeted_margin(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """z_t - z_y."""
    return _at(logits, targets) - _at(logits, labels)


def scale_free_margin(
    logits: Logits, labels: Labels, scale: PerImage, targets: Int[Tensor, " batch"] | None = None
) -> PerImage:
    """The margin divided by a constant of the image: defined for 2 and 3 classes, where DLR is not (ours).

    DLR divides by a difference of sorted logits, so that shifting and scaling the logits changes nothing. With two
    classes that quotient is always 1 or -1, its gradient zero. Here the divisor is the `logit_range` of the clean
    image: a constant along the attack, so values stay comparable from step to step and gradients never vanish.
    """
    gap = margin(logits, labels) if targets is None else targeted_margin(logits, labels, targets)
    return gap / scale


def logit_range(logits: Logits) -> PerImage:
    """Largest less smallest logit; 1 where they are all the same or not finite. No gradient flows through it."""
    width = (logits.amax(dim=1) - logits.amin(dim=1)).detach()
    return torch.where((width > 0) & width.isfinite(), width, 1)


def dlr(logits: Logits, labels: Labels) -> PerImage:
    """Difference of logits ratio: (max_{c != y} z_c - z_y) / (z_(1) - z_(3)), z_(k) the k-th largest logit.

    Raises AttackError for fewer than 3 classes.
    """
    _need(logits, 3, "DLR divides by the distance to the third largest logit")
    ranked = logits.sort(dim=1, descending=True).values
    return margin(logits, labels) / (ranked[:, 0] - ranked[:, 2] + _TINY)


def targeted_dlr(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2). Raises AttackError for fewer than 4 classes."""
    _need(logits, 4, "targeted DLR divides by a distance to the third and fourth largest logits")
    ranked = logits.sort(dim=1, descending=True).values
    gap = targeted_margin(logits, labels, targets)
    return gap / (ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2 + _TINY)


def likeliest_others(logits: Logits, labels: Labels, count: int) -> Int[Tensor, "batch ranks"]:
    """The `count` classes other than the label with the largest logits, best first; fewer where there are fewer."""
    wanted = min(count, logits.shape[1] - 1)
    return others(logits.nan_to_num(), labels).topk(wanted, dim=1).indices


def others(logits: Logits, labels: Labels) -> Logits:
    """The logits with the label's at minus infinity."""
    return logits.scatter(1, labels[:, None], -torch.inf)


def _at(logits: Logits, classes: Labels) -> PerImage:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _need(logits: Logits, fewest: int, why: str) -> None:
    if logits.shape[1] < fewest:
        raise AttackError(f"{why}, and there are {logits.shape[1]} classes; take the loss 'margin' instead")
