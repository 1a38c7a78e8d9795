"""Sources of labelled images: a folder a class, a manifest, a MedMNIST file, or the phantom."""

from pathlib import Path

from medrobust.data.sources.archive import open_archive, task_of
from medrobust.data.sources.files import open_files
from medrobust.data.sources.folder import list_folder
from medrobust.data.sources.manifest import list_manifest
from medrobust.data.sources.medmnist import find_archive, is_archive_name
from medrobust.data.sources.phantom import is_phantom, open_phantom
from medrobust.data.sources.selection import shots
from medrobust.data.task import Dataset, Task
from medrobust.errors import DataError, TaskError
from medrobust.types import Preprocess

__all__ = ["open_dataset", "shots"]


def open_dataset(
    source: str | Path,
    task: Task | None,
    *,
    preprocess: Preprocess,
    split: str = "test",
    skip_broken: bool = False,
    limit: int | None = None,
    findings: bool = False,
) -> Dataset:
    """The labelled images of one split of a source, every one of them known to decode.

    A source is `phantom` or `phantom:COUNT`; the name of a MedMNIST set such as `bloodmnist` or `bloodmnist_224`,
    which is looked for in $MEDROBUST_DATA and in ~/.medmnist; or the path of an .npz file with MedMNIST's keys, of a
    .csv or .jsonl manifest, or of a folder with one sub-folder a class (or one a split and in it one a class). These
    names go before files of the same name. Without a task, the phantom and MedMNIST files bring their own.

    Images come in turn from every class. `limit` takes that many, always the same, so that those of a smaller limit
    are the beginning of those of a larger one; broken images count. With `skip_broken`, images that cannot be
    decoded are left out and their ids stand in `Dataset.skipped`. A task with findings is refused unless `findings`
    says that the caller knows what its labels are.

    Raises `DataError` or `TaskError` with one sentence when the source cannot be read or does not fit the
    task, and `BrokenImageError` when an image cannot be decoded.
    """
    name, path = str(source), Path(source)
    if not findings:
        _one_answer(task)
    if is_phantom(name):
        return open_phantom(name, task, preprocess=preprocess, split=split, limit=limit)
    if is_archive_name(name):
        archive = find_archive(name)
        task = task or task_of(archive)
        if not findings:
            _one_answer(task)
        return open_archive(archive, task, source=name, preprocess=preprocess, split=split, limit=limit)
    if path.is_dir() or path.suffix.lower() in (".csv", ".jsonl"):
        if task is None:
            raise DataError(f"{name} does not say which task its classes are of; pass --task NAME or --task FILE.yaml")
        listing = list_folder(path, task, split) if path.is_dir() else list_manifest(path, task, split)
        return open_files(
            listing, task, source=name, preprocess=preprocess, split=split, skip_broken=skip_broken, limit=limit
        )
    raise DataError(
        f"{name!r} is {'a file of another kind' if path.exists() else 'neither a name nor a path that exists'}; --data "
        "takes a folder with one sub-folder a class, a .csv or .jsonl manifest, an .npz file, a MedMNIST name such as "
        "bloodmnist, or phantom"
    )


def _one_answer(task: Task | None) -> None:
    if task is not None and task.absent:
        raise TaskError(
            f"several findings of task {task.name} may be in one image, and here an image has one answer; ask for one "
            f"of them by '#{task.classes[0]}' behind the task's name or file"
        )
