"""Pictures on a black square, the input of chest X-ray models, and resizing without an anti-aliasing filter."""

import numpy as np
import torch
from PIL import Image as Pillow
from torch.nn import functional as F

from medrobust.data.decoded import check_size
from medrobust.types import Canvas

Pixels = Pillow.Image | np.ndarray  # 8-bit RGB, or float32 in [0, 1], H x W or H x W x 3
_GREY = (0.299, 0.587, 0.114)  # what Pillow weighs red, green and blue with


def laid_out(pixels: Pixels, canvas: Canvas) -> Pixels:
    """The picture in grey in the middle of a black square; 8-bit pictures stay 8-bit RGB, deeper ones are H x W.

    Raises `DataError` where the square would be too large.
    """
    image = pixels if isinstance(pixels, Pillow.Image) else _deep_grey(pixels)
    side = canvas.size
    if canvas.fit:
        longer = max(image.size)
        width, height = (max(1, side * length // longer) for length in image.size)
        image = image.resize((width, height), Pillow.Resampling.LANCZOS)
    side = max(side, *image.size)
    check_size(side, side)
    square = Pillow.new("F" if image.mode == "F" else "L", (side, side))
    square.paste(image.convert(square.mode), ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square).clip(0, 1) if square.mode == "F" else square.convert("RGB")


def resampled(pixels: Pixels, size: int) -> np.ndarray:
    """Bicubic at `size` x `size` points, without a filter before: H x W x 3 float32, not yet clipped to [0, 1]."""
    whole = isinstance(pixels, Pillow.Image)
    array = np.asarray(pixels, dtype=np.float32) / np.float32(255 if whole else 1)
    colours = array if array.ndim == 3 else np.stack([array] * 3, axis=-1)
    channels = torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1)))
    found = F.interpolate(channels[None], (size, size), mode="bicubic", align_corners=False)[0]
    return found.numpy().transpose(1, 2, 0)


def _deep_grey(pixels: np.ndarray) -> Pillow.Image:
    grey = pixels if pixels.ndim == 2 else pixels @ np.array(_GREY, dtype=np.float32)
    return Pillow.fromarray(np.ascontiguousarray(grey, dtype=np.float32))
