"""The constraint of an attack: a norm ball around the image, and the box [0, 1] of all images."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import BeforeValidator
from torch import Tensor

from medrobust.attacks.draws import ImageDraws
from medrobust.attacks.errors import AttackError
from medrobust.errors import nearest
from medrobust.types import Images
from medrobust.words import eps_text

Norm = Literal["linf", "l2"]

_TOO_LARGE = {"linf": 1.0, "l2": 8.0}  # from here on it is a number of grey levels, not of pixels in [0, 1] (ours)
_ROUNDS = 24  # of the l2 projection: each caps at least one pixel more, and three or four are usual


def parse_sizes(value: Any) -> Any:
    """One eps or several as a user gives them, ascending; what is not a text or number is left for others to refuse.

    Raises AttackError for a text that is not a number.
    """
    sizes = value if isinstance(value, list | tuple) else (value,)
    return tuple(sorted(pixels_of(size) if isinstance(size, str | int | float) else size for size in sizes))


def pixels_of(eps: str | float | int) -> float:
    """A length in pixels of [0, 1] from what a user types; raises AttackError for what is not a number.

    >>> pixels_of("51/255"), pixels_of(0.5)
    (0.2, 0.5)
    """
    try:
        top, *rest = (float(part) for part in str(eps).split("/"))
        if len(rest) > 1:
            raise ValueError
        return top / rest[0] if rest else top
    except (ValueError, ZeroDivisionError):
        raise AttackError(f"eps {eps!r} is not a number; write it as 8/255 or 0.03, in pixels of [0, 1]") from None


def _distance(value: Any) -> float:
    try:
        return pixels_of(value)
    except AttackError:
        raise ValueError("no number; write it as 8/255 or 0.03, in pixels of [0, 1]") from None


Distance = Annotated[float, BeforeValidator(_distance)]  # of a setting: in pixels of [0, 1], and text such as 8/255


@dataclass(frozen=True)
class Ball:
    """All images within `eps` of the original in one norm; eps in pixels of [0, 1], over all channels together.

    Raises AttackError for an eps that is not positive or was meant in grey levels.

    >>> str(Ball.parse("linf", "8/255")), Ball.parse("L2", 0.5)
    ('linf 8/255', Ball(norm='l2', eps=0.5))
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise AttackError(f"no norm {self.norm!r}{nearest(self.norm, get_args(Norm))}; there are linf and l2")
        if not 0 < self.eps < math.inf:
            raise AttackError(f"eps is {self.eps:g}, must be above 0, such as 8/255; at 0 look at the clean accuracy")
        if self.eps >= _TOO_LARGE[self.norm]:
            raise AttackError(
                f"eps is {self.eps:g}, must be below {_TOO_LARGE[self.norm]:g} in the norm {self.norm}, because pixels "
                f"lie in [0, 1]; did you mean {self.eps:g}/255?"
            )

    @classmethod
    def parse(cls, norm: str, eps: str | float | int) -> "Ball":
        """A ball from text: `linf`, `Linf`, `l_2`; `8/255`, `0.03`.

        Raises AttackError where it cannot be read, with what can.
        """
        name = norm.strip().lower().replace("_", "").replace("-", "")
        known = {found: found for found in get_args(Norm)} | {"inf": "linf", "2": "l2"}
        if name not in known:
            raise AttackError(f"no norm {norm!r}{nearest(name, get_args(Norm))}; there are linf and l2")
        return cls(known[name], pixels_of(eps))

    def __str__(self) -> str:
        return f"{self.norm} {eps_text(self.eps)}"

    def reach(self, images: Images) -> float:
        """The radius used inside: eps less what float32 pixels can lose by rounding, so that eps is never exceeded.

        In l2 that is one rounding of every pixel and the error of a float32 sum, but a thousandth of eps at most; so
        below eps = sqrt(numbers in an image) / 16,777 roundings that all point outward could still exceed eps.
        """
        if self.norm == "linf":
            return self.eps - min(2.0**-24, self.eps / 2)
        return self.eps - min(2.0**-24 * math.sqrt(images[0].numel()) + 2e-6 * self.eps, self.eps / 1000)

    def distance(self, images: Images, centres: Images) -> Float[Tensor, " batch"]:
        """Distance of each image from its centre, in float64."""
        offset = (images.double() - centres.double()).flatten(1)
        return offset.abs().amax(dim=1) if self.norm == "linf" else torch.linalg.vector_norm(offset, dim=1)

    def contains(self, images: Images, centres: Images, *, tolerance: float = 1e-6) -> Bool[Tensor, " batch"]:
        """Mask of the images that lie in the ball and in the box; one with a NaN does not."""
        flat = images.flatten(1)
        box = (flat >= -tolerance).all(dim=1) & (flat <= 1 + tolerance).all(dim=1)
        return box & (self.distance(images, centres) <= self.eps + tolerance)

    def project(self, images: Images, centres: Images) -> Images:
        """The nearest images in ball and box, exactly (not first the one, then the other); `centres` lie in the box."""
        if not len(images):
            return images.clone()
        radius = self.reach(images)
        if self.norm == "linf":
            return images.clamp(centres - radius, centres + radius).clamp(0, 1)
        return _project_l2(images, centres, radius)

    def random(self, centres: Images, numbers: ImageDraws) -> Images:
        """Images drawn uniformly from the ball, then projected into the box."""
        shape = centres.shape[1:]
        if self.norm == "linf":
            return self.project(centres + self.eps * (2 * numbers.uniform(*shape, device=centres.device) - 1), centres)
        direction = self.direction(numbers.normal(*shape, device=centres.device))
        share = numbers.uniform(1, 1, 1, device=centres.device) ** (1 / centres[0].numel())
        return self.project(centres + self.eps * share * direction, centres)

    def direction(self, gradient: Images) -> Images:
        """The step of length one in this norm along which a linear function grows fastest; zero for zero."""
        return gradient.sign() if self.norm == "linf" else unit(gradient)


