"""A task: the classes of a data set in label order, with the prompts that name them; and the images that carry them."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import torch
import yaml

from medrobust.errors import TaskError, nearest
from medrobust.types import Image, Images, Labels


@dataclass(frozen=True)
class Task:
    """Classes in label order, what folders or label columns call them, and the sentences that prompt for them.

    Raises `TaskError` when there are fewer than two classes, when two classes share a name or an alias, or when a
    template has not exactly one `{}`.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]  # for each class: folder names and codes that mean it
    templates: tuple[str, ...]  # each with one {} where the class name goes
    modality: str = "not stated"
    source: str = "not stated"
    licence: str = "not stated"
    citation: str = "not stated"
    medmnist: str | None = None  # name of its .npz file in MedMNIST

    def __post_init__(self) -> None:
        _check_classes(self)
        _check_templates(self)

    def index_of(self, label_text: str) -> int:
        """The label that a folder or a label column means: a class name, one of its aliases, or the label number.

        Case is ignored, and underscores, hyphens and spaces are equal; a name or alias goes before a number. Raises
        `TaskError` with what was found and what the task has.
        """
        label = _find(self, label_text)
        if label is None:
            raise TaskError(
                f"task {self.name} has no class {label_text!r}; its classes are {self.describe()}; rename it or add it "
                "as an alias to the task's file"
            )
        return label

    def match(self, names: Collection[str], where: str) -> dict[str, int]:
        """The label of each name, when all of them are known and every class is among them.

        Raises `TaskError`, listing both sides, when a name is of no class or a class has no name.
        """
        labels = {name: _find(self, name) for name in names}
        unknown = [name for name, label in labels.items() if label is None]
        missing = [name for label, name in enumerate(self.classes) if label not in labels.values()]
        if unknown or missing:
            raise TaskError(
                f"{where} has the classes {_quoted(labels)}, task {self.name} has {self.describe()}; "
                + " and ".join(
                    [f"{_quoted(unknown)} is unknown to the task"] * bool(unknown)
                    + [f"{_quoted(missing)} is missing from the data"] * bool(missing)
                )
            )
        return {name: label for name, label in labels.items() if label is not None}

    def describe(self) -> str:
        """The classes with their aliases, for a sentence to the user."""
        return ", ".join(
            f"{name!r} ({', '.join(aliases)})" if aliases else repr(name)
            for name, aliases in zip(self.classes, self.aliases, strict=True)
        )


@dataclass(frozen=True)
class Dataset:
    """Labelled images, decoded when asked for; `read(i)` gives what the certificates' radius is measured on."""

    task: Task
    ids: tuple[str, ...]
    targets: tuple[int, ...]
    read: Callable[[int], Image]
    source: str
    split: str
    skipped: tuple[str, ...] = ()  # ids of images that could not be decoded and were left out on request

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> Labels:
        """Labels of all images, in order."""
        return torch.tensor(self.targets, dtype=torch.int64)

    def images(self, indices: Sequence[int] | None = None) -> Images:
        """Those images (all by default), stacked."""
        return torch.stack([self.read(i) for i in (range(len(self)) if indices is None else indices)])

    def subset(self, indices: Sequence[int]) -> "Dataset":
        """Those images in that order."""
        rows = tuple(indices)

        def read(i: int) -> Image:
            return self.read(rows[i])

        return replace(
            self, ids=tuple(self.ids[i] for i in rows), targets=tuple(self.targets[i] for i in rows), read=read
        )


def task_names() -> tuple[str, ...]:
    """Names of the built-in tasks, sorted."""
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if _is_yaml(entry.name)))


