"""Whole-slide images cut into tiles: a grid at one magnification, without the empty glass.

Only the scan itself is read; a slide's label and macro photograph, which may show a patient's name, never are.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as Pillow

from medrobust.data.decoded import check_size
from medrobust.errors import ConfigError, DataError

# A pixel is tissue where (largest - smallest channel) / largest and the largest channel are above these.
MIN_SATURATION = 0.08
MIN_BRIGHTNESS = 0.1
MICRONS_AT_ONE = 10.0  # microns a pixel at magnification 1, the habit of scanners: 0.5 is 20x, 0.25 is 40x
_TOLERANCE = 1.05  # a slide scanned at 39.6x serves 40x as it is


@dataclass(frozen=True)
class Cut:
    """Size, overlap and magnification of the tiles of a slide. Raises `ConfigError` for impossible numbers."""

    magnification: float  # as of an objective: 10 is about one micron a pixel
    size: int  # pixels of a tile's side
    overlap: int = 0  # pixels that neighbours share
    tissue: float = 0.25  # tiles with a smaller share of tissue are left out

    def __post_init__(self) -> None:
        if not (math.isfinite(self.magnification) and self.magnification > 0):
            raise ConfigError(f"the magnification is {self.magnification:g}, expected a number above 0, such as 10")
        if self.size < 1 or not 0 <= self.overlap < self.size:
            raise ConfigError(f"tiles of {self.size} pixels overlap by {self.overlap}; expected 0 <= overlap < size")
        if not 0 <= self.tissue <= 1:
            raise ConfigError(f"the share of tissue is {self.tissue:g}, expected 0 to 1")


class Grid(NamedTuple):
    """Places of the tiles of a slide, in pixels of its level 0; `scanned` is the magnification of that level."""

    scanned: float
    side: int
    places: list[tuple[int, int]]  # x and y of the upper left corners, row by row


def tissue_share(tile: Pillow.Image) -> float:
    """The share of pixels that are coloured and not black: stained tissue, and no glass."""
    pixels = np.asarray(tile.convert("RGB"), dtype=np.float32) / 255
    largest, smallest = pixels.max(axis=2), pixels.min(axis=2)
    return float(((largest > MIN_BRIGHTNESS) & (largest - smallest > MIN_SATURATION * largest)).mean())


def open_slide(path: Path) -> Any:
    """The slide, read by openslide. Raises DataError for a file that is missing or no slide."""
    try:
        import openslide
    except ImportError:
        raise DataError(f'{path} is a slide, which needs openslide: pip install "medrobust[wsi]"') from None
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise DataError(
            f"{path} is not a slide that openslide can read; expected svs, ndpi, mrxs, scn, bif or tiled TIFF"
        ) from error


def _scanned_at(slide: Any, path: Path) -> float:
    """The magnification of level 0: what the slide says, or what follows from its microns a pixel."""
    power = _number(slide, "openslide.objective-power")
    microns = _number(slide, "openslide.mpp-x")
    if power is None and microns is None:
        raise DataError(
            f"{path} says neither its objective power nor its microns per pixel, so no magnification can be cut from it"
        )
    return power or MICRONS_AT_ONE / (microns or 1)


def _number(slide: Any, key: str) -> float | None:
    try:
        value = float(slide.properties.get(key, "nan"))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _scale(scanned: float, cut: Cut, path: Path) -> float:
    """Pixels of level 0 for each pixel of a tile."""
    if cut.magnification > scanned * _TOLERANCE:
        raise DataError(
            f"{path} was scanned at {scanned:g}x, asked for {cut.magnification:g}x; "
            f"pass --magnification {scanned:g} or less"
        )
    return max(1.0, scanned / cut.magnification)


def grid_of(slide: Any, path: Path, cut: Cut) -> Grid:
    """The tiles of a cut; one that would reach over the edge is left out.

    Raises DataError for a slide that has no such magnification.
    """
    scanned = _scanned_at(slide, path)
    scale = _scale(scanned, cut, path)
    left, top = (int(slide.properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
    width = int(slide.properties.get("openslide.bounds-width", slide.dimensions[0]))
    height = int(slide.properties.get("openslide.bounds-height", slide.dimensions[1]))
    side, step = round(cut.size * scale), (cut.size - cut.overlap) * scale
    columns = [round(i * step) for i in range(math.ceil(width / step)) if round(i * step) + side <= width]
    rows = [round(i * step) for i in range(math.ceil(height / step)) if round(i * step) + side <= height]
    return Grid(scanned, side, [(left + x, top + y) for y in rows for x in columns])


def read_tile(slide: Any, path: Path, place: tuple[int, int], side: int, size: int) -> Pillow.Image:
    """The tile at a place, `size` pixels wide, glass white. Raises DataError where the slide is damaged there."""
    import openslide

    level = slide.get_best_level_for_downsample(side / size)
    pixels = max(size, round(side / slide.level_downsamples[level]))
    try:
        check_size(pixels, pixels)
        scan = slide.read_region(place, level, (pixels, pixels))
    except DataError as error:
        raise DataError(f"a tile of {path} {error}; or take a higher magnification") from error
    except openslide.OpenSlideError as error:
        raise DataError(f"{path} is damaged at {place[0]}, {place[1]}: it cannot be read there") from error
    glass = Pillow.new("RGBA", scan.size, "white")
    tile = Pillow.alpha_composite(glass, scan).convert("RGB")
    return tile if pixels == size else tile.resize((size, size), Pillow.Resampling.BICUBIC)
