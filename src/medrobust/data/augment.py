"""Views of an image that keep its caption true. No noise is added: robustness to noise is left to the defences."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medrobust.types import Images


def augment(
    images: Images,
    generator: torch.Generator,
    *,
    any_rotation: bool = False,
    flips: bool = True,
    scale: tuple[float, float] = (0.8, 1.1),
    shift: float = 0.06,
    colour: float = 0.12,
    sharp: float = 0.4,
    mode: Literal["bilinear", "bicubic"] = "bilinear",
) -> Images:
    """Each image flipped, turned, scaled, shifted and tinted at random; still in [0, 1].

    `any_rotation`: quarter turns and up-down flips too, for pictures in which no way is up. Without `flips`, left stays
    left. The share `sharp` is only
    flipped and turned by quarters, which moves whole pixels: interpolation blurs, and a model that has only seen
    blurred lungs takes sharp ones for healthy. `bicubic` blurs less and takes many times longer on a CPU.
    """
    theta = _placements(len(images), generator, any_rotation, flips, scale, shift, sharp)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=False)
    return _tint(moved.clamp(0, 1), generator, colour)


def _placements(
    count: int,
    generator: torch.Generator,
    any_rotation: bool,
    flips: bool,
    scale: tuple[float, float],
    shift: float,
    sharp: float,
) -> Float[Tensor, "batch 2 3"]:
    def uniform(low: float, high: float) -> Float[Tensor, " batch"]:
        return low + (high - low) * torch.rand(count, generator=generator)

    def sign() -> Float[Tensor, " batch"]:
        return torch.randint(2, (count,), generator=generator) * 2.0 - 1

    moved = (torch.rand(count, generator=generator) >= sharp).float()
    angle = moved * uniform(-10.0, 10.0) * math.pi / 180
    quarter = torch.randint(4, (count,), generator=generator) * (math.pi / 2)
    upside = sign()
    if any_rotation:
        angle = angle + quarter
    else:
        upside = torch.ones(count)
    zoom, mirror = 1 + moved * (uniform(*scale) - 1), sign()
    if not flips:
        upside = mirror = torch.ones(count)
    right, down = moved * uniform(-shift, shift), moved * uniform(-shift, shift)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rows = [cos * mirror, -sin * upside, right, sin * mirror, cos * upside, down]
    return torch.stack(rows, dim=1).view(count, 2, 3)


def _tint(images: Images, generator: torch.Generator, strength: float) -> Images:
    count = len(images)

    def around_one(channels: int) -> Float[Tensor, "batch channels 1 1"]:
        return 1 + strength * (2 * torch.rand(count, channels, 1, 1, generator=generator) - 1)

    mean = images.mean(dim=(2, 3), keepdim=True)
    contrasted = (images - mean) * around_one(1) + mean * around_one(1) * (1 + (around_one(3) - 1) * 0.3)
    return contrasted.clamp(0, 1)
