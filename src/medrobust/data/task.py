"""A task: the classes of a data set in label order, with the prompts that name them; and the images that carry them.

Where several findings may be in one image, a label is the sum of 2^place over those that are there, and each finding
is a task of its own, of two classes.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from medrobust.errors import TaskError
from medrobust.types import Image, Images, Labels, Preprocess

NO_FINDING = "no finding"
MOST_FINDINGS = 62  # a label is a sum of powers of two in 64 bits


@dataclass(frozen=True)
class Task:
    """Classes in label order, their names in folders or label columns, and the sentences that prompt for them.

    With `absent`, the words of prompts for the lack of each, the classes are findings that do not exclude each other.

    Raises `TaskError` when there are fewer than two classes (one finding), when two classes share a name or an alias,
    or when a template has not exactly one `{}`.
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
    absent: tuple[str, ...] = ()  # for each class, where the classes are findings
    of: "Task | None" = None  # the task whose one finding this is

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
                f"{where} has the classes {quoted(labels)}, task {self.name} has {self.describe()}; "
                + " and ".join(
                    [f"{quoted(unknown)} is unknown to the task"] * bool(unknown)
                    + [f"{quoted(missing)} is missing from the data"] * bool(missing)
                )
            )
        return {name: label for name, label in labels.items() if label is not None}

    def finding(self, place: int) -> "Task":
        """The task of one finding alone: absent is label 0, there is label 1; its name is NAME#FINDING."""
        name = self.classes[place]
        return replace(
            self, name=f"{self.name}#{name}", title=f"{self.title}: {name}", classes=(self.absent[place], name),
            aliases=((), self.aliases[place]), medmnist=None, absent=(), of=self,
        )  # fmt: skip

    @property
    def findings(self) -> tuple["Task", ...]:
        """A task of each finding; none where the classes exclude each other."""
        return tuple(self.finding(place) for place in range(len(self.absent)))

    def says(self, label: int) -> str:
        """A label in words: its class, or the findings that are there."""
        if not self.absent:
            return self.classes[label]
        return ", ".join(name for place, name in enumerate(self.classes) if label >> place & 1) or NO_FINDING

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

    @staticmethod
    def of(
        items: Any,
        task: "Task | str | Path | Sequence[str]",
        *,
        preprocess: Preprocess | None = None,
        split: str = "test",
        source: str | None = None,
    ) -> "Dataset":
        """Labelled images that are in memory, or that another library reads: see `medrobust.data.given.dataset_of`."""
        from medrobust.data.given import dataset_of

        return dataset_of(items, task, preprocess=preprocess, split=split, source=source)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> Labels:
        """Labels of all images, in order."""
        return torch.tensor(self.targets, dtype=torch.int64)

    def images(self, indices: Sequence[int] | None = None) -> Images:
        """Those images (all by default), stacked."""
        return torch.stack([self.read(i) for i in (range(len(self)) if indices is None else indices)])

    def finding(self, place: int) -> "Dataset":
        """The same images, labelled by one finding alone."""
        targets = tuple(target >> place & 1 for target in self.targets)
        return replace(self, task=self.task.finding(place), targets=targets)

    def subset(self, indices: Sequence[int]) -> "Dataset":
        """Those images in that order."""
        rows = tuple(indices)

        def read(i: int) -> Image:
            return self.read(rows[i])

        return replace(
            self, ids=tuple(self.ids[i] for i in rows), targets=tuple(self.targets[i] for i in rows), read=read
        )


def quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def plain(label_text: str) -> str:
    return re.sub(r"[\s_-]+", " ", label_text).strip().casefold()


@lru_cache(maxsize=256)
def _labels_by_name(task: Task) -> dict[str, int]:
    labels: dict[str, int] = {}
    for label, names in enumerate(zip(task.classes, task.aliases, strict=True)):
        for name in (names[0], *names[1]):
            other = labels.setdefault(plain(name), label)
            if other != label:
                raise TaskError(
                    f"task {task.name}: {name!r} belongs to two classes, {task.classes[other]!r} (label {other}) and "
                    f"{task.classes[label]!r} (label {label}); leave it to one of them"
                )
    return labels


def _find(task: Task, label_text: str) -> int | None:
    found = _labels_by_name(task).get(plain(label_text))
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
    if len(task.classes) < (1 if task.absent else 2):
        raise TaskError(f"task {task.name} has {len(task.classes)} class, expected at least two")
    if len(task.aliases) != len(task.classes):
        raise TaskError(f"task {task.name} has {len(task.classes)} classes but aliases for {len(task.aliases)}")
    spelt = [plain(name) for name in task.classes]
    twice = [name for i, name in enumerate(task.classes) if spelt[i] in spelt[:i]]
    if twice:
        raise TaskError(f"task {task.name} names the class {twice[0]!r} twice; class names must differ")
    comma = next((name for name in task.classes if task.absent and "," in name), None)
    if comma:
        raise TaskError(f"task {task.name}: the finding {comma!r} has a comma, which stands between findings")
    same = [name for name, lack in zip(task.classes, task.absent, strict=False) if plain(name) == plain(lack)]
    if same or (task.absent and len(task.absent) != len(task.classes)) or len(task.absent) > MOST_FINDINGS:
        wrong = f"calls {same[0]!r} and its lack alike" if same else f"has {len(task.absent)} names for absent findings"
        raise TaskError(f"task {task.name} {wrong}; expected another one for each of at most {MOST_FINDINGS} findings")
    _labels_by_name(task)


def _check_templates(task: Task) -> None:
    if not task.templates:
        raise TaskError(f"task {task.name} has no template, expected at least one sentence with {{}} in it")
    for template in task.templates:
        if template.count("{}") != 1 or re.search(r"[{}]", template.replace("{}", "")):
            raise TaskError(
                f"task {task.name}: the template {template!r} must have exactly one {{}}, where the class name goes"
            )
