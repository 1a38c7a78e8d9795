"""Synthetic blood smears: one cell among erythrocytes, drawn from textbook morphology, when no real image is at hand.

Sizes in micrometres, with the erythrocyte (7.5) as the scale; light is absorbed layer by layer (Beer-Lambert).

| label | cell | diameter | nucleus | cytoplasm and granules |
|---|---|---|---|---|
| 0 | basophil | 10-14 | 2-3 lobes, hidden | large, blue-black, over the nucleus |
| 1 | eosinophil | 12-16 | 2 lobes, sometimes 3 | packed, large, orange-red |
| 2 | erythroblast | 8-11.5 | small, round, very dense | grey-pink to grey-blue, none |
| 3 | immature granulocyte | 12.5-17 | round to indented, eccentric, nucleoli | bluish pink, many azurophil |
| 4 | lymphocyte | 8-11.5 | round, dense, fills the cell | thin sky-blue rim |
| 5 | monocyte | 13.5-18 | kidney to horseshoe, lacy | grey-blue, vacuoles |
| 6 | neutrophil | 12-15 | 3-5 lobes on filaments | pale pink, fine lilac |
| 7 | platelet | 2.4-4.2 | none | purple granules in a pale border |

References:
    B. J. Bain, Blood Cells: A Practical Guide, 5th ed. (2015), chapter 3; L. Palmer et al., ICSH recommendations for
    the standardization of nomenclature and grading of peripheral blood cell morphological features, Int. J. Lab.
    Hematol. 37 (2015) 287-303; diameters rounded to what is common on a film. Colours set by eye beside
    May-Gruenwald-Giemsa photographs of A. Acevedo et al., Data in Brief 30 (2020) 105474; no pixel of them is used.
"""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from medrobust.data.phantom.cells import CELLS, Cell
from medrobust.data.phantom.slide import (
    FIELD,
    Absorbance,
    Lobe,
    Plane,
    Stain,
    Window,
    clouds,
    cut,
    ellipse,
    inside,
    paint,
    speckle,
    stain_of,
)
from medrobust.errors import DataError
from medrobust.seeds import numpy_stream

ERYTHROCYTE = 7.5  # diameter, um


def _erythrocyte(absorbance: Absorbance, rng: np.random.Generator, at: tuple[float, float], stain: Stain) -> None:
    """A biconcave disc: thin, hence pale, in the middle."""
    radius = ERYTHROCYTE / 2 * rng.uniform(0.9, 1.08)
    window = cut(absorbance, at, radius * 1.2, rng.uniform(0, math.pi))
    edge = ellipse(window, Lobe(0.0, 0.0, radius, radius * rng.uniform(0.86, 1.0)))
    hollow = np.clip((-edge / radius - 0.22) / rng.uniform(0.25, 0.5), 0.0, 1.0)
    hollow = hollow * hollow * (3 - 2 * hollow)
    window.absorbance[...] += inside(edge, 0.3) * (1 - rng.uniform(0.3, 0.85) * hollow) * stain


def _chromatin(window: Window, rng: np.random.Generator, cell: Cell, radius: float, distance: Plane) -> None:
    """Clumps of dark in lighter chromatin, and the dark membrane."""
    knots = int(2.5 * radius / cell.clump)
    light = 0.3 + 0.35 * clouds(rng, window.x.shape, knots) + 0.25 * clouds(rng, window.x.shape, 2 * knots)
    light = np.clip(light, 0.0, 1.0) * np.clip(-distance / 0.5, 0.0, 1.0)
    dark, pale = (stain_of(colour) for colour in cell.chromatin)
    for _ in range(int(rng.integers(0, cell.nucleoli + 1))):
        x, y = rng.uniform(-2.5, 2.5, 2).tolist()
        light = np.maximum(light, 0.8 * inside(ellipse(window, Lobe(x, y, 0.8, 0.6)), 0.5))
    paint(window, inside(distance), dark + light * (pale - dark))