def load_task(name_or_path: str | Path) -> Task:
    """A built-in task by name, or a user's own from a YAML file.

    Raises `TaskError` when there is no such task or its file is wrong.

    >>> load_task("pannuke").classes
    ('benign', 'malignant')
    """
    name = str(name_or_path)
    if name in task_names():
        return _parse((_folder() / f"{name}.yaml").read_text(encoding="utf-8"), name)
    if not _is_yaml(name):
        raise TaskError(
            f"there is no task {name!r}{nearest(name.lower(), task_names())}; "
            f"the tasks are {', '.join(task_names())}, or give the path of a .yaml file"
        )
    try:
        text = Path(name_or_path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TaskError(f"task file {name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"task file {name} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return _parse(text, name)


def _folder() -> Traversable:
    return resources.files("medrobust.data") / "tasks"


def _is_yaml(name: str) -> bool:
    return name.lower().endswith((".yaml", ".yml"))


def _parse(text: str, where: str) -> Task:
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # PyYAML lets an impossible date through as a ValueError
        raise TaskError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    try:
        _check_keys(found, {field.name: field.default is MISSING for field in fields(Task) if field.name != "aliases"})
        rows = found.pop("classes")
        if not isinstance(rows, list):
            raise TaskError(f"classes is {rows!r}, expected a list with a name and aliases for each")
        for row in rows:
            _check_keys(row, {"name": True, "aliases": False})
        return Task(
            classes=tuple(_text(row["name"], "the name of a class") for row in rows),
            aliases=tuple(_texts(row.get("aliases", []), f"aliases of {row['name']!r}") for row in rows),
            templates=_texts(found.pop("templates"), "templates"),
            **{key: _text(value, key) for key, value in found.items()},
        )
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from error


def _check_keys(found: Any, needed: Mapping[str, bool]) -> None:
    if not isinstance(found, dict):
        raise TaskError(f"found {found!r}, expected the keys {', '.join(needed)}")
    for key in found:
        if key not in needed:
            raise TaskError(f"unknown key {key!r}{nearest(str(key), needed)}; the keys are {', '.join(needed)}")
    missing = [key for key, required in needed.items() if required and key not in found]
    if missing:
        raise TaskError(f"{_quoted(missing)} is missing; the keys are {', '.join(needed)}")


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TaskError(f"{what} is {value!r}, expected text; put it in quotes")
    return value


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TaskError(f"{what} is {value!r}, expected a list of texts")
    return tuple(_text(item, f"an item of {what}") for item in value)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _plain(label_text: str) -> str:
    return re.sub(r"[\s_-]+", " ", label_text).strip().casefold()


@lru_cache(maxsize=256)
def _labels_by_name(task: Task) -> dict[str, int]:
    labels: dict[str, int] = {}
    for label, names in enumerate(zip(task.classes, task.aliases, strict=True)):
        for name in (names[0], *names[1]):
            other = labels.setdefault(_plain(name), label)
            if other != label:
                raise TaskError(
                    f"task {task.name}: {name!r} belongs to two classes, {task.classes[other]!r} (label {other}) and "
                    f"{task.classes[label]!r} (label {label}); leave it to one of them"
                )
    return labels


def _find(task: Task, label_text: str) -> int | None:
    found = _labels_by_name(task).get(_plain(label_text))
    number = label_text.strip()
    if (
        found is None
        and number.isascii()
        and number.isdecimal()
        and len(number) < 9
        and int(number) < len(task.classes)
    ):
        return int(number)
    return found


def _check_classes(task: Task) -> None:
    if len(task.classes) < 2:
        raise TaskError(f"task {task.name} has {len(task.classes)} class, expected at least two")
    if len(task.aliases) != len(task.classes):
        raise TaskError(f"task {task.name} has {len(task.classes)} classes but aliases for {len(task.aliases)}")
    plain = [_plain(name) for name in task.classes]
    twice = [name for i, name in enumerate(task.classes) if plain[i] in plain[:i]]
    if twice:
        raise TaskError(f"task {task.name} names the class {twice[0]!r} twice; class names must differ")
    _labels_by_name(task)


def _check_templates(task: Task) -> None:
    if not task.templates:
        raise TaskError(f"task {task.name} has no template, expected at least one sentence with {{}} in it")
    for template in task.templates:
        if template.count("{}") != 1 or re.search(r"[{}]", template.replace("{}", "")):
            raise TaskError(
                f"task {task.name}: the template {template!r} must have exactly one {{}}, where the class name goes"
            )
