"""Images with one caption each: a folder with a file of captions, or labelled images under captions drawn for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from medrobust.data import load_task, open_dataset, open_image
from medrobust.data.sources.files import decodable
from medrobust.data.sources.folder import SUFFIXES
from medrobust.data.task import Dataset
from medrobust.errors import DataError
from medrobust.pairs.batches import captions_of
from medrobust.pairs.caption_files import CaptionRow, bare, read_captions
from medrobust.pairs.recipe import caption_book
from medrobust.seeds import stream
from medrobust.types import Image, Preprocess

_BESIDE = ("captions.jsonl", "captions.csv")  # looked for in a folder
_SHOWN = 5  # ids in a sentence


@dataclass(frozen=True)
class CaptionedImages:
    """Images, decoded when asked for, and one caption for each.

    `labels` are known where the images are labelled. `uncaptioned` are left out because their caption is missing or
    blank, `skipped` on request: broken, without a row in the captions' file, or a row without an image. Raises
    `DataError` where ids and captions do not go together.
    """

    ids: tuple[str, ...]
    captions: tuple[str, ...]
    read: Callable[[int], Image]
    source: str
    split: str
    labels: tuple[int, ...] | None = None
    uncaptioned: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.captions):
            raise DataError(
                f"{self.source} has {len(self.ids)} images and {len(self.captions)} captions; give each image one"
            )
        if not self.ids:
            raise DataError(f"{self.source} has no image with a caption, so there is no pair")
        if len(set(self.ids)) < len(self.ids):
            twice = next(name for row, name in enumerate(self.ids) if name in self.ids[:row])
            raise DataError(f"{self.source} has the id {twice!r} twice; ids must differ")

    def __len__(self) -> int:
        return len(self.ids)


class CaptionedFile(NamedTuple):
    """An image on disk and its caption."""

    id: str
    path: Path
    caption: str


@dataclass(frozen=True)
class CaptionSource:
    """A captioned data set as a user gives it: the paths of images and captions, and the names of columns."""

    data: str
    captions: str | None = None
    task: str | None = None
    split: str = "train"
    id_column: str | None = None
    caption_column: str | None = None
    skip_broken: bool = False
    limit: int | None = None
    seed: int = 0

    def rows(self) -> list[CaptionRow] | None:
        """The rows of the captions' file: the one named, else `captions.jsonl` or `captions.csv` in the folder."""
        beside = [Path(self.data) / name for name in _BESIDE if (Path(self.data) / name).is_file()]
        path = Path(self.captions) if self.captions else next(iter(beside), None)
        if path is None:
            return None
        return read_captions(path, split=self.split, id_column=self.id_column, caption_column=self.caption_column)


def open_captioned(source: CaptionSource, preprocess: Preprocess) -> CaptionedImages:
    """The pairs that a user means, every image known to decode.

    A folder with captions: the images anywhere below it, called by their name or path, with or without extension.
    Other data are labelled images, as for `open_dataset`, called by their ids: with captions from the file, or, without
    one, each with a caption of its class drawn by the seed (task templates and `captions.yaml`). Raises `DataError`
    with one sentence; where images and captions do not match it lists both sides, unless `skip_broken`.
    """
    rows = source.rows()
    if rows is not None and Path(source.data).is_dir():
        return _from_folder(source, rows, preprocess)
    task = load_task(source.task) if source.task else None
    data = open_dataset(
        source.data, task, preprocess=preprocess, split=source.split, skip_broken=source.skip_broken, limit=source.limit
    )
    return captioned_by_class(data, source.seed) if rows is None else _from_rows(source, data, rows)


def captioned_by_class(data: Dataset, seed: int) -> CaptionedImages:
    """Labelled images, each under one caption of its class: drawn by seed and id, so that order does not matter."""
    options = captions_of(data.task, caption_book())
    captions = tuple(_drawn(options[label], seed, name) for name, label in zip(data.ids, data.targets, strict=True))
    return CaptionedImages(
        data.ids, captions, data.read, data.source, data.split, labels=data.targets, skipped=data.skipped
    )


