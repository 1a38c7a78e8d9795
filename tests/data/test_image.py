import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image as Pillow
from PIL import ImageCms

from medrobust.data import image as image_module
from medrobust.data.image import from_array, open_image
from medrobust.errors import BrokenImageError, ConfigError, DataError
from medrobust.types import Preprocess

SAME = Preprocess(size=8, resize=8, crop=False, interpolation="nearest")
CROP = Preprocess(size=8, resize=8)
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (8, 8), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (8, 8), dtype=np.uint16)


def expected(pixels: np.ndarray) -> torch.Tensor:
    """Pixels in [0, 1], H x W or H x W x 3, as an image."""
    colour = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
    return torch.from_numpy(np.ascontiguousarray(colour.transpose(2, 0, 1))).float()


def save(path: Path, picture: Pillow.Image, **options: object) -> Path:
    picture.save(path, **options)
    return path


def mode_of(path: Path) -> str:
    with Pillow.open(path) as picture:
        return picture.mode


def png(width: int, height: int) -> bytes:
    """A PNG whose header promises a size and whose body holds almost nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 16)) + chunk(b"IEND", b"")
    )


def test_eight_bit_colour_and_grey_keep_every_pixel(tmp_path: Path) -> None:
    for pixels in (RGB, GREY):
        path = save(tmp_path / "a.png", Pillow.fromarray(pixels))
        assert torch.equal(open_image(path, SAME), expected(pixels.astype(np.float32) / np.float32(255)))
        assert torch.equal(from_array(pixels, SAME), open_image(str(path), SAME))


@pytest.mark.parametrize("preprocess", [SAME, CROP])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_not_rounded_to_eight(tmp_path: Path, name: str, preprocess: Preprocess) -> None:
    path = save(tmp_path / name, Pillow.fromarray(DEEP))
    assert mode_of(path) == "I;16"
    torch.testing.assert_close(open_image(path, preprocess), expected(DEEP / 65535), rtol=0, atol=1e-6)
    assert torch.equal(open_image(path, preprocess), from_array(DEEP, preprocess))


def test_big_endian_sixteen_bits(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Pillow.frombytes("I;16B", (8, 8), DEEP.astype(">u2").tobytes()))
    assert mode_of(path) == "I;16B"
    torch.testing.assert_close(open_image(path, SAME), expected(DEEP / 65535), rtol=0, atol=1e-6)


def test_resizing_keeps_sixteen_bits(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(30000, 30200, 64).astype(np.uint16), (64, 1))
    values = open_image(save(tmp_path / "a.png", Pillow.fromarray(ramp)), Preprocess(size=16, resize=16))
    assert len(values[0, 8].unique()) == 16  # within one step of 8 bits


@pytest.mark.parametrize("dark", [255, 65535])
def test_thirty_two_bit_integers_are_sixteen_bit_values_dark_or_not(tmp_path: Path, dark: int) -> None:
    pixels = np.full((8, 8), dark, dtype=np.int32)
    path = save(tmp_path / "a.tif", Pillow.fromarray(pixels))
    assert mode_of(path) == "I"
    torch.testing.assert_close(open_image(path, SAME), expected(pixels / 65535))


def test_float_files_hold_zero_to_one(tmp_path: Path) -> None:
    pixels = RNG.random((8, 8), dtype=np.float32)
    path = save(tmp_path / "a.tif", Pillow.fromarray(pixels))
    torch.testing.assert_close(open_image(path, SAME), expected(pixels), rtol=0, atol=0)


@pytest.mark.parametrize("value", [-0.1, 1.5, 255.0, float("nan"), float("inf")])
def test_floats_outside_are_refused(tmp_path: Path, value: float) -> None:
    pixels = np.full((8, 8), 0.5, dtype=np.float32)
    pixels[3, 4] = value
    with pytest.raises(BrokenImageError, match=r"a\.tif has pixels .*expected"):
        open_image(save(tmp_path / "a.tif", Pillow.fromarray(pixels)), SAME)
    with pytest.raises(DataError, match=r"the array has pixels .*expected"):
        from_array(pixels, SAME)


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_outside_are_refused(tmp_path: Path, value: int) -> None:
    path = save(tmp_path / "a.tif", Pillow.fromarray(np.full((8, 8), value, dtype=np.int32)))
    with pytest.raises(BrokenImageError, match=f"pixels from {value}"):
        open_image(path, SAME)


def test_one_bit_images_are_black_and_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Pillow.fromarray(GREY > 127))
    assert mode_of(path) == "1"
    assert torch.equal(open_image(path, SAME), expected((GREY > 127).astype(np.float32)))


def test_palette_images_show_their_colours(tmp_path: Path) -> None:
    picture = Pillow.fromarray(GREY % 2)
    picture.putpalette([10, 20, 30, 200, 100, 0])
    path = save(tmp_path / "a.png", picture)
    assert mode_of(path) == "P"
    colours = np.array([[10, 20, 30], [200, 100, 0]], dtype=np.float32)[GREY % 2] / np.float32(255)
    assert torch.equal(open_image(path, SAME), expected(colours))


def test_cmyk(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Pillow.new("CMYK", (8, 8), (0, 255, 0, 0)))  # pure magenta
    assert open_image(path, SAME)[:, 0, 0].tolist() == [1, 0, 1]


def test_ycbcr(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Pillow.new("YCbCr", (8, 8), (76, 85, 255)))  # red, ITU-R BT.601
    torch.testing.assert_close(open_image(path, SAME)[:, 0, 0], torch.tensor([1.0, 0, 0]), rtol=0, atol=2 / 255)


def test_lab(tmp_path: Path) -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    picture = ImageCms.applyTransform(Pillow.new("RGB", (8, 8), (200, 60, 90)), to_lab)
    path = save(tmp_path / "a.tif", picture)
    assert mode_of(path) == "LAB"
    colour = torch.tensor([200, 60, 90]) / 255
    torch.testing.assert_close(open_image(path, SAME)[:, 0, 0], colour, rtol=0, atol=4 / 255)


@pytest.mark.parametrize(("mode", "clear", "ink"), [("RGBA", (9, 9, 9, 0), (9, 9, 9, 255)), ("LA", (9, 0), (9, 255))])
def test_transparent_pixels_show_white(tmp_path: Path, mode: str, clear: tuple[int, ...], ink: tuple[int, ...]) -> None:
    picture = Pillow.new(mode, (8, 8), clear)
    picture.putpixel((2, 3), ink)
    pixels = open_image(save(tmp_path / "a.png", picture), SAME)
    assert pixels[:, 3, 2].tolist() == pytest.approx([9 / 255] * 3)
    assert pixels.sum().item() == pytest.approx(3 * 63 + 3 * 9 / 255)


def test_a_transparent_palette_entry_shows_white(tmp_path: Path) -> None:
    picture = Pillow.new("P", (8, 8), 1)
    picture.putpalette([10, 20, 30, 200, 100, 0])
    path = save(tmp_path / "a.png", picture, transparency=1)
    assert open_image(path, SAME).unique().tolist() == [1]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_pictures_stand_upright(tmp_path: Path, name: str) -> None:
    pixels = np.zeros((16, 16), dtype=np.uint8)
    pixels[:8] = 255  # bright top
    exif = Pillow.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown, rotate by 90 degrees clockwise
    path = save(tmp_path / name, Pillow.fromarray(pixels).convert("RGB"), exif=exif)
    upright = open_image(path, Preprocess(size=16, resize=16))
    assert upright[:, :, 12:].mean() > 0.95  # the top went to the right
    assert upright[:, :, :4].mean() < 0.05


@pytest.mark.parametrize("name", ["a.gif", "a.tif"])
def test_the_first_frame_counts(tmp_path: Path, name: str) -> None:
    frames = [Pillow.new("L", (8, 8), value) for value in (255, 0, 0)]
    path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
    assert open_image(path, SAME).unique().tolist() == [1]


@pytest.mark.parametrize(("width", "height"), [(8, 4), (4, 8), (30, 10), (11, 33), (1, 1), (9, 10)])
@pytest.mark.parametrize("crop", [True, False])
def test_any_size_becomes_a_square(width: int, height: int, crop: bool) -> None:
    image = from_array(np.full((height, width), 128, dtype=np.uint8), Preprocess(size=8, resize=10, crop=crop))
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.float32
    assert image.unique().tolist() == pytest.approx([128 / 255])


def test_crop_cuts_the_centre_and_squash_keeps_the_edges() -> None:
    pixels = np.zeros((8, 24), dtype=np.uint8)
    pixels[:, 8:16] = 255
    assert from_array(pixels, Preprocess(8, 8, "nearest", crop=True)).min() == 1
    squashed = from_array(pixels, Preprocess(6, 6, "nearest", crop=False))
    assert squashed[0, 0].tolist() == [0, 0, 1, 1, 0, 0]


def test_resize_then_crop_is_what_clips_processor_does() -> None:
    """The reference: shorter side by integer division, Pillow's bicubic, centre crop rounded down."""
    transformers = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    pixels = RNG.integers(0, 256, (37, 52, 3), dtype=np.uint8)
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 20, "width": 20}, do_normalize=False
    )
    reference = processor(Pillow.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    assert np.allclose(from_array(pixels, Preprocess(size=20, resize=24)).numpy(), reference, atol=1e-6)


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.uint16]),
        st.one_of(
            arrays.array_shapes(min_dims=2, max_dims=2, max_side=12),
            st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)),
        ),
    ),
    st.booleans(),
    st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
)
def test_every_array_stays_in_range(pixels: np.ndarray, crop: bool, interpolation: str) -> None:
    image = from_array(pixels, Preprocess(8, 9, interpolation, crop))  # type: ignore[arg-type]
    assert image.shape == (3, 8, 8)
    assert 0 <= image.min() <= image.max() <= 1