def unit(images: Images) -> Images:
    """Scaled to l2 length one; scaled by the largest entry first, because squares of small gradients underflow."""
    largest = images.abs().amax(dim=(1, 2, 3), keepdim=True)
    scaled = images / torch.where(largest > 0, largest, 1)
    length = torch.linalg.vector_norm(scaled, dim=(1, 2, 3), keepdim=True)
    return scaled / torch.where(length > 0, length, 1)


def per_pixel(values: Shaped[Tensor, " batch"]) -> Shaped[Tensor, "batch 1 1 1"]:
    """One number an image, shaped to broadcast over its pixels."""
    return values[:, None, None, None]


def _project_l2(images: Images, centres: Images, radius: float) -> Images:
    """min |z - x| with |z - c| <= radius and z in the box, solved for each image.

    The optimality conditions give z = c + sign(d) min(t |d|, slack), d = x - c, slack = from c to the box's bound.
    |z - c| grows with t. With the capped pixels held, t solves a quadratic; holding more raises t, so that the sequence
    grows to the solution from below, ends after finitely many rounds, and is inside the ball at any of them.
    """
    offset = images - centres
    length, slack = offset.abs(), torch.where(offset > 0, 1 - centres, centres)
    inside = _length(torch.minimum(length, slack)) <= radius
    share = torch.zeros(len(images), dtype=images.dtype, device=images.device)
    for _ in range(_ROUNDS):
        capped = per_pixel(share) * length >= slack
        spent = torch.where(capped, slack, 0).square().sum(dim=(1, 2, 3))
        free = torch.where(capped, 0, length).square().sum(dim=(1, 2, 3))
        grown = ((radius**2 - spent).clamp(min=0) / free.clamp(min=1e-30)).sqrt().clamp(max=1)
        settled = bool(((grown <= share * (1 + 1e-6)) | inside).all())
        share = torch.maximum(share, grown)
        if settled:
            break
    moved = torch.minimum(per_pixel(share) * length, slack)
    return torch.where(per_pixel(inside), images, centres + offset.sign() * moved).clamp(0, 1)


def _length(images: Images) -> Float[Tensor, " batch"]:
    return torch.linalg.vector_norm(images.flatten(1), dim=1, dtype=torch.float64)