def _cell(absorbance: Absorbance, rng: np.random.Generator, cell: Cell, radius: float, at: tuple[float, float]) -> None:
    """Cytoplasm, nucleus, granules, in this order."""
    ragged = rng.uniform(*cell.ragged)
    straight = cut(absorbance, at, 1.05 * radius + 0.2 + 2.2 * ragged, rng.uniform(0, 2 * math.pi))
    shape = straight.x.shape
    x, y = (axis + ragged * np.clip(clouds(rng, shape, 5), -2.0, 2.0) for axis in (straight.x, straight.y))
    window = straight._replace(x=x, y=y)
    body = ellipse(window, Lobe(0.0, 0.0, radius * 1.03, radius * rng.uniform(0.88, 1.03)))
    mask = inside(body, 0.3)
    pink, mix = stain_of(cell.cytoplasm[0]), rng.random()
    stain = pink + mix * (stain_of(cell.cytoplasm[1]) - pink)
    paint(window, mask, stain * (1 + 0.12 * clouds(rng, shape, 14) + 0.5 * np.clip(1 + body / 0.5, 0, 1)))
    free = mask
    if cell.nucleus is not None:
        distance = np.maximum(cell.nucleus(window, rng, radius), body + 0.25)
        _chromatin(window, rng, cell, radius, distance)
        free = mask * (1 - inside(distance))
    for granules in cell.granules:
        cover = speckle(window, rng, granules, radius)
        paint(window, cover * (mask if granules.over_nucleus else free), stain_of(granules.colour))


def _strew(rng: np.random.Generator, clear: float) -> list[tuple[float, float]]:
    """Positions of erythrocytes: `clear` um away from the middle, seldom deep in each other."""
    reach, wanted, apart = FIELD / 2 + 2.5, int(rng.integers(6, 14)), rng.uniform(4.5, 7.5)
    places: list[tuple[float, float]] = []
    for x, y in rng.uniform(-reach, reach, (60, 2)).tolist():
        if len(places) < wanted and math.hypot(x, y) > clear and all(math.dist((x, y), p) > apart for p in places):
            places.append((x, y))
    return places


def _smear(cell: Cell, rng: np.random.Generator, grid: int) -> Absorbance:
    """Absorption on `grid` x `grid` points: plasma under a tilted lamp, erythrocytes, the cell on top."""
    blue = rng.random() < 0.12  # now and then a colder stain and lamp
    plasma = stain_of((238, 236, 246) if blue else (254, 230, 206))
    absorbance = plasma * rng.uniform(0.7, 1.2) + np.zeros((3, grid, grid), np.float32)
    tilt = cut(absorbance, (0.0, 0.0), FIELD, rng.uniform(0, 2 * math.pi)).x / FIELD
    absorbance += 0.04 * (tilt + 0.71)
    radius = rng.uniform(*cell.diameter) / 2
    pigment = stain_of((212, 194, 206) if blue else (228, 198, 202)) * rng.uniform(0.75, 1.25)
    places = _strew(rng, radius + 0.8 + ERYTHROCYTE / 2)
    whole = [place for place in places if max(map(abs, place)) < FIELD / 2 - 3]
    bystander = whole[0] if whole and rng.random() < 0.3 else None  # a platelet
    for place in places:
        if place == bystander:
            _cell(absorbance, rng, CELLS[-1], rng.uniform(*CELLS[-1].diameter) / 2, place)
        else:
            _erythrocyte(absorbance, rng, place, pigment)
    _cell(absorbance, rng, cell, radius, (rng.uniform(-1.3, 1.3), rng.uniform(-1.3, 1.3)))
    return absorbance


def draw(label: int, *, seed: int, item: str, size: int = 112) -> UInt8[np.ndarray, "size size 3"]:
    """An RGB picture, 22 um and `size` pixels wide, of one cell of class `label` among erythrocytes.

    Labels are in BloodMNIST's order. The same arguments give the same bytes (with the same NumPy and Pillow), and one
    `item` is the same cell at every size. Raises DataError for a label that is none of the 8 or a size below 1.
    """
    if not 0 <= label < len(CELLS):
        raise DataError(f"label {label} names no blood cell; pass 0 to {len(CELLS) - 1}")
    if size < 1:
        raise DataError(f"a picture cannot be {size} pixels wide; pass a size of 1 or more")
    rng = numpy_stream(seed, "phantom", f"{label}/{item}")
    absorbance = _smear(CELLS[label], rng, 2 * max(size, 112))
    absorbance *= -rng.uniform(0.88, 1.12, (3, 1, 1)).astype(np.float32)  # batches of stain differ in hue
    light = (255 * np.exp(absorbance, out=absorbance)).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(light.transpose(1, 2, 0)))
    picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.array(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.55) * size / 112)))
