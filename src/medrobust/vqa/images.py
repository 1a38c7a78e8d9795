"""The images that questions are asked about, each decoded once however many questions it has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medrobust.data.image import from_array, open_image
from medrobust.data.sources.archive import read_images
from medrobust.data.sources.medmnist import find_archive
from medrobust.errors import DataError
from medrobust.types import Image, Images, Preprocess
from medrobust.vqa.questions import Question


@dataclass(frozen=True, eq=False)
class Gallery:
    """Images by name, in memory, and the questions whose images are there."""

    images: dict[str, Image]
    questions: tuple[Question, ...]
    skipped: tuple[str, ...]  # where questions stand whose images are missing or broken, left out on request

    def of(self, questions: Sequence[Question]) -> Images:
        """The image of each question, stacked."""
        return torch.stack([self.images[question.image] for question in questions])


def is_archive(source: str) -> bool:
    """True for images in an .npz file; otherwise they are in a folder."""
    return source.lower().endswith(".npz")


def home_of(source: str) -> Path:
    """The folder in which the images, or their .npz file, lie. Raises DataError where they are not there."""
    if is_archive(source):
        return find_archive(source).parent
    if not Path(source).is_dir():
        raise DataError(f"{source} is neither a folder of images nor an .npz file; --data takes either for questions")
    return Path(source)


def open_gallery(
    source: str, questions: Sequence[Question], preprocess: Preprocess, *, skip_broken: bool = False
) -> Gallery:
    """The images of some questions, from an .npz file or a folder; names are paths within the folder.

    Raises DataError, naming file and line of the question, where an image is missing, and BrokenImageError where it
    cannot be decoded; with `skip_broken` such questions are left out.
    """
    read: Callable[[str], Image] = (
        _Archive(find_archive(source), preprocess) if is_archive(source) else _Folder(home_of(source), preprocess)
    )
    images: dict[str, Image] = {}
    broken: dict[str, DataError] = {}
    kept, skipped = [], []
    for question in questions:
        if question.image not in images and question.image not in broken:
            try:
                images[question.image] = read(question.image)
            except DataError as error:
                broken[question.image] = error
        if question.image in images:
            kept.append(question)
        elif skip_broken:
            skipped.append(question.place)
        else:
            found = broken[question.image]
            raise type(found)(f"{question.place}: {found}; mend it or pass --skip-broken") from found
    if not kept:
        raise DataError(f"{source} has none of the images of {len(questions)} questions; give the folder they lie in")
    return Gallery(images, tuple(kept), tuple(skipped))


class _Folder:
    """Image files by their paths within a folder."""

    def __init__(self, folder: Path, preprocess: Preprocess) -> None:
        self.folder, self.preprocess = folder, preprocess

    def __call__(self, name: str) -> Image:
        path = self.folder / name
        if not path.is_file():
            raise DataError(f"there is no image {path}")
        return open_image(path, self.preprocess)


class _Archive:
    """Images of an .npz file by split and row; a split is read when its first image is wanted."""

    def __init__(self, path: Path, preprocess: Preprocess) -> None:
        self.path, self.preprocess = path, preprocess
        self.splits: dict[str, np.ndarray] = {}

    def __call__(self, name: str) -> Image:
        split, _, row = name.rpartition("/")
        if split not in self.splits:
            self.splits[split] = read_images(self.path, split)
        images = self.splits[split]
        if not (row.isascii() and row.isdecimal() and int(row) < len(images)):
            raise DataError(f"there is no row {row!r} among the {len(images)} images of split {split} of {self.path}")
        return from_array(images[int(row)], self.preprocess)
