"""Labelled images that a user has in memory or that another library reads: pairs, dictionaries, columns."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image as Pillow

from medrobust.data.decoded import Decoded
from medrobust.data.image import decode, decoded_array, decoded_picture, prepare_image
from medrobust.data.sources.ticks import masks, several
from medrobust.data.task import Dataset, Task, quoted
from medrobust.data.taskfile import load_task
from medrobust.errors import DataError, TaskError
from medrobust.types import Image, Preprocess

_LABELS = ("label", "labels")  # the names of a label's key
_CHANNELS = (1, 3)


class _Row(NamedTuple):
    image: Any
    label: Any
    id: str | None


def dataset_of(
    items: Any,
    task: Task | str | Path | Sequence[str],
    *,
    preprocess: Preprocess | None = None,
    split: str = "test",
    source: str | None = None,
) -> Dataset:
    """A data set of any sequence of pairs (image, label), of triples with an id, or of dictionaries with these keys.

    Lists, map-style data sets of torch, splits of Hugging Face `datasets` and dictionary data sets of MONAI are such.
    `task` may be the names of the classes alone. An image is one of Pillow, a path, or an array or tensor: uint8,
    uint16, or floats in [0, 1]; of three axes the channels are the one of length 1 or 3, first or last. A label is a
    whole number or a class's name; of a task with findings, 0 or 1 for each. Without ids, `{split}/{number}`.

    Labels are read once, now; an image each time it is asked for. Without `preprocess` images are taken as they are,
    all of one size. Where the items know names for their numbers (`features` of Hugging Face, `classes` of
    torchvision) and the task knows these names, numbers go by name.

    Raises DataError, naming the item, for what is none of this, and for items that change from one reading to the
    next; TaskError for a wrong task.
    """
    known = _task(task)
    length = _length(items)
    rows = _labels_and_ids(items, length)
    order = _by_name(items, known)
    targets = tuple(_target(label, known, order, f"item {number}") for number, (label, _) in enumerate(rows))
    ids = tuple(f"{split}/{number}" if own is None else own for number, (_, own) in enumerate(rows))
    _check_ids(ids)
    first = _image(_row(items, 0), preprocess, "item 0")

    def read(number: int) -> Image:
        where, row = f"item {number} ({ids[number]})", _row(items, number)
        if _target(row.label, known, order, where) != targets[number]:
            raise DataError(f"{where} has another label than when it was first read; take out what shuffles the items")
        image = _image(row, preprocess, where)
        if image.shape != first.shape:
            raise DataError(
                f"{where} has {_size(image)} pixels and item 0 has {_size(first)}; pass preprocess=model.preprocess, "
                "which brings all to one size"
            )
        return image

    if not torch.equal(read(0), first):
        raise DataError("item 0 is another image each time it is read; take random transforms out of the data set")
    return Dataset(known, ids, targets, read, source or f"{type(items).__name__} from Python", split)


def _task(task: Task | str | Path | Sequence[str]) -> Task:
    if isinstance(task, Task):
        return task
    if isinstance(task, str | Path):
        return load_task(task)
    names = tuple(task)
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise TaskError(f"task is {task!r}, expected a Task, the name of one, or the names of the classes")
    return Task(
        name="own-classes", title=", ".join(names), classes=names, aliases=((),) * len(names),
        templates=("a photo of {}.",),
    )  # fmt: skip


def _length(items: Any) -> int:
    if isinstance(items, Mapping):
        raise DataError(f"got a mapping with {quoted(map(str, items))}, expected a sequence; pass one split of it")
    if not (hasattr(items, "__len__") and hasattr(items, "__getitem__")):
        advice = "pass its .dataset" if hasattr(items, "dataset") else "pass list(items), or a map-style data set"
        raise DataError(f"a {type(items).__name__} cannot be read by number, which a run needs; {advice}")
    if not len(items):
        raise DataError(f"the {type(items).__name__} is empty, expected at least one image with a label")
    return len(items)


def _labels_and_ids(items: Any, length: int) -> list[tuple[Any, str | None]]:
    """Label and id of every item; from columns, without decoding images, where the data set has them."""
    columns = getattr(items, "column_names", None)
    if isinstance(columns, list) and hasattr(items, "with_format"):
        plain = items.with_format(None)  # a transform of the user's may need the image too
        label = next((key for key in _LABELS if key in columns), None)
        if label is not None and "image" in columns:
            ids: Iterable[Any] = map(str, plain["id"]) if "id" in columns else [None] * length
            return list(zip(plain[label], ids, strict=True))
    return [row[1:] for row in (_row(items, number) for number in range(length))]


def _by_name(items: Any, task: Task) -> tuple[int, ...]:
    """The task's label for each number of the items', told by the names that they know; none where they know none.

    Raises DataError where the task knows some of the names and not all.
    """
    features = getattr(items, "features", None)
    held = next((features[key] for key in _LABELS if key in features), None) if isinstance(features, Mapping) else None
    names = getattr(items, "classes", None) if held is None else getattr(held, "names", None)
    if task.absent or not (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)):
        return ()
    if all(_knows(task, name) for name in names):
        return tuple(task.index_of(name) for name in names)
    unknown = [name for name in names if not _knows(task, name)]
    if len(unknown) < len(names):
        raise DataError(
            f"the data set calls its classes {quoted(names)}; task {task.name} has {task.describe()}, without "
            f"{quoted(unknown)}; add aliases to the task, or give its classes in the order of the labels"
        )
    return ()


def _knows(task: Task, name: str) -> bool:
    try:
        task.index_of(name)
    except TaskError:
        return False
    return True


def _row(items: Any, number: int) -> _Row:
    try:
        found = items[number]
    except DataError:
        raise
    except Exception as error:  # of whatever library reads it
        told = str(error).strip().partition("\n")[0]
        raise DataError(f"item {number} cannot be read ({type(error).__name__}: {told})") from error
    if isinstance(found, Mapping):
        label = next((key for key in _LABELS if key in found), None)
        if label is None or "image" not in found:
            raise DataError(
                f"item {number} has the keys {quoted(map(str, found))}, expected 'image', 'label' and perhaps 'id'; "
                "rename them"
            )
        own = found.get("id")
        return _Row(found["image"], found[label], None if own is None else str(own))
    if isinstance(found, tuple | list) and len(found) in (2, 3):
        return _Row(found[0], found[1], str(found[2]) if len(found) == 3 else None)
    raise DataError(
        f"item {number} is {_told(found)}, expected (image, label), (image, label, id), or a mapping with 'image' and "
        "'label'; of two arrays pass list(zip(images, labels))"
    )


def _target(label: Any, task: Task, order: tuple[int, ...], where: str) -> int:
    """The label's number. Raises DataError, naming the item."""
    if isinstance(label, str):
        try:
            return task.index_of(label)
        except TaskError as error:
            raise DataError(f"{where}: {error}") from error
    values = np.asarray(label.detach().cpu() if isinstance(label, torch.Tensor) else label)
    if several(task) and values.size > 1:
        return masks(values.reshape(1, -1), task, f"{where}: the label")[0]
    if values.size != 1 or values.dtype.kind not in "iub":
        raise DataError(
            f"{where} has the label {_told(label)}, expected one whole number or the name of a class: {task.describe()}"
        )
    number = int(values.reshape(-1)[0])
    end = len(order) or (2 ** len(task.absent) if task.absent else len(task.classes))
    if not 0 <= number < end:
        raise DataError(
            f"{where} has label {number}, but task {task.name} has only the labels 0 to {end - 1}: {task.describe()}"
        )
    return order[number] if order else number


