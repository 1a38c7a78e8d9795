"""The targeted embedding attack: an image whose features become those of another image.

Reference: Han et al., "Light-weight fine-tuning method for defending adversarial noise in pre-trained medical
vision-language models", Findings of EMNLP 2024, arXiv 2407.02716, section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medrobust.attacks.attack import in_batches
from medrobust.attacks.ball import Ball
from medrobust.attacks.errors import AttackError
from medrobust.attacks.pgd import ascend
from medrobust.types import Features, Images

PerImage = Float[Tensor, " batch"]
Targets = Float[Tensor, "targets dim"]


@dataclass(frozen=True, eq=False)
class Embedded:
    """Attacked images, and the cosine of their features with the target's before and after."""

    images: Images
    before: PerImage
    after: PerImage


@dataclass(frozen=True)
class EmbeddingAttack:
    """max_e cos(I(x + e), target) by PGD in ball and box, from the image itself; `step` in pixels of [0, 1].

    By default 100 steps, each 1/255 in l_inf and an eighth of eps in l2 (ours). `batch` images are attacked at once,
    fewer where memory runs out. The best point of the climb is kept, so no image ends further from its target.
    `decay`: steps shrink to 0. `keep_grey`: an image whose three channels are equal stays so (both ours).
    """

    steps: int = 100
    step: float | None = None
    batch: int = 64
    decay: bool = False
    keep_grey: bool = False

    def __call__(
        self, encode: Callable[[Images], Features], images: Images, targets: Targets, *, ball: Ball
    ) -> Embedded:
        """Raises AttackError where targets and images differ in number, or a target has no direction."""
        if len(images) != len(targets):
            raise AttackError(f"there are {len(images)} images and {len(targets)} targets; pass one target an image")
        if not bool((targets.isfinite().all(dim=1) & (targets.abs().amax(dim=1) > 0)).all()):
            raise AttackError("a target has no direction: its features are all zero, or no finite numbers")
        found = images.clone()
        before, after = (torch.zeros(len(images), device=images.device) for _ in range(2))

        def work(part: slice) -> None:
            one = self._climb(encode, images[part], F.normalize(targets[part], dim=1), ball)
            found[part], before[part], after[part] = one.images, one.before, one.after

        in_batches(len(images), self.batch, work)
        return Embedded(found, before, after)

    def _climb(self, encode: Callable[[Images], Features], images: Images, targets: Features, ball: Ball) -> Embedded:
        length = self.step if self.step is not None else (1 / 255 if ball.norm == "linf" else ball.eps / 8)
        start = torch.full((len(images),), -2.0, device=images.device)
        best = Embedded(images.clone(), cosine(encode, images, targets), start)
        grey = (images == images[:, :1]).all(dim=(1, 2, 3), keepdim=True) if self.keep_grey else None

        def closeness(points: Images) -> PerImage:
            # through the mean of the channels, all three get the same gradient
            seen = points if grey is None else torch.where(grey, points.mean(dim=1, keepdim=True), points)
            values = (F.normalize(encode(seen), dim=1) * targets).sum(dim=1)
            better = values.detach() > best.after
            best.images[better], best.after[better] = points.detach()[better], values.detach()[better]
            return values

        last = ascend(
            closeness, images, ball=ball, steps=self.steps, step=length, start=images, decay=self.decay
        )  # fmt: skip
        with torch.no_grad():
            closeness(last)
        return best


@torch.no_grad()
def cosine(encode: Callable[[Images], Features], images: Images, targets: Features) -> PerImage:
    """Cosine between the features of images and unit targets."""
    return (F.normalize(encode(images), dim=1) * targets).sum(dim=1)


def psnr(images: Images, attacked: Images) -> PerImage:
    """Peak signal-to-noise ratio in dB, for pixels in [0, 1]; infinite for equal images."""
    return -10 * (images - attacked).square().flatten(1).mean(dim=1).log10()
