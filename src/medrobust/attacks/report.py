"""The result of a set of attacks, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from medrobust.attacks.ball import Ball
from medrobust.types import Images


class Stage(NamedTuple):
    """The result of one attack of the set, which got only the images still right."""

    name: str
    tried: int
    broken: int
    strayed: int = 0  # images it returned outside of ball or box
    skipped: str | None = None  # the reason why it could not run


@dataclass(frozen=True, eq=False)
class Report:
    """The worst case over all attacks for every image.

    `broken_by` names the attack, "clean" where the answer was wrong without one, None where no attack succeeded; these
    images are the originals, at distance 0. `standard` is true only where the published set ran with its settings.
    """

    ball: Ball
    classes: int
    standard: bool
    title: str
    images: Images
    broken_by: tuple[str | None, ...]
    distance: Float[Tensor, " batch"]
    stages: tuple[Stage, ...]
    flags: tuple[str, ...]

    @property
    def clean_accuracy(self) -> float:
        """Share of all images answered rightly without an attack; nan for no images."""
        return _share([by != "clean" for by in self.broken_by])

    @property
    def robust_accuracy(self) -> float:
        """Share of all images that every attack left standing; nan for no images."""
        return _share([by is None for by in self.broken_by])


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else float("nan")
