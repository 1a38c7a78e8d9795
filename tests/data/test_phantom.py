import hashlib

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medrobust.data.phantom import draw
from medrobust.errors import DataError

BASOPHIL, EOSINOPHIL, ERYTHROBLAST, IMMATURE, LYMPHOCYTE, MONOCYTE, NEUTROPHIL, PLATELET = range(8)
UM2 = (22 / 112) ** 2  # area of a pixel


def many(label: int, count: int = 12) -> list[np.ndarray]:
    return [draw(label, seed=3, item=f"cell-{i}").astype(float) for i in range(count)]


def purple(image: np.ndarray) -> np.ndarray:
    """Where the nucleus stain is: dark, and green is absorbed most."""
    red, green, blue = np.moveaxis(image, -1, 0)
    return (red < 130) & (green < 85) & (blue > green + 40)


def orange(image: np.ndarray) -> np.ndarray:
    """Where eosin is: red well above green and blue."""
    red, green, blue = np.moveaxis(image, -1, 0)
    return (red > 150) & (red > green + 70) & (red > blue + 55)


def middle(mask: np.ndarray) -> np.ndarray:
    """The part of a mask that is nearest to the centre of the picture."""
    parts, count = ndimage.label(mask)
    if not count:
        return np.zeros_like(mask)
    at = ndimage.distance_transform_edt(parts == 0, return_distances=False, return_indices=True)
    half = mask.shape[0] // 2
    return parts == parts[tuple(at[:, half, half])]


def nucleus(image: np.ndarray) -> np.ndarray:
    return ndimage.binary_opening(purple(image), iterations=1)


def cell_area(image: np.ndarray) -> float:
    """um2 of the cell in the middle, told from the plasma by its darkness."""
    background = np.percentile(image.mean(-1), 97)
    part = middle(ndimage.binary_opening(image.mean(-1) < background - 25, iterations=2))
    return float(ndimage.binary_fill_holes(part).sum()) * UM2


def lobes(image: np.ndarray) -> int:
    """Parts of the nucleus once its filaments are eaten away."""
    depth = ndimage.distance_transform_edt(purple(image))
    _, count = ndimage.label(depth > 0.55 * depth.max())
    return count


def mean(measure, label: int) -> float:
    return float(np.mean([measure(image) for image in many(label)]))


@pytest.mark.parametrize("label", range(8))
@pytest.mark.parametrize("size", [28, 56, 112, 224])
def test_a_picture_is_rgb_bytes_of_the_size_asked_for(label: int, size: int) -> None:
    image = draw(label, seed=0, item="a", size=size)
    assert image.dtype == np.uint8
    assert image.shape == (size, size, 3)
    assert image.flags.writeable
    assert np.ptp(image) > 80


@pytest.mark.parametrize("label", range(8))
def test_the_same_arguments_give_the_same_bytes(label: int) -> None:
    assert draw(label, seed=7, item="a").tobytes() == draw(label, seed=7, item="a").tobytes()


def test_no_two_of_label_seed_and_item_share_a_picture() -> None:
    drawn = [draw(k, seed=s, item=i, size=28).tobytes() for k in range(8) for s in (0, 1) for i in ("a", "b")]
    assert len({hashlib.sha256(image).digest() for image in drawn}) == 32


@pytest.mark.parametrize("label", range(8))
@pytest.mark.parametrize("size", [28, 224])
def test_an_item_is_the_same_cell_at_every_size(label: int, size: int) -> None:
    def shrunk(item: str, size: int) -> np.ndarray:
        image = Image.fromarray(draw(label, seed=0, item=item, size=size))
        return np.asarray(image.resize((28, 28), Image.Resampling.BOX), float)

    same = np.abs(shrunk("a", size) - shrunk("a", 112)).mean()
    other = np.abs(shrunk("a", size) - shrunk("b", 112)).mean()
    assert same < 3
    assert other > 3 * same


