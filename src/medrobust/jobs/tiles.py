"""A whole-slide image cut into tiles: x_y.png for each that holds tissue, their list, tiles.csv, and tiles.json.

x and y are the upper left corner in pixels of level 0. What each tile held stands in tiles.jsonl, one row a tile, also
for those that are left out, so that a cut goes on where it was interrupted.
"""

import csv
import io
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from medrobust.data.slides import Grid, grid_of, open_slide, read_tile, tissue_share
from medrobust.files import replace_bytes, replace_text
from medrobust.jobs.folder import Holding, RunFolder
from medrobust.jobs.job import Done, Kind, Notes, Opening, Unit, Work
from medrobust.jobs.tiles_settings import TilesSettings
from medrobust.results.journal import checked_form, read_journal
from medrobust.tell import Tell

BLOCK = 64  # tiles cut at once
_ROWS, _VERSION = "tiles.jsonl", 1


@dataclass(frozen=True)
class TileRow:
    """One place of the grid: its share of tissue, and whether that made it a tile."""

    x: int
    y: int
    tissue: float
    kept: bool
    schema_version: int = _VERSION

    @property
    def key(self) -> str:
        """The name of its file, without the ending."""
        return _name(self.x, self.y)


FORM = checked_form(TileRow, _VERSION, parts="tiles", command="data tiles")


@dataclass(frozen=True)
class TilesSummary:
    """Counts of the tiles of a slide."""

    slide: str
    scanned_at: float
    magnification: float
    size: int
    overlap: int
    tissue: float
    tiles: int
    left_out: int
    list: str
    schema_version: int = _VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain values, the version first."""
        return {"schema_version": self.schema_version} | asdict(self)

    @property
    def sentence(self) -> str:
        """The counts, in one line for a terminal."""
        return f"{self.list}: {self.tiles} tiles, {self.left_out} without tissue left out"


class Cutting(NamedTuple):
    """An open slide and its grid."""

    settings: TilesSettings
    slide: Any
    grid: Grid


def check_tiles(settings: TilesSettings) -> None:
    """See that the slide can be read and has the magnification. Raises ConfigError or DataError."""
    cut = settings.cut
    with closing(open_slide(settings.slide)) as slide:
        grid_of(slide, settings.slide, cut)


def open_tiles(opening: Opening[TilesSettings]) -> Cutting:
    """Open the slide. Raises DataError."""
    settings = opening.settings
    slide = open_slide(settings.slide)
    return Cutting(settings, slide, grid_of(slide, settings.slide, settings.cut))


def tiles_announcement(opened: Cutting, _left: float) -> list[str]:
    """Says what is cut, and into how many tiles."""
    settings, _, grid = opened
    return [
        f"cut {settings.slide} (scanned at {grid.scanned:g}x) at {settings.magnification:g}x into {len(grid.places)} "
        f"tiles of {settings.size} x {settings.size} pixels; those with less than {100 * settings.tissue:g} % tissue "
        "are left out"
    ]


def tiles_units(opened: Cutting) -> list[Unit]:
    """A unit a block of places, row by row."""
    places = opened.grid.places
    return [
        Unit(tuple(_name(x, y) for x, y in places[start : start + BLOCK]), (start,))
        for start in range(0, len(places), BLOCK)
    ]


def tiles_work(opened: Cutting) -> Work[TileRow]:
    """Cuts the tiles of a unit; those with tissue are kept beside the rows, as PNG files by their name."""
    settings, slide, grid = opened

    def work(unit: Unit) -> Done[TileRow]:
        start = int(unit.what[0])
        rows, files = [], {}
        for place in grid.places[start : start + len(unit.keys)]:
            tile = read_tile(slide, settings.slide, place, grid.side, settings.size)
            share = tissue_share(tile)
            row = TileRow(*place, share, share >= settings.tissue)
            rows.append(row)
            if row.kept:
                png = io.BytesIO()
                tile.save(png, "PNG")
                files[f"{row.key}.png"] = png.getvalue()
        return Done(rows, files)

    return work


def keep_tiles(folder: RunFolder, notes: Notes) -> None:
    """Write the tiles of a unit. Raises RunError."""
    for name, png in notes.items():
        replace_bytes(folder.path / name, png)


def publish_tiles(folder: RunFolder, opened: Cutting, _tell: Tell) -> TilesSummary:
    """Write tiles.json, which says whose tiles these are, and tiles.csv; the slide is closed. Raises RunError."""
    settings, slide, grid = opened
    kept = [row for row in read_journal(folder.path / _ROWS, FORM) if row.kept]
    cut = asdict(settings.cut)
    origin = {"schema_version": _VERSION, "slide": settings.slide.name, "hash": _hash(slide), **cut}
    replace_text(folder.path / "tiles.json", json.dumps(origin, indent=2) + "\n")
    table = folder.path / "tiles.csv"
    replace_text(table, _csv(kept, settings.magnification))
    slide.close()
    left_out = len(grid.places) - len(kept)
    return TilesSummary(settings.slide.name, grid.scanned, **cut, tiles=len(kept), left_out=left_out, list=str(table))


def _csv(rows: Sequence[TileRow], magnification: float) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["id", "path", "x", "y", "magnification", "tissue"])
    writer.writerows(
        [row.key, f"{row.key}.png", row.x, row.y, f"{magnification:g}", f"{row.tissue:.4f}"] for row in rows
    )
    return table.getvalue()


def _name(x: int, y: int) -> str:
    return f"{x}_{y}"


def _hash(slide: Any) -> str | None:
    """The hash by which openslide tells slides apart."""
    found = slide.properties.get("openslide.quickhash-1")
    return None if found is None else str(found)


def _environment(opened: Cutting) -> dict[str, Any]:
    return {"slide": {"name": opened.settings.slide.name, "hash": _hash(opened.slide)}}


TILES: Kind[TilesSettings, Cutting, TileRow, TilesSummary] = Kind(
    name="tiles",
    settings=TilesSettings,
    settings_file="tiles.yaml",
    rows_file=_ROWS,
    form=FORM,
    check=check_tiles,
    open=open_tiles,
    units=tiles_units,
    cost=tiles_announcement,
    work=tiles_work,
    keep=keep_tiles,
    environment=_environment,
    publish=publish_tiles,
    holding=Holding("set of tiles", alone=True),
)