def _check_ids(ids: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for number, own in enumerate(ids):
        other = first.setdefault(own, number)
        if other != number:
            raise DataError(f"items {other} and {number} have the id {own!r}; every image needs an id of its own")


def _image(row: _Row, preprocess: Preprocess | None, where: str) -> Image:
    try:
        found = decoded(row.image)
        return _as_it_is(found) if preprocess is None else prepare_image(found, preprocess)
    except DataError as error:
        raise DataError(f"the image of {where} {error}") from error


def decoded(image: Any) -> Decoded:
    """An image of Pillow, a path, an array or a tensor at its own size.

    Raises DataError, whose sentence begins after the image's name.
    """
    if isinstance(image, str | Path):
        try:
            return decode(Path(image))
        except DataError as error:
            raise DataError(f"({image}) {error}") from error
    if isinstance(image, Pillow.Image):
        return decoded_picture(image)
    if isinstance(image, torch.Tensor):
        image = np.asarray(image.detach().cpu().float() if image.is_floating_point() else image.detach().cpu())
    if not isinstance(image, np.ndarray):
        raise DataError(f"is {_told(image)}, expected an image of Pillow, a path, an array or a tensor")
    return decoded_array(_channels_last(image))


def _channels_last(array: np.ndarray) -> np.ndarray:
    """H x W or H x W x 3 of an array whose channels are first or last. Raises DataError where it could be both."""
    if array.ndim != 3:
        return array
    first, last = array.shape[0] in _CHANNELS, array.shape[-1] in _CHANNELS
    if first == last:
        why = "its channels may be the first axis or the last" if first else "no axis has 1 or 3 channels"
        raise DataError(
            f"has shape {array.shape}, and {why}; expected H x W, or 1 or 3 channels as the first or the last axis"
        )
    moved = np.moveaxis(array, 0, -1) if first else array
    return moved[..., 0] if moved.shape[-1] == 1 else moved


def _as_it_is(found: Decoded) -> Image:
    pixels = found.pixels
    whole = isinstance(pixels, Pillow.Image)
    array = np.asarray(pixels, dtype=np.float32) / np.float32(255 if whole else 1)
    colours = array if array.ndim == 3 else np.stack([array] * 3, axis=-1)
    return torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1)))


def _size(image: Image) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"


def _told(value: Any) -> str:
    """A value in a sentence: its shape where it has one."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{getattr(value, 'dtype', type(value).__name__)} of shape {tuple(shape)}"
    return f"a {type(value).__name__} ({str(value)[:40]})"
