"""Whole-slide images cut into tiles: a grid at one magnification, without the empty glass.

Only the scan itself is read; a slide's label and macro photograph, which may show a patient's name, never are.
"""

import csv
import io
import json
import math
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as Pillow

from medrobust.data.decoded import check_size
from medrobust.errors import ConfigError, DataError, RunError
from medrobust.files import replace_bytes, replace_text

# A pixel is tissue where (largest - smallest channel) / largest and the largest channel are above these.
MIN_SATURATION = 0.08
MIN_BRIGHTNESS = 0.1
MICRONS_AT_ONE = 10.0  # microns a pixel at magnification 1, the habit of scanners: 0.5 is 20x, 0.25 is 40x
_TOLERANCE = 1.05  # a slide scanned at 39.6x serves 40x as it is
_OWN_FILES = re.compile(r"\d+_\d+\.png|tiles\.(json|csv)|\..*\.tmp")


@dataclass(frozen=True)
class Cut:
    """Settings of the cut: tile size, magnification, share of tissue. Raises `ConfigError` for impossible numbers."""

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
    """Positions of a slide's tiles, in pixels of its level 0."""

    side: int
    places: list[tuple[int, int]]  # x and y of the upper left corners, row by row


def cut_tiles(
    path: Path,
    cut: Cut,
    out: Path,
    *,
    say: Callable[[str], None] = lambda _text: None,
    progress: Callable[[str, int, int], None] = lambda _title, _done, _total: None,
) -> dict[str, Any]:
    """Write the tiles that hold tissue as `out`/x_y.png, then their list, `out`/tiles.csv; returns the counts.

    x and y are the upper left corner in pixels of level 0. A tile that would reach over the edge is left out. Tiles
    that are there already are not cut again; the list is written last. Raises `DataError` for a file that is not a
    slide or has no such magnification, and `RunError` where the folder holds anything else or cannot be written.
    """
    with closing(_open(path)) as slide:
        scanned = _scanned_at(slide, path)
        scale = _scale(scanned, cut, path)
        grid = _grid(slide, cut, scale)
        _claim(out, slide, path, cut)
        say(
            f"cut {path} (scanned at {scanned:g}x) at {cut.magnification:g}x into {len(grid.places)} tiles of "
            f"{cut.size} x {cut.size} pixels; those with less than {100 * cut.tissue:g} % tissue are left out"
        )
        rows = []
        for done, (x, y) in enumerate(grid.places, start=1):
            share = _keep(slide, path, (x, y), grid.side, cut, out)
            if share is not None:
                rows.append([f"{x}_{y}", f"{x}_{y}.png", x, y, f"{cut.magnification:g}", f"{share:.4f}"])
            progress("tiles", done, len(grid.places))
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([["id", "path", "x", "y", "magnification", "tissue"], *rows])
    replace_text(out / "tiles.csv", table.getvalue())
    counts = {"tiles": len(rows), "left_out": len(grid.places) - len(rows), "list": str(out / "tiles.csv")}
    return {"schema_version": 1, "slide": path.name, "scanned_at": scanned, **asdict(cut), **counts}


def tissue_share(tile: Pillow.Image) -> float:
    """The share of pixels that are coloured and not black: stained tissue, and no glass."""
    pixels = np.asarray(tile.convert("RGB"), dtype=np.float32) / 255
    largest, smallest = pixels.max(axis=2), pixels.min(axis=2)
    return float(((largest > MIN_BRIGHTNESS) & (largest - smallest > MIN_SATURATION * largest)).mean())


def _open(path: Path) -> Any:
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
    """The magnification of level 0, as the slide says it, or as it follows from its microns a pixel."""
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


def _grid(slide: Any, cut: Cut, scale: float) -> Grid:
    left, top = (int(slide.properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
    width = int(slide.properties.get("openslide.bounds-width", slide.dimensions[0]))
    height = int(slide.properties.get("openslide.bounds-height", slide.dimensions[1]))
    side, step = round(cut.size * scale), (cut.size - cut.overlap) * scale
    columns = [round(i * step) for i in range(math.ceil(width / step)) if round(i * step) + side <= width]
    rows = [round(i * step) for i in range(math.ceil(height / step)) if round(i * step) + side <= height]
    return Grid(side, [(left + x, top + y) for y in rows for x in columns])


def _keep(slide: Any, path: Path, place: tuple[int, int], side: int, cut: Cut, out: Path) -> float | None:
    """Write a tile unless it is there, and return its share of tissue; None and no file where that is too small."""
    file = out / f"{place[0]}_{place[1]}.png"
    if file.exists():
        with Pillow.open(file) as kept:
            return tissue_share(kept)
    tile = _read(slide, path, place, side, cut.size)
    share = tissue_share(tile)
    if share < cut.tissue:
        return None
    png = io.BytesIO()
    tile.save(png, "PNG")
    replace_bytes(file, png.getvalue())
    return share


def _read(slide: Any, path: Path, place: tuple[int, int], side: int, size: int) -> Pillow.Image:
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


def _claim(out: Path, slide: Any, path: Path, cut: Cut) -> None:
    """Make the folder this cut's own, or see that it is."""
    mine = {
        "schema_version": 1,
        "slide": path.name,
        "hash": slide.properties.get("openslide.quickhash-1"),
        **asdict(cut),
    }
    record = out / "tiles.json"
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; use another --out")
    others = (
        sorted(entry.name for entry in out.iterdir() if not _OWN_FILES.fullmatch(entry.name)) if out.exists() else []
    )
    if others or (out.exists() and any(out.glob("*.png")) and not record.exists()):
        raise RunError(
            f"{out} holds other files ({', '.join(others[:3]) or 'tiles of unknown origin'}); use another --out"
        )
    if record.exists():
        try:
            before = dict(json.loads(record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{record} cannot be read; use another --out") from error
        for key, value in mine.items():
            if before.get(key) != value:
                raise RunError(
                    f"{out} holds tiles with {key} = {before.get(key)}, asked for {value}; use another --out"
                )
        return
    replace_text(record, json.dumps(mine, indent=2) + "\n")
