import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from medrobust.cli import app
from medrobust.data.slides import Cut, tissue_share
from medrobust.errors import ConfigError, DataError, RunError
from medrobust.jobs import tiles
from medrobust.jobs.executors import here
from medrobust.jobs.job import carry_out
from medrobust.jobs.tiles import TILES, TilesSummary
from medrobust.jobs.tiles_settings import TilesSettings
from medrobust.tell import SILENT, Tell

pytest.importorskip("openslide")
tifffile = pytest.importorskip("tifffile")
APERIO = "Aperio Image Library v10\n512x384 |AppMag = 20|MPP = 0.5|User = Zimmermann"
WIDTH, HEIGHT = 512, 384


@pytest.fixture(scope="module")
def scan() -> np.ndarray:
    """White glass with stained tissue on the left, of two colours in a grid of 4 pixels."""
    pixels = np.full((HEIGHT, WIDTH, 3), 245, dtype=np.uint8)
    pixels[:256, :256] = (200, 80, 150)
    pixels[:256, :256][(np.indices((256, 256)) // 4).sum(axis=0) % 2 == 1] = (120, 40, 180)
    return pixels


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, scan: np.ndarray) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "case.svs", scan, APERIO)


def write_slide(path: Path, scan: np.ndarray, description: str, levels: tuple[int, ...] = (1, 2)) -> Path:
    """A tiled pyramid as a scanner writes it."""
    options: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        for level in levels:
            height, width = scan.shape[0] // level, scan.shape[1] // level
            mean = scan.reshape(height, level, width, level, 3).mean(axis=(1, 3)).round().astype(np.uint8)
            file.write(mean, description=description if level == 1 else None, subfiletype=int(level > 1), **options)
    return path


def cut_tiles(slide: Path, cut: Cut, out: Path, tell: Tell = SILENT) -> TilesSummary:
    return carry_out(TILES, TilesSettings(slide=slide, **vars(cut)), out, execute=here, tell=tell)


def listed(out: Path) -> list[dict[str, str]]:
    with (out / "tiles.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def pixels_of(path: Path) -> np.ndarray:
    with Pillow.open(path) as tile:
        return np.asarray(tile)


def test_tiles_at_the_scanned_magnification_are_the_scan_itself(tmp_path: Path, slide: Path, scan: np.ndarray) -> None:
    found = cut_tiles(slide, Cut(20.0, 64), tmp_path / "t")
    assert (found.scanned_at, found.tiles, found.left_out) == (20, 16, 8 * 6 - 16)
    rows = listed(tmp_path / "t")
    assert [row["id"] for row in rows[:5]] == ["0_0", "64_0", "128_0", "192_0", "0_64"]
    for row in rows:
        x, y = int(row["x"]), int(row["y"])
        assert np.array_equal(pixels_of(tmp_path / "t" / row["path"]), scan[y : y + 64, x : x + 64])
        assert float(row["tissue"]) == 1


def test_a_lower_magnification_covers_more_of_the_slide(tmp_path: Path, slide: Path, scan: np.ndarray) -> None:
    found = cut_tiles(slide, Cut(10.0, 64), tmp_path / "t")
    assert found.tiles == 4
    assert [row["id"] for row in listed(tmp_path / "t")] == ["0_0", "128_0", "0_128", "128_128"]
    mean = scan[:128, :128].reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(pixels_of(tmp_path / "t" / "0_0.png") - mean).max() <= 1
    between = cut_tiles(slide, Cut(8.0, 40), tmp_path / "u")  # 2.5 pixels of the scan for each
    assert between.tiles + between.left_out == 5 * 3
    assert pixels_of(tmp_path / "u" / "0_0.png").shape == (40, 40, 3)


def test_neighbours_share_the_overlap(tmp_path: Path, slide: Path) -> None:
    cut_tiles(slide, Cut(20.0, 64, overlap=16), tmp_path / "t")
    assert sorted({int(row["x"]) for row in listed(tmp_path / "t")}) == [0, 48, 96, 144, 192, 240]
    left, right = pixels_of(tmp_path / "t" / "0_0.png"), pixels_of(tmp_path / "t" / "48_0.png")
    assert np.array_equal(left[:, 48:], right[:, :16])


@pytest.mark.parametrize(("least", "columns"), [(0.25, [0, 96, 192]), (0.7, [0, 96]), (0.0, [0, 96, 192, 288, 384])])
def test_background_is_left_out_by_its_share_of_tissue(
    tmp_path: Path, slide: Path, least: float, columns: list[int]
) -> None:
    cut_tiles(slide, Cut(20.0, 96, tissue=least), tmp_path / "t")
    rows = [row for row in listed(tmp_path / "t") if row["y"] == "0"]
    assert [int(row["x"]) for row in rows] == columns
    assert float(rows[-1]["tissue"]) == pytest.approx({192: 64 / 96, 96: 1, 384: 0}[columns[-1]], abs=1e-4)
    assert (tmp_path / "t" / "288_0.png").exists() == (least == 0)


def test_glass_grey_and_ink_are_no_tissue() -> None:
    for colour, share in {(255, 255, 255): 0, (128, 128, 128): 0, (9, 0, 9): 0, (240, 200, 220): 1}.items():
        assert tissue_share(Pillow.new("RGB", (4, 4), colour)) == share


def test_microns_a_pixel_stand_in_for_the_objective(tmp_path: Path, scan: np.ndarray) -> None:
    slide = write_slide(tmp_path / "a.svs", scan, "Aperio Image Library v10\n512x384 |MPP = 0.2526")
    found = cut_tiles(slide, Cut(40.0, 64), tmp_path / "t")
    assert found.scanned_at == pytest.approx(39.59, abs=0.01)
    assert found.tiles == 16  # taken as 40x


def test_a_magnification_that_is_not_there_is_refused(tmp_path: Path, slide: Path, scan: np.ndarray) -> None:
    with pytest.raises(
        DataError, match=r"case\.svs was scanned at 20x, asked for 40x; pass --magnification 20 or less"
    ):
        cut_tiles(slide, Cut(40.0, 64), tmp_path / "t")
    plain = write_slide(tmp_path / "plain.tif", scan, "none")
    with pytest.raises(DataError, match=r"plain\.tif says neither its objective power nor its microns per pixel"):
        cut_tiles(plain, Cut(10.0, 64), tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_an_interrupted_cut_goes_on_to_the_same_bytes(
    tmp_path: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "BLOCK", 8)
    cut_tiles(slide, Cut(20.0, 64), tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop(title: str, done: int, total: int) -> None:
        if done == 2:
            raise StopError

    with pytest.raises(StopError):
        cut_tiles(slide, Cut(20.0, 64), tmp_path / "t", Tell(progress=stop))
    assert not (tmp_path / "t" / "tiles.csv").exists()
    (tmp_path / "t" / ".64_64.png.7.tmp").write_bytes(b"half")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "t").glob("*.png")}
    assert len(before) == 8  # of two rows of eight, those with tissue
    cut_tiles(slide, Cut(20.0, 64), tmp_path / "t")
    for name, changed in before.items():
        assert (tmp_path / "t" / name).stat().st_mtime_ns == changed
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "t" / path.name).read_bytes() == path.read_bytes()


