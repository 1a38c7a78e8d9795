"""All images that a source names, readable or not, before anything is refused."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from medrobust.data.decoded import Decoded
from medrobust.data.dicom import is_dicom
from medrobust.data.image import decode, decoded_array
from medrobust.data.sources.archive import read_split, splits_of, task_of
from medrobust.data.sources.folder import SPLITS, SUFFIXES
from medrobust.data.sources.manifest import Row, label_of, read_manifest
from medrobust.data.sources.medmnist import find_archive, is_archive_name
from medrobust.data.sources.phantom import COUNTS, count_of, is_phantom, phantom_task
from medrobust.data.task import Task
from medrobust.errors import DataError, TaskError

EVERY = "every"  # the split of images that belong to all splits


class ListedImage(NamedTuple):
    """One image that a source names; `label` is a class of the task where it has one, or the source's own word."""

    id: str
    split: str
    label: str
    decode: Callable[[], Decoded]


class Remark(NamedTuple):
    """A sentence about one split."""

    split: str
    text: str


@dataclass(frozen=True)
class Inventory:
    """The images that a source names, and remarks on those that a run would refuse."""

    images: Sequence[ListedImage]
    task: Task | None
    faults: tuple[Remark, ...] = ()
    notes: tuple[Remark, ...] = ()


def take_inventory(source: str, task: Task | None) -> Inventory:
    """Every image of every split, not decoded. Raises `DataError` where the source cannot be listed at all."""
    path = Path(source)
    if is_phantom(source):
        return _phantom(source, task)
    if is_archive_name(source):
        return _archive(find_archive(source), task)
    if path.is_dir():
        return _folder(path, task)
    if path.suffix.lower() in (".csv", ".jsonl"):
        return _manifest(path, task)
    raise DataError(
        f"{source!r} is {'a file of another kind' if path.exists() else 'neither a name nor a path that exists'}; "
        "expected a folder with one sub-folder a class, a .csv or .jsonl manifest, an .npz file, a MedMNIST name, or "
        "phantom"
    )


def _folder(folder: Path, task: Task | None) -> Inventory:
    roots = {name: folder / name for name in SPLITS if (folder / name).is_dir()} or {EVERY: folder}
    images: list[ListedImage] = []
    faults: list[Remark] = []
    notes: list[Remark] = []
    for split, root in roots.items():
        homes = sorted(home for home in root.iterdir() if home.is_dir() and not home.name.startswith("."))
        if not homes:
            raise DataError(f"{root} has no sub-folder, expected one for each class")
        for home in homes:
            label, known = _class_of(home.name, task)
            files = sorted(path for path in home.iterdir() if not path.name.startswith("."))
            kept = [path for path in files if path.suffix.lower() in SUFFIXES and not path.is_dir()]
            images += [
                ListedImage(path.relative_to(folder).as_posix(), split, label, partial(decode, path)) for path in kept
            ]
            where = f"folder {home.relative_to(folder)}"
            if not known and task is not None:
                faults.append(Remark(split, f"{where} is of no class of task {task.name}: {task.describe()}"))
            if not kept:
                faults.append(Remark(split, f"{where} has no image directly in it"))
            unnamed = sum(_is_unnamed_dicom(path) for path in files if path not in kept)
            if unnamed:
                text = f"{where} has {unnamed} DICOM files that do not end in .dcm, which no run reads"
                faults.append(Remark(split, f"{text}; rename them, or list them in a manifest"))
            elif len(kept) < len(files):
                notes.append(Remark(split, f"{where}: {len(files) - len(kept)} entries that are no images left out"))
    return Inventory(images, task, tuple(faults), tuple(notes))


def _manifest(manifest: Path, task: Task | None) -> Inventory:
    images: list[ListedImage] = []
    faults: list[Remark] = []
    lines: dict[tuple[str, str], int] = {}
    rows = read_manifest(manifest, task)
    if not rows:
        raise DataError(f"manifest {manifest} has no row")
    for row in rows:
        split = row.split or EVERY
        label, fault = _told_by(row, task)
        if fault:
            faults.append(Remark(split, f"line {row.line}: {fault}"))
        first = lines.setdefault((split, row.id), row.line)
        if first != row.line:
            faults.append(Remark(split, f"line {row.line}: the id {row.id!r} stands in line {first} already"))
        images.append(ListedImage(row.id, split, label, partial(decode, manifest.parent / row.path)))
    named = sorted({row.split for row in rows} - {""})
    free = sum(not row.split for row in rows)
    if named and free:
        faults.append(Remark(EVERY, f"{free} rows without a split belong to each of {', '.join(named)}"))
    return Inventory(images, task, tuple(faults))


def _archive(path: Path, task: Task | None) -> Inventory:
    images: list[ListedImage] = []
    faults: list[Remark] = []
    try:
        task = task or task_of(path)
    except DataError:
        task = None  # label numbers are the classes
    for split in splits_of(path):
        pixels, targets = read_split(path, split, task)
        for row, target in enumerate(targets):
            known = task is not None and (bool(task.absent) or 0 <= target < len(task.classes))
            label = task.says(target) if task is not None and known else str(target)
            images.append(ListedImage(f"{split}/{row}", split, label, partial(decoded_array, pixels[row])))
        if task is None or task.absent:
            continue
        if wrong := {target for target in targets if not 0 <= target < len(task.classes)}:
            text = f"split {split} has the labels {sorted(wrong)}, task {task.name} has 0 to {len(task.classes) - 1}"
            faults.append(Remark(split, text))
    return Inventory(images, task, tuple(faults))


def _phantom(source: str, task: Task | None) -> Inventory:
    task = phantom_task(task)
    size = len(task.classes)

    def drawn(target: int, item: str) -> Decoded:
        from medrobust.data.phantom import draw  # the only source that needs it

        return decoded_array(draw(target, seed=0, item=item))

    images = [
        ListedImage(f"{split}/{row}", split, task.classes[row % size], partial(drawn, row % size, f"{split}/{row}"))
        for split in COUNTS
        for row in range(count_of(source, split))
    ]
    return Inventory(images, task)


def _class_of(name: str, task: Task | None) -> tuple[str, bool]:
    """The class that a source's word means, and whether the task knows it."""
    if task is None:
        return name, True
    try:
        return task.classes[task.index_of(name)], True
    except TaskError:
        return name, False


def _told_by(row: Row, task: Task | None) -> tuple[str, str]:
    """The label of a manifest's row, and a remark where it is wrong."""
    if task is None:
        return row.label, ""
    try:
        return task.says(label_of(row, task)), ""
    except DataError as error:
        return row.label, str(error)
    except TaskError:
        return row.label, f"task {task.name} has no class {row.label!r}: {task.describe()}"


def _is_unnamed_dicom(path: Path) -> bool:
    return path.is_file() and path.name != "DICOMDIR" and is_dicom(path)
