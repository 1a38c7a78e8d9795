"""Pictures on a black square: where they lie, what is around them, and how they are resized afterwards."""

import numpy as np
import pytest
from PIL import Image as Pillow

from medrobust.data.image import from_array
from medrobust.errors import DataError
from medrobust.types import Canvas, Preprocess

CHEXZERO = Preprocess(224, 224, "bicubic", crop=False, canvas=Canvas(320, fit=True), antialias=False)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def waves(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (128 + 100 * np.sin(rows / 7 + columns / 5)).astype(np.uint8)


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -3/4."""
    d, a = np.abs(distance), -0.75
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """Bicubic on four points a line, the border repeated."""
    old = len(picture)
    at = (np.arange(size) + 0.5) * old / size - 0.5
    weights = np.zeros((size, old))
    for step in range(-1, 3):
        point = np.floor(at).astype(int) + step
        np.add.at(weights, (np.arange(size), point.clip(0, old - 1)), cubic(at - point))
    return weights @ picture @ weights.T


def reference(picture: np.ndarray) -> np.ndarray:
    """The longer side to 320 by Lanczos, black around it, and then to 224, all in units of 255."""
    image = Pillow.fromarray(picture)
    width, height = (320 * length // max(image.size) for length in image.size)
    square = Pillow.new("L", (320, 320))
    square.paste(
        image.resize((width, height), Pillow.Resampling.LANCZOS).convert("L"), ((320 - width) // 2, (320 - height) // 2)
    )
    return np.asarray(square, dtype=np.float64)


@pytest.mark.parametrize("shape", [(400, 500, 3), (500, 123, 3), (50, 80), (320, 320)])
def test_chexzeros_pictures(shape: tuple) -> None:
    picture = noise(*shape)
    found = from_array(picture, CHEXZERO).numpy()
    expected = resized(reference(picture), 224).clip(0, 255) / 255
    assert found.shape == (3, 224, 224)
    for channel in found:
        np.testing.assert_allclose(channel, expected, atol=1e-4)  # a fortieth of a grey level


def test_mean_and_std_before_or_after_the_last_resize_are_the_same() -> None:
    square = reference(noise(400, 500, 3))
    before = resized((square - 101.48761) / 83.43944, 224)
    np.testing.assert_allclose(before, (resized(square, 224) - 101.48761) / 83.43944, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "side", "top", "left"), [((10, 30), 30, 10, 0), ((8, 6), 16, 4, 5), ((40, 20), 40, 0, 10)]
)
def test_a_square_grows_with_the_picture_and_has_a_least_size(
    shape: tuple[int, int], side: int, top: int, left: int
) -> None:
    picture = noise(*shape)
    found = from_array(picture, Preprocess(side, side, "nearest", crop=False, canvas=Canvas(16)))
    expected = np.zeros((side, side), dtype=np.uint8)
    expected[top : top + shape[0], left : left + shape[1]] = picture
    for channel in found.numpy():
        np.testing.assert_allclose(channel, expected / np.float32(255), atol=1e-7)


@pytest.mark.parametrize("preprocess", [CHEXZERO, Preprocess(16, 16, "bicubic", crop=False, canvas=Canvas(16))])
def test_deep_pixels_go_the_same_way(preprocess: Preprocess) -> None:
    picture = waves(40, 50)
    shallow = from_array(picture, preprocess).numpy()
    deep = from_array(picture.astype(np.uint16) * 257, preprocess).numpy()
    np.testing.assert_allclose(deep, shallow, atol=2 / 255)  # rounded to 8 bits along the way
    colours = np.stack([picture, waves(80, 50)[40:], 255 - picture], axis=-1)
    floats = from_array(colours.astype(np.float32) / 255, preprocess).numpy()
    np.testing.assert_allclose(floats, from_array(colours, preprocess).numpy(), atol=2 / 255)
    assert deep.min() >= 0
    assert deep.max() <= 1


@pytest.mark.parametrize("canvas", [Canvas(16), Canvas(16, fit=True)])
def test_a_thin_strip_fits_or_is_refused(canvas: Canvas) -> None:
    preprocess = Preprocess(16, 16, "bicubic", crop=False, canvas=canvas)
    strip = np.full((1, 20_000), 255, dtype=np.uint8)
    if canvas.fit:
        assert from_array(strip, preprocess).amax() == 1
        return
    with pytest.raises(DataError, match=r"has 20000 x 20000 pixels"):
        from_array(strip, preprocess)
