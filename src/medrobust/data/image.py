"""Pixels of a file or an array as an `Image`, the space in which every radius is measured."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from medrobust.data.canvas import laid_out, resampled
from medrobust.data.decoded import MAX_PIXELS, Decoded, check_size
from medrobust.data.dicom import is_dicom, read_dicom
from medrobust.errors import BrokenImageError, ConfigError, DataError
from medrobust.types import Image, Preprocess

# Named one by one, because Pillow hands others (EPS) to programs outside.
_FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "PPM")
_KINDS = {
    "1": "1-bit grey",
    "L": "8-bit grey",
    "LA": "8-bit grey with transparency",
    "P": "palette",
    "RGB": "8-bit RGB",
    "RGBA": "8-bit RGBA",
    "I;16": "16-bit grey",
    "I;16L": "16-bit grey",
    "I;16B": "16-bit grey",
    "I": "32-bit grey",
    "F": "float grey",
}
_RESAMPLING = {
    "nearest": Pillow.Resampling.NEAREST,
    "bilinear": Pillow.Resampling.BILINEAR,
    "bicubic": Pillow.Resampling.BICUBIC,
    "lanczos": Pillow.Resampling.LANCZOS,
}


def open_image(path: str | Path, preprocess: Preprocess) -> Image:
    """The first frame of an image file, upright, as float32 in [0, 1] of `size` x `size` pixels.

    Transparent pixels show white, the colour of an empty slide. 16 bits stay 16 bits in grey files (65535 is 1.0;
    Pillow reads 16-bit colour as 8 bits); 32-bit integers count as 16-bit values; float files must hold [0, 1]. No
    window is applied: a 12-bit image in a 16-bit file stays dark. Small images are enlarged. DICOM files, told by their
    suffix or their first bytes, go by `medrobust.data.dicom.read_dicom`: rescaled, windowed, and at full depth.

    Raises `BrokenImageError`, which names the file and the reason, when it cannot be decoded or has more than
    `MAX_PIXELS` pixels, and `ConfigError` when the pre-processing cuts out more than it resized to.
    """
    try:
        return prepare_image(decode(Path(path)), preprocess)
    except DataError as error:
        raise BrokenImageError(f"{path} {error}") from error


def from_array(array: np.ndarray, preprocess: Preprocess) -> Image:
    """Grey `H x W` (uint8, uint16, or float in [0, 1]) or colour `H x W x 3` as an `Image`, by the rules of a file.

    Raises `DataError` when shape, type or values are others.
    """
    try:
        return prepare_image(decoded_array(array), preprocess)
    except DataError as error:
        raise DataError(f"the array {error}") from error


def decode(path: Path) -> Decoded:
    """The first frame of an image file at its own size, by the rules of `open_image`.

    Raises `DataError`, whose sentence begins after the file's name.
    """
    try:
        if path.stat().st_size == 0:
            raise DataError("is an empty file (0 bytes)")
        if is_dicom(path):
            return read_dicom(path)
        with Pillow.open(path, formats=_FORMATS) as opened:  # reads the header only
            return decoded_picture(opened)
    except DataError:
        raise
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise DataError(f"has more than {MAX_PIXELS} pixels; crop it or cut it into tiles") from error
    except UnidentifiedImageError as error:
        raise DataError(f"is not an image in a format that can be read ({', '.join(_FORMATS)})") from error
    except Exception as error:  # Pillow's decoders meet broken bytes with many kinds of exception
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"cannot be decoded: {reason}") from error


def decoded_picture(opened: Pillow.Image) -> Decoded:
    """The first frame of an image of Pillow's, upright, by the rules of `open_image`.

    Raises `DataError`, whose sentence begins after the image's name.
    """
    check_size(opened.width, opened.height)
    kind = _kind(opened)  # before the pixels are loaded, and with them forgotten
    return Decoded(_pixels(ImageOps.exif_transpose(opened)), kind, getattr(opened, "n_frames", 1))


def decoded_array(array: np.ndarray) -> Decoded:
    """An array by the rules of `from_array`. Raises `DataError`, whose sentence begins after the array's name."""
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or 0 in array.shape:
        raise DataError(f"of shape {array.shape} is not an image, expected H x W or H x W x 3 pixels")
    if array.dtype not in (np.uint8, np.uint16) and not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"of {array.dtype} is not an image, expected uint8, uint16 or floats in [0, 1]")
    depth = "float" if np.issubdtype(array.dtype, np.floating) else f"{8 * array.dtype.itemsize}-bit"
    kind = f"{depth} {'grey' if array.ndim == 2 else 'RGB'}"
    if array.dtype == np.uint8:
        return Decoded(Pillow.fromarray(array).convert("RGB"), kind)
    return Decoded(_unit(array, 65535 if array.dtype == np.uint16 else 1), kind)


def _kind(image: Pillow.Image) -> str:
    """The pixel format of a file, in words; Pillow's own name for a rare one."""
    if any(";16" in str(tile) for tile in getattr(image, "tile", [])) and not image.mode.startswith("I"):
        return f"16-bit {image.mode}, read as 8-bit"
    return _KINDS.get(image.mode, image.mode)


def _pixels(image: Pillow.Image) -> Pillow.Image | np.ndarray:
    if image.mode.startswith("I"):
        return _unit(np.asarray(image), 65535)
    if image.mode == "F":
        return _unit(np.asarray(image), 1)
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return image.convert("RGB")


def _unit(pixels: np.ndarray, white: int) -> np.ndarray:
    if not np.isfinite(pixels).all():
        raise DataError("has pixels that are NaN or infinite, expected finite values")
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > white:
        raise DataError(f"has pixels from {low:g} to {high:g}, expected 0 to {white}; rescale them")
    return pixels.astype(np.float32) / np.float32(white)


def prepare_image(decoded: Decoded, preprocess: Preprocess) -> Image:
    """The preprocessed image, a model's input. Raises `DataError` where it would be too large, and `ConfigError`."""
    pixels = decoded.pixels
    if preprocess.crop and preprocess.resize < preprocess.size:
        raise ConfigError(
            f"the shorter side is resized to {preprocess.resize} pixels but {preprocess.size} are cut out; "
            "resize must be at least size"
        )
    if preprocess.canvas is not None:
        pixels = laid_out(pixels, preprocess.canvas)
    if not preprocess.antialias:
        array = resampled(pixels, preprocess.size)
    elif isinstance(pixels, Pillow.Image):
        array = np.asarray(_fit(pixels, preprocess), dtype=np.float32) / np.float32(255)
    else:
        channels = [pixels] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        fitted = [np.asarray(_fit(Pillow.fromarray(channel), preprocess)) for channel in channels]
        array = np.stack([fitted[0]] * 3 if len(fitted) == 1 else fitted, axis=-1)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))).clamp_(0, 1)


def _fit(image: Pillow.Image, preprocess: Preprocess) -> Pillow.Image:
    size, resampling = preprocess.size, _RESAMPLING[preprocess.interpolation]
    if not preprocess.crop:
        return image.resize((size, size), resampling)
    shorter, longer = sorted(image.size)
    target = preprocess.resize * longer // shorter  # rounded down, as CLIP's processors do
    check_size(preprocess.resize, target)
    landscape = image.width >= image.height
    resized = image.resize((target, preprocess.resize) if landscape else (preprocess.resize, target), resampling)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return resized.crop((left, top, left + size, top + size))
