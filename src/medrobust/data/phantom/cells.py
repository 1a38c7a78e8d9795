"""The table of cells: the parts of each of the 8 classes, and the shapes of their nuclei."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medrobust.data.phantom.slide import Colour, Granules, Lobe, Plane, Span, Window, chain, ellipse


@dataclass(frozen=True)
class Cell:
    """One row of the table above; each span is drawn from uniformly."""

    diameter: Span
    cytoplasm: tuple[Colour, Colour]
    nucleus: Callable[[Window, np.random.Generator, float], Plane] | None = None
    chromatin: tuple[Colour, Colour] = ((54, 18, 112), (104, 52, 146))
    clump: float = 0.5  # um
    granules: tuple[Granules, ...] = ()
    ragged: Span = (0.1, 0.3)  # um
    nucleoli: int = 0  # at most


def _segmented(window: Window, rng: np.random.Generator, radius: float) -> Plane:
    """Three to five lobes along an arc, on thin filaments."""
    count = int(rng.choice([3, 3, 3, 4, 4, 5]))
    step = rng.uniform(0.85, 1.1) * {3: 1.75, 4: 1.4, 5: 1.15}[count]
    size = radius * {3: 0.4, 4: 0.34, 5: 0.29}[count]
    lobes = []
    for turn in (np.arange(count) - (count - 1) / 2).tolist():
        angle, far = turn * step + rng.normal(0, 0.1), radius * rng.uniform(0.42, 0.56)
        a = size * rng.uniform(0.85, 1.15)
        x, y = far * math.cos(angle) - 0.1 * radius, far * math.sin(angle)
        lobes.append(Lobe(x, y, a, a * rng.uniform(0.6, 0.85), angle + math.pi / 2 + rng.normal(0, 0.4)))
    return chain(window, lobes, rng.uniform(0.14, 0.3))


def _bilobed(window: Window, rng: np.random.Generator, radius: float) -> Plane:
    """Two plump lobes, now and then three."""
    count = 3 if rng.random() < 0.15 else 2
    step = rng.uniform(1.6, 2.6) if count == 2 else 1.5
    lobes = []
    for turn in (np.arange(count) - (count - 1) / 2).tolist():
        angle, far = turn * step + rng.normal(0, 0.1), radius * rng.uniform(0.42, 0.5)
        a = radius * rng.uniform(0.38, 0.46) * (1.0 if count == 2 else 0.75)
        x, y = far * math.cos(angle) - 0.1 * radius, far * math.sin(angle)
        lobes.append(Lobe(x, y, a, a * rng.uniform(0.75, 0.9), angle + math.pi / 2 + rng.normal(0, 0.3)))
    return chain(window, lobes, rng.uniform(0.2, 0.5))


def _round(low: float, high: float, shift: float) -> Callable[[Window, np.random.Generator, float], Plane]:
    """One round nucleus of a share of the cell's radius, off its centre by up to `shift` of what is left."""

    def nucleus(window: Window, rng: np.random.Generator, radius: float) -> Plane:
        a = radius * rng.uniform(low, high)
        return ellipse(window, Lobe(rng.uniform(0, shift) * (radius - a), 0.0, a, a * rng.uniform(0.88, 1.0)))

    return nucleus


def _indented(window: Window, rng: np.random.Generator, radius: float) -> Plane:
    """Round or oval (promyelocyte, myelocyte) to bean-shaped (metamyelocyte), to one side of the cell."""
    a = radius * rng.uniform(0.58, 0.76)
    shift = rng.uniform(0.4, 0.95) * (radius - a)
    oval = ellipse(window, Lobe(shift, 0.0, a * rng.uniform(0.75, 1.0), a))
    depth = max(0.0, rng.uniform(-0.5, 0.5)) * a
    bite = ellipse(window, Lobe(shift - 1.6 * a + depth, 0.0, 0.75 * a, 0.75 * a))
    return np.maximum(oval, -bite)


def _folded(window: Window, rng: np.random.Generator, radius: float) -> Plane:
    """A thick arc: a kidney when short, a horseshoe when long."""
    bend, thick = rng.uniform(0.8, 2.1), radius * rng.uniform(0.28, 0.4)
    far = radius * rng.uniform(0.34, 0.46)
    arc = [
        Lobe(far * math.cos(t * bend) - 0.12 * radius, far * math.sin(t * bend), thick * rng.uniform(0.85, 1.15), thick)
        for t in (-1.0, -0.5, 0.0, 0.5, 1.0)
    ]
    return chain(window, arc, thick * 0.95)


_VACUOLES = Granules((0, 9), (0.25, 0.6), (250, 230, 214), over_nucleus=True)

CELLS = (
    Cell((10, 14), ((206, 166, 196), (170, 130, 190)), _bilobed, ((58, 22, 118), (120, 76, 156)),
         granules=(Granules((110, 280), (0.2, 0.46), (44, 14, 104), over_nucleus=True),)),
    Cell((12, 16), ((236, 186, 170), (222, 160, 158)), _bilobed,
         granules=(Granules((280, 480), (0.24, 0.4), (206, 88, 78)),)),
    Cell((8, 11.5), ((212, 180, 184), (120, 118, 176)), _round(0.5, 0.7, 0.8), ((46, 16, 102), (88, 48, 138)),
         ragged=(0.05, 0.25)),
    Cell((12.5, 17), ((200, 160, 192), (150, 134, 192)), _indented, ((72, 28, 130), (150, 98, 172)), 0.45,
         (Granules((60, 420), (0.1, 0.26), (100, 28, 122), over_nucleus=True),), nucleoli=2),
    Cell((8, 11.5), ((164, 170, 214), (112, 120, 190)), _round(0.74, 0.93, 0.6), ((54, 20, 114), (106, 60, 152)), 0.7,
         ragged=(0.1, 0.35)),
    Cell((13.5, 18), ((184, 166, 194), (144, 138, 186)), _folded, ((80, 32, 134), (164, 116, 180)), 0.5,
         (Granules((40, 120), (0.08, 0.14), (130, 80, 150)), _VACUOLES), (0.3, 0.8)),
    Cell((12, 15), ((234, 194, 186), (210, 174, 190)), _segmented,
         granules=(Granules((120, 320), (0.08, 0.16), (166, 98, 156)),)),
    Cell((2.4, 4.2), ((196, 168, 198), (160, 132, 184)),
         granules=(Granules((20, 46), (0.12, 0.28), (104, 36, 140)),), ragged=(0.08, 0.3)),
)  # fmt: skip
