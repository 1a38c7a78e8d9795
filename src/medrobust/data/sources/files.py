"""Labelled image files: chosen, decoded once before anything else starts, then read when asked for."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from medrobust.data.image import open_image
from medrobust.data.sources.selection import balanced
from medrobust.data.task import Dataset, Task
from medrobust.errors import BrokenImageError, DataError
from medrobust.types import Image, Preprocess

_THREADS = 4  # each holds one decoded image


@runtime_checkable
class OnDisk(Protocol):
    """An image file, and what it is called."""

    @property
    def id(self) -> str: ...

    @property
    def path(self) -> Path: ...


F = TypeVar("F", bound=OnDisk)


class LabelledFile(NamedTuple):
    """One image on disk, before it is opened."""

    id: str
    path: Path
    label: int


def open_files(
    listing: Sequence[LabelledFile],
    task: Task,
    *,
    source: str,
    preprocess: Preprocess,
    split: str,
    skip_broken: bool,
    limit: int | None,
) -> Dataset:
    """Those files as a data set, after each of the selected ones has been decoded once.

    Raises `BrokenImageError` for the first file that cannot be decoded, unless broken ones are to be skipped, and
    `DataError` when nothing is left.
    """
    chosen = [listing[row] for row in balanced([file.label for file in listing], limit)]
    kept, broken = decodable(chosen, preprocess, skip_broken=skip_broken)
    if not kept:
        raise DataError(f"split {split} of {source} has no image left: all {len(chosen)} are broken")

    def read(i: int) -> Image:
        return open_image(kept[i].path, preprocess)

    return Dataset(
        task=task,
        ids=tuple(file.id for file in kept),
        targets=tuple(file.label for file in kept),
        read=read,
        source=source,
        split=split,
        skipped=broken,
    )


def decodable(files: Sequence[F], preprocess: Preprocess, *, skip_broken: bool) -> tuple[list[F], tuple[str, ...]]:
    """The files that can be decoded, and the ids of those that cannot.

    Raises `BrokenImageError` for the first that cannot, unless broken ones are to be skipped.
    """
    broken = _broken(files, preprocess)
    if broken and not skip_broken:
        first, *others = broken.values()
        more = f" (and {len(others)} more of {len(files)} images)" if others else ""
        raise BrokenImageError(f"{first}{more}; mend or remove it, or pass --skip-broken") from first
    return [file for file in files if file.id not in broken], tuple(broken)


def _broken(files: Sequence[F], preprocess: Preprocess) -> dict[str, BrokenImageError]:
    def attempt(file: F) -> BrokenImageError | None:
        try:
            open_image(file.path, preprocess)
        except BrokenImageError as error:
            return error
        return None

    with ThreadPoolExecutor(_THREADS) as threads:
        results = list(threads.map(attempt, files))
    return {file.id: error for file, error in zip(files, results, strict=True) if error is not None}
