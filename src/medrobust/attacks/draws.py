"""Random numbers of each image, independent of the batch that it is in.

Scheme: every image has a seed of its own, and all its numbers come from the stream of that seed. The seeds are drawn
from the caller's generator, one an image, in order. So one generator handed through successive batches gives the same
numbers as one large batch, and a list of generators (say `seeds.stream(seed, "attack", item)`) gives numbers that do
not depend on order at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medrobust.attacks.errors import AttackError
from medrobust.seeds import stream

Randomness = torch.Generator | Sequence[torch.Generator]  # one for all images, or one an image


@dataclass(frozen=True, eq=False)
class ImageDraws:
    """One generator an image; drawing moves them on."""

    generators: tuple[torch.Generator, ...]

    def uniform(self, *shape: int, device: torch.device) -> Float[Tensor, "batch *shape"]:
        """Numbers in [0, 1), drawn on the CPU."""
        each = [torch.rand(shape, generator=generator) for generator in self.generators]
        return torch.stack(each).to(device) if each else torch.zeros(0, *shape, device=device)

    def normal(self, *shape: int, device: torch.device) -> Float[Tensor, "batch *shape"]:
        """Standard normal numbers, drawn on the CPU."""
        each = [torch.randn(shape, generator=generator) for generator in self.generators]
        return torch.stack(each).to(device) if each else torch.zeros(0, *shape, device=device)

    def of(self, rows: Int[Tensor, " rows"]) -> "ImageDraws":
        """The same generators, for some of the images."""
        return ImageDraws(tuple(self.generators[row] for row in rows.tolist()))


def seeds_of(randomness: Randomness, count: int) -> tuple[int, ...]:
    """One seed an image. Raises AttackError where a list of generators has another length than the batch."""
    if isinstance(randomness, torch.Generator):
        generators: Sequence[torch.Generator] = [randomness] * count
    elif len(randomness) == count:
        generators = randomness
    else:
        raise AttackError(f"there are {len(randomness)} generators for {count} images; pass one for all, or one each")
    return tuple(int(torch.randint(2**62, (), generator=generator)) for generator in generators)


def draws(randomness: Randomness, count: int, use: str) -> ImageDraws:
    """A stream for each of `count` images, taken from the caller's randomness."""
    return ImageDraws(tuple(stream(seed, use) for seed in seeds_of(randomness, count)))
