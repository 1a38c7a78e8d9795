"""Tasks from YAML: those that come with the package, and the user's own."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from medrobust.data.task import Task, quoted
from medrobust.errors import TaskError, nearest

_DERIVED = {"classes", "aliases", "absent", "of"}  # from the rows of classes or findings


def task_names() -> tuple[str, ...]:
    """Names of the built-in tasks, sorted."""
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if _is_yaml(entry.name)))


def load_task(name_or_path: str | Path) -> Task:
    """A built-in task by name, or a user's own from a YAML file; `NAME#FINDING` is one of its findings alone.

    Raises `TaskError` when there is no such task or its file is wrong.

    >>> load_task("pannuke").classes
    ('benign', 'malignant')
    >>> load_task("chexpert#edema").classes
    ('no edema', 'edema')
    """
    name = str(name_or_path)
    if "#" in name and not _is_yaml(name):
        whole, _, finding = name.rpartition("#")
        task = load_task(whole)
        if not task.absent:
            raise TaskError(f"the classes of task {whole} exclude each other; leave out #{finding}")
        return task.finding(task.index_of(finding))
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


class _Class(NamedTuple):
    """One class or finding as its file says it, unchecked."""

    name: Any
    aliases: Any = []  # noqa: RUF012 - never changed
    absent: Any = MISSING


def _is_yaml(name: str) -> bool:
    return name.lower().endswith((".yaml", ".yml"))


def _parse(text: str, where: str) -> Task:
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # PyYAML lets an impossible date through as a ValueError
        raise TaskError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    try:
        kind = "findings" if isinstance(found, dict) and "findings" in found else "classes"
        keys = {field.name: field.default is MISSING for field in fields(Task) if field.name not in _DERIVED}
        _check_keys(found, {"name": True, "title": True, kind: True, **keys})
        rows = found.pop(kind)
        if not isinstance(rows, list):
            raise TaskError(f"{kind} is {rows!r}, expected a list with a name and aliases for each")
        for row in rows:
            _check_keys(row, {"name": True, "aliases": False} | ({"absent": False} if kind == "findings" else {}))
        texts: dict[str, Any] = {key: _text(value, key) for key, value in found.items() if key != "templates"}
        classes = [_Class(**row) for row in rows]
        absent = [
            _text(f"no {one.name}" if one.absent is MISSING else one.absent, "an absent finding") for one in classes
        ]
        return Task(
            classes=tuple(_text(one.name, "the name of a class") for one in classes),
            absent=tuple(absent) if kind == "findings" else (),
            aliases=tuple(_texts(one.aliases, f"aliases of {one.name!r}") for one in classes),
            templates=_texts(found["templates"], "templates"),
            **texts,
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
        raise TaskError(f"{quoted(missing)} is missing; the keys are {', '.join(needed)}")


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TaskError(f"{what} is {value!r}, expected text; put it in quotes")
    return value


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TaskError(f"{what} is {value!r}, expected a list of texts")
    return tuple(_text(item, f"an item of {what}") for item in value)
