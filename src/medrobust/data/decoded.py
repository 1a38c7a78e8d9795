"""The result of a decoder, the same for every file format."""

from typing import NamedTuple

import numpy as np
from PIL import Image as Pillow

from medrobust.errors import DataError

MAX_PIXELS = 89_478_485  # Pillow's own limit between a large image and a decompression bomb


class Decoded(NamedTuple):
    """The first frame of an image at its own size."""

    pixels: Pillow.Image | np.ndarray  # 8-bit RGB as Pillow holds it, or float32 in [0, 1], H x W or H x W x 3
    kind: str  # how the file holds it, for a reader: "16-bit grey", "DICOM MONOCHROME2, 12 bits"
    frames: int = 1  # of which the first is here

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        if isinstance(self.pixels, Pillow.Image):
            return self.pixels.size
        return self.pixels.shape[1], self.pixels.shape[0]


def check_size(width: int, height: int) -> None:
    """Raise `DataError` for an image that would take too much memory."""
    if width * height > MAX_PIXELS:
        raise DataError(
            f"has {width} x {height} pixels (after any enlargement), more than the {MAX_PIXELS} allowed; "
            "crop it or cut it into tiles"
        )
