"""The protocol of an attack, and the judgement of its images by the package, not by the attack."""

from collections.abc import Callable, Mapping
from dataclasses import Field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medrobust.attacks.ball import Ball
from medrobust.attacks.draws import Randomness
from medrobust.attacks.errors import AttackError
from medrobust.attacks.losses import wrong
from medrobust.attacks.search import answer
from medrobust.types import Classifier, Images, Labels


@runtime_checkable
class Attack(Protocol):
    """Labelled images to attacked images, all in one batch; a frozen dataclass whose fields are its settings.

    Promised by every attack: the images returned lie in ball and box; images answered wrongly from the start come back
    as they were; nothing it is given is changed; what it finds for an image does not depend on its batch mates, up to
    rounding. A NaN or infinite logit counts as a wrong answer.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def needs_gradients(self) -> bool:
        """False for an attack that asks for answers only, or that goes on where no gradient reaches the pixels."""

    @property
    def fewest_classes(self) -> int:
        """With fewer classes than this the attack raises AttackError."""

    def cost(self, classes: int) -> int:
        """Forward passes at most for one image that nothing breaks; a gradient counts as three."""

    def __call__(
        self, classifier: Classifier, images: Images, labels: Labels, *, ball: Ball, generator: Randomness
    ) -> Images: ...


@runtime_checkable
class AttackSet(Protocol):
    """An attack made of others. A run gives each of them the images that those before it left standing."""

    def members(self, classes: int) -> Mapping[str, Attack]:
        """The attacks by name, in their order, for a classifier of that number of classes."""


class Judgement(NamedTuple):
    """Facts about the images that an attack returned, after a projection into ball and box."""

    images: Images
    broken: Bool[Tensor, " batch"]
    distance: Float[Tensor, " batch"]
    strayed: int  # images that lay outside of ball or box, or were not numbers


def judge(classifier: Classifier, images: Images, attacked: Images, labels: Labels, *, ball: Ball) -> Judgement:
    """Bring the images an attack returned back into ball and box, and ask the classifier again.

    Pixels that are NaN or infinite are taken from the original. `images` are the originals.
    """
    finite = torch.where(attacked.isfinite(), attacked, images)
    astray = ~ball.contains(attacked, images)
    back = ball.project(finite, images)
    return Judgement(back, wrong(answer(classifier, back), labels), ball.distance(back, images), int(astray.sum()))


def in_batches(total: int, size: int, work: Callable[[slice], None]) -> int:
    """Do the work for `total` images, `size` at once; returns the size, which is halved whenever memory runs out.

    Raises AttackError for a size below one, and what torch raised where not even one image fits.
    """
    if size < 1:
        raise AttackError(f"batch is {size}, must be at least 1")
    start = 0
    while start < total:
        try:
            work(slice(start, min(start + size, total)))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
        else:
            start += size
    return size
