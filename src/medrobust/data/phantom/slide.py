"""A slide in micrometres: signed distances, stains that absorb light (Beer-Lambert), clouds and specks."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageDraw

FIELD = 22.0  # width of the picture, um

Plane = Float32[np.ndarray, "h w"]
Absorbance = Float32[np.ndarray, "3 h w"]
Stain = Float32[np.ndarray, "3 #h #w"]  # one for all points, or one for each
Colour = tuple[int, int, int]
Span = tuple[int | float, int | float]


class Window(NamedTuple):
    """A square part of the slide around a cell: coordinates in um from its centre, and the absorption there."""

    x: Plane
    y: Plane
    absorbance: Absorbance
    scale: float  # pixels in 1 um
    middle: tuple[float, float]  # column and row of the centre, in pixels


class Lobe(NamedTuple):
    """An ellipse: centre, half-axes (um) and direction of the first (radian)."""

    x: float
    y: float
    a: float
    b: float
    angle: float = 0.0


@dataclass(frozen=True)
class Granules:
    """Number, size (radius, um) and colour of granules, and whether they lie over the nucleus too."""

    count: Span
    radius: Span
    colour: Colour
    over_nucleus: bool = False


def ellipse(window: Window, lobe: Lobe) -> Plane:
    """Signed distance (um, negative inside) to an ellipse; exact on its axes only."""
    cos, sin = math.cos(lobe.angle), math.sin(lobe.angle)
    x, y = window.x - lobe.x, window.y - lobe.y
    u, v = (x * cos + y * sin) / lobe.a, (y * cos - x * sin) / lobe.b
    return (np.sqrt(u * u + v * v) - 1.0) * min(lobe.a, lobe.b)


def _strand(window: Window, start: Lobe, end: Lobe, width: float) -> Plane:
    """Signed distance to the thread of half-width `width` between two lobes."""
    dx, dy = end.x - start.x, end.y - start.y
    x, y = window.x - start.x, window.y - start.y
    along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy + 1e-6), 0.0, 1.0)
    x, y = x - along * dx, y - along * dy
    return np.sqrt(x * x + y * y) - width


def chain(window: Window, lobes: list[Lobe], width: float) -> Plane:
    """Lobes in a row, each bound to the next."""
    parts = [ellipse(window, lobe) for lobe in lobes]
    parts += [_strand(window, start, end, width) for start, end in pairwise(lobes)]
    return np.minimum.reduce(parts)


def stain_of(colour: Colour) -> Stain:
    """The absorption that turns white light into `colour`."""
    return -np.log(np.asarray(colour, np.float32).reshape(3, 1, 1) / 255)


def inside(distance: Plane, edge: float = 0.15) -> Plane:
    """1 inside, 0 outside, with a border `edge` um wide."""
    return np.clip(0.5 - distance / edge, 0.0, 1.0)


def paint(window: Window, mask: Plane, stain: Stain) -> None:
    """Replace the absorption under `mask` by `stain`, in place."""
    window.absorbance[...] += mask * (stain - window.absorbance)


def clouds(rng: np.random.Generator, shape: tuple[int, int], knots: int) -> Plane:
    """Value noise: normal numbers on `knots` x `knots` points, joined smoothly."""
    lattice = Image.fromarray(rng.standard_normal((knots, knots), dtype=np.float32))
    return np.asarray(lattice.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def cut(absorbance: Absorbance, at: tuple[float, float], half: float, angle: float) -> Window:
    """The part within `half` um of `at`, its axes turned by `angle`."""
    size = absorbance.shape[1]
    scale = size / FIELD
    centre = [(c + FIELD / 2) * scale for c in at]
    columns, rows = (slice(*(max(0, int(c + sign * half * scale)) for sign in (-1, 1))) for c in centre)
    line = (np.arange(size, dtype=np.float32) + 0.5) / scale - FIELD / 2
    x, y = line[None, columns] - at[0], line[rows, None] - at[1]
    cos, sin = math.cos(angle), math.sin(angle)
    middle = (centre[0] - columns.start, centre[1] - rows.start)
    return Window(x * cos + y * sin, y * cos - x * sin, absorbance[:, rows, columns], scale, middle)


def speckle(window: Window, rng: np.random.Generator, granules: Granules, radius: float) -> Plane:
    """Coverage by granules strewn evenly over the cell, each of its own depth of stain."""
    height, width = window.x.shape
    picture = Image.new("L", (width, height))
    pen = ImageDraw.Draw(picture)
    count = int(rng.uniform(*granules.count))
    far, turn = 0.96 * radius * np.sqrt(rng.random(count)), rng.uniform(0, 2 * math.pi, count)
    size = rng.uniform(*granules.radius, count) * window.scale
    x, y = (
        m + far * turned * window.scale for m, turned in zip(window.middle, (np.cos(turn), np.sin(turn)), strict=True)
    )
    shades = rng.integers(110, 256, count)
    boxes = np.stack([x - size, y - size, x + size, y + size], 1)
    for box, shade in zip(boxes.tolist(), shades.tolist(), strict=True):
        pen.ellipse(box, fill=shade)
    return np.asarray(picture, np.float32) / 255
