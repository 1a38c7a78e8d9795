"""One image looked at: whether it can be read, and what its pixels are."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from medrobust.data.image import prepare_image
from medrobust.data.sources.inventory import ListedImage
from medrobust.errors import DataError
from medrobust.types import Preprocess

VERSION = 1
_THREADS = 4  # each holds one decoded image


@dataclass(frozen=True)
class Look:
    """The outcome of decoding one image; `number` is its place in the inventory.

    `digest` is the SHA-256 of the decoded pixels. `blank`: every pixel, or every one that the model would see, is the
    same. `broken`: the reason for which a run would refuse it.
    """

    number: int
    width: int = 0
    height: int = 0
    kind: str = ""
    frames: int = 1
    digest: str = ""
    blank: bool = False
    broken: str = ""
    schema_version: int = VERSION

    @property
    def key(self) -> int:
        """Its place, which names it: ids may stand in a source twice, which is one of the faults that a check finds."""
        return self.number

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height


def look_at(images: Sequence[ListedImage], numbers: Sequence[int], preprocess: Preprocess) -> list[Look]:
    """Decode those images, several at once, and look at each."""
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(partial(_look, images, preprocess=preprocess), numbers))


def _look(images: Sequence[ListedImage], number: int, *, preprocess: Preprocess) -> Look:
    try:
        decoded = images[number].decode()
        seen = prepare_image(decoded, preprocess)
    except DataError as error:
        return Look(number, broken=str(error))
    pixels = np.ascontiguousarray(np.asarray(decoded.pixels))
    digest = hashlib.sha256(f"{pixels.dtype} {pixels.shape}".encode())
    digest.update(pixels.data)
    blank = bool(seen.min() == seen.max() or pixels.min() == pixels.max())
    return Look(number, *decoded.size, decoded.kind, decoded.frames, digest.hexdigest(), blank)