def test_a_folder_with_anything_else_is_refused(tmp_path: Path, slide: Path, scan: np.ndarray) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.docx").write_text("years of work")
    with pytest.raises(RunError, match=r"other holds other files \(thesis\.docx\); use another --out"):
        cut_tiles(slide, Cut(20.0, 64), tmp_path / "other")
    with pytest.raises(RunError, match=r"thesis\.docx: File exists; use another --out"):
        cut_tiles(slide, Cut(20.0, 64), tmp_path / "other" / "thesis.docx")
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles" / "0_0.png").write_bytes(b"mine")
    with pytest.raises(RunError, match=r"holds other files \(0_0\.png\)"):
        cut_tiles(slide, Cut(20.0, 64), tmp_path / "tiles")
    cut_tiles(slide, Cut(20.0, 64), tmp_path / "t")
    with pytest.raises(RunError, match=r"holds a set of tiles with size = 64, asked for 32"):
        cut_tiles(slide, Cut(20.0, 32), tmp_path / "t")
    another = write_slide(tmp_path / "case.svs", 255 - scan, APERIO)
    with pytest.raises(RunError, match="was begun with slide hash = "):
        cut_tiles(another, Cut(20.0, 64), tmp_path / "t")


@pytest.mark.parametrize(
    "values",
    [(0.0, 64), (float("nan"), 64), (9.0, 0), (9.0, 64, 64), (9.0, 64, -1), (9.0, 64, 0, 1.5), (9.0, 64, 0, -0.1)],
)
def test_numbers_that_cannot_be_meant_are_refused(values: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Cut(*values)


def test_what_is_no_slide_is_refused(tmp_path: Path, slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.svs").write_bytes(b"no slide")
    with pytest.raises(DataError, match=r"a\.svs is not a slide that openslide can read"):
        cut_tiles(tmp_path / "a.svs", Cut(10.0, 64), tmp_path / "t")
    with pytest.raises(DataError, match="there is no file"):
        cut_tiles(tmp_path / "none.svs", Cut(10.0, 64), tmp_path / "t")
    monkeypatch.setattr("medrobust.data.decoded.MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(DataError, match=r"64 x 64 pixels .*take a higher magnification"):
        cut_tiles(slide, Cut(20.0, 64), tmp_path / "t")
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(DataError, match=r'pip install "medrobust\[wsi\]"'):
        cut_tiles(slide, Cut(10.0, 64), tmp_path / "t")


def test_the_command(tmp_path: Path, slide: Path) -> None:
    words = ["data", "tiles", str(slide), "--magnification", "20", "--size", "64", "--out", str(tmp_path / "t")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 't' / 'tiles.csv'}: 16 tiles, 32 without tissue left out\n"
    assert "scanned at 20x" in done.stderr
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert (found["schema_version"], found["tiles"], found["left_out"]) == (1, 16, 32)
    refused = CliRunner().invoke(app, [*words[:3], "--magnification", "40", *words[5:-1], str(tmp_path / "u")])
    assert refused.exit_code == 2
    assert refused.stderr.startswith("medrobust: ")
    for path in (tmp_path / "t").iterdir():
        assert b"Zimmermann" not in path.read_bytes()


def test_the_builtin_model_says_the_size(tmp_path: Path, slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    def note(_kind: object, settings: TilesSettings, _out: Path, **_more: object) -> TilesSummary:
        found.append(settings.size)
        return TilesSummary("case.svs", 20, **vars(settings.cut), tiles=0, left_out=0, list="")

    monkeypatch.setattr("medrobust.jobs.job.carry_out", note)
    CliRunner().invoke(app, ["data", "tiles", str(slide), "--magnification", "20", "--out", str(tmp_path / "t")])
    assert found == [56]