@pytest.mark.parametrize("label", [-1, 8])
def test_a_label_outside_the_eight_is_refused(label: int) -> None:
    with pytest.raises(DataError, match=f"label {label} names no blood cell; pass 0 to 7"):
        draw(label, seed=0, item="a")


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be 0 pixels wide"):
        draw(0, seed=0, item="a", size=0)


def test_sizes_of_cells_are_those_of_the_atlas() -> None:
    area = {label: mean(cell_area, label) for label in range(8)}
    for label, (low, high) in {
        EOSINOPHIL: (12, 16), ERYTHROBLAST: (8, 11.5), LYMPHOCYTE: (8, 11.5), MONOCYTE: (13, 18), NEUTROPHIL: (12, 15),
        PLATELET: (2, 4.5),
    }.items():  # fmt: skip
        assert low < 2 * (area[label] / np.pi) ** 0.5 < high, label
    assert area[MONOCYTE] > 1.8 * area[LYMPHOCYTE]
    assert area[LYMPHOCYTE] > 4 * area[PLATELET]


def test_a_platelet_has_no_nucleus_and_a_lymphocyte_little_else() -> None:
    def share(image: np.ndarray) -> float:
        return float(middle(nucleus(image)).sum()) * UM2 / cell_area(image)

    assert mean(share, LYMPHOCYTE) > 0.55
    assert mean(share, ERYTHROBLAST) < 0.75 * mean(share, LYMPHOCYTE)
    assert mean(share, NEUTROPHIL) < 0.5
    assert mean(lambda image: float(nucleus(image).mean()), PLATELET) < 0.01


def test_only_the_eosinophil_is_full_of_orange_granules() -> None:
    share = {label: mean(lambda image: float(orange(image)[28:84, 28:84].mean()), label) for label in range(8)}
    assert share[EOSINOPHIL] > 0.15
    assert all(share[label] < share[EOSINOPHIL] / 4 for label in range(8) if label != EOSINOPHIL), share


def test_nuclei_have_the_lobes_of_the_atlas() -> None:
    assert mean(lobes, NEUTROPHIL) > 3
    assert 1.5 < mean(lobes, EOSINOPHIL) < 2.4
    assert mean(lobes, LYMPHOCYTE) < 1.3
    assert mean(lobes, ERYTHROBLAST) < 1.3


def test_dark_granules_fill_the_basophil_and_cover_its_nucleus() -> None:
    def pieces(image: np.ndarray) -> int:
        return int(ndimage.label(~purple(image)[36:76, 36:76])[1])

    def contrast(image: np.ndarray) -> float:
        part = ndimage.binary_opening(ndimage.binary_closing(purple(image)), iterations=3)
        grey = image.mean(-1)[ndimage.binary_erosion(part)]
        return float(grey.std() / grey.mean())

    assert mean(pieces, BASOPHIL) > 3 * mean(pieces, NEUTROPHIL)
    assert mean(contrast, BASOPHIL) > 1.85 * mean(contrast, NEUTROPHIL)


def test_the_nucleus_of_a_monocyte_is_folded() -> None:
    def solid(image: np.ndarray) -> float:
        """Share of the nucleus in the disc of its own area around its own centre."""
        part = ndimage.binary_fill_holes(middle(nucleus(image)))
        rows, columns = np.nonzero(part)
        row, column = np.mgrid[:112, :112]
        disc = np.hypot(row - rows.mean(), column - columns.mean()) <= (part.sum() / np.pi) ** 0.5
        return float((part & disc).sum() / part.sum())

    assert mean(solid, LYMPHOCYTE) > 0.9
    assert mean(solid, MONOCYTE) < 0.85


def test_one_mean_colour_does_not_tell_the_classes_apart() -> None:
    colours = np.array([[draw(k, seed=1, item=f"{i}", size=28).mean((0, 1)) for i in range(24)] for k in range(8)])
    centres, asked = colours[:, :12].mean(1), colours[:, 12:].reshape(-1, 3)
    nearest = np.linalg.norm(asked[:, None] - centres, axis=-1).argmin(1)
    assert (nearest == np.repeat(np.arange(8), 12)).mean() < 0.55