def test_bicubic_overshoot_is_clipped_in_deep_images() -> None:
    pixels = np.zeros((8, 8), dtype=np.uint16)
    pixels[:, 4:] = 65535
    image = from_array(pixels, Preprocess(32, 32))
    assert (image.min(), image.max()) == (0, 1)


@pytest.mark.parametrize("shape", [(8,), (0, 8), (8, 0, 3), (8, 8, 1), (8, 8, 4), (2, 8, 8, 3)])
def test_arrays_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="expected H x W or H x W x 3"):
        from_array(np.zeros(shape, dtype=np.uint8), SAME)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, bool, complex])
def test_arrays_of_another_type_are_refused(dtype: type) -> None:
    with pytest.raises(DataError, match="expected uint8, uint16 or floats"):
        from_array(np.zeros((8, 8), dtype=dtype), SAME)


def test_broken_files_are_named_with_the_reason(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png", Pillow.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))).read_bytes()
    jpeg = save(tmp_path / "good.jpg", Pillow.fromarray(RGB)).read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    (tmp_path / "folder.png").mkdir()
    cases = {
        "empty.png": (b"", "empty file"),
        "text.png": (b"not an image", "not an image in a format"),
        "cut.png": (good[: len(good) // 2], "cannot be decoded"),
        "cut.jpg": (jpeg[: len(jpeg) - 40], "cannot be decoded"),
        "flipped.png": (bytes(flipped), "cannot be decoded"),
        "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "not an image in a format"),
        "missing.png": (None, "No such file"),
        "folder.png": (None, "directory"),
    }
    for name, (content, reason) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(BrokenImageError, match=reason) as raised:
            open_image(tmp_path / name, CROP)
        assert str(tmp_path / name) in str(raised.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (60_000, 60_000)])
def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path, width: int, height: int) -> None:
    limit = Pillow.MAX_IMAGE_PIXELS
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height))
    with pytest.raises(BrokenImageError, match=r"bomb\.png has .*cut it into tiles"):
        open_image(path, CROP)
    assert limit == Pillow.MAX_IMAGE_PIXELS


def test_the_limit_holds_where_a_program_has_switched_pillows_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", None)
    path = tmp_path / "bomb.png"
    path.write_bytes(png(10_000, 9_000))
    with pytest.raises(BrokenImageError, match="has 10000 x 9000 pixels"):
        open_image(path, CROP)


def test_a_long_strip_is_refused_rather_than_enlarged() -> None:
    strip = np.zeros((1, 100_000), dtype=np.uint8)
    with pytest.raises(DataError, match="224 x 22400000 pixels"):
        from_array(strip, Preprocess(size=224, resize=224))
    assert image_module.MAX_PIXELS < 224 * 22_400_000


def test_a_crop_larger_than_the_resized_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="resize must be at least size"):
        from_array(RGB, Preprocess(size=8, resize=7))