def _drawn(options: Sequence[str], seed: int, name: str) -> str:
    return options[int(torch.randint(len(options), (1,), generator=stream(seed, "caption", name)))]


def _from_folder(source: CaptionSource, rows: Sequence[CaptionRow], preprocess: Preprocess) -> CaptionedImages:
    root = Path(source.data)
    images = _Listing.of(root)
    found = [(row, images.find(row)) for row in rows]
    claimed = {path for _, path in found if path is not None}
    lonely = [path.relative_to(root).as_posix() for path in sorted(images.paths - claimed)]
    missing = [row.id for row, path in found if path is None]
    _check_both(source, lonely, missing)
    files = [CaptionedFile(row.id, path, row.caption) for row, path in found if path is not None and row.caption]
    files, broken = decodable(files[: source.limit], preprocess, skip_broken=source.skip_broken)

    def read(i: int) -> Image:
        return open_image(files[i].path, preprocess)

    return CaptionedImages(
        ids=tuple(file.id for file in files),
        captions=tuple(file.caption for file in files),
        read=read,
        source=source.data,
        split=source.split,
        uncaptioned=tuple(row.id for row in rows if not row.caption),
        skipped=(*broken, *lonely, *missing),
    )


def _from_rows(source: CaptionSource, data: Dataset, rows: Sequence[CaptionRow]) -> CaptionedImages:
    """Labelled images under the captions of a file. With a limit, rows of other images are allowed."""
    captions = {bare(row.id): row.caption for row in rows}
    ids = [bare(name) for name in data.ids]
    lonely = [name for name in ids if name not in captions]
    missing = [] if source.limit else [name for name in captions if name not in set(ids)]
    _check_both(source, lonely, missing)
    kept = [row for row, name in enumerate(ids) if captions.get(name)]
    chosen = data.subset(kept)
    return CaptionedImages(
        ids=chosen.ids,
        captions=tuple(captions[ids[row]] for row in kept),
        read=chosen.read,
        source=source.data,
        split=source.split,
        labels=chosen.targets,
        uncaptioned=tuple(name for name in ids if captions.get(name) == ""),
        skipped=tuple(dict.fromkeys((*data.skipped, *lonely, *missing))),
    )


class _Listing(NamedTuple):
    """The image files below a folder, by bare name and by bare path."""

    root: Path
    paths: set[Path]
    by_name: dict[str, list[Path]]

    @classmethod
    def of(cls, root: Path) -> "_Listing":
        paths = image_files(root)
        by_name: dict[str, list[Path]] = {}
        for path in paths:
            relative = bare(path.relative_to(root).as_posix())
            for name in {relative, relative.rpartition("/")[2]}:
                by_name.setdefault(name, []).append(path)
        return cls(root, set(paths), by_name)

    def find(self, row: CaptionRow) -> Path | None:
        """The file that a row means. Raises `DataError` where two could be meant."""
        if row.image and (self.root / row.image) in self.paths:
            return self.root / row.image
        found = self.by_name.get(bare(row.image) if row.image else row.id, [])
        if len(found) > 1:
            both = " and ".join(path.relative_to(self.root).as_posix() for path in found[:2])
            raise DataError(f"{self.root}: {row.id!r} may mean {both}; write the path as id, or remove one")
        return found[0] if found else None


def image_files(root: Path) -> list[Path]:
    """All image files below a folder, sorted; hidden ones are left out. Raises `DataError` where there is none."""
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not paths:
        raise DataError(f"there is no image file in {root} or below, expected {', '.join(sorted(SUFFIXES))}")
    return paths


def _check_both(source: CaptionSource, lonely: Sequence[str], missing: Sequence[str]) -> None:
    if source.skip_broken or not (lonely or missing):
        return
    sides = [f"{_listed(lonely)} without a caption"] * bool(lonely) + [f"{_listed(missing)} without an image"] * bool(
        missing
    )
    raise DataError(
        f"images and captions of {source.data} do not go together: {' and '.join(sides)}; mend this, or leave them "
        "out with --skip-broken"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more} ({len(names)})"
