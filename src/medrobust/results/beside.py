"""Files of a run folder beside its rows, typed: environment.json, attacked.json, examples.json, audit.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from medrobust.errors import RunError
from medrobust.results.audit_summary import AuditSummary, Pictures
from medrobust.results.values import LEFT_OUT, from_json

T = TypeVar("T")


@dataclass(frozen=True)
class ModelRecord:
    """The model of a run; `source` is its origin, by default its name."""

    name: str
    sha256: str | None = None
    revision: str | None = None
    licence: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class TaskRecord:
    """The task of a run: classes in label order, or findings, and then the sentences for their absence."""

    title: str
    classes: tuple[str, ...]
    source: str | None = None
    licence: str | None = None
    name: str | None = None
    absent: tuple[Any, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """The origin of a run's numbers, as in environment.json; `states`: hash of what each defence learned."""

    environment: Mapping[str, Any]
    model: ModelRecord
    task: TaskRecord
    states: Mapping[str, str] | None = None


@dataclass(frozen=True)
class ExampleAnswer:
    """A certified answer: a class number, a text, or None for an abstention; radius l2 in pixels of [0, 1]."""

    answer: int | str | None
    radius: float


@dataclass(frozen=True)
class Example:
    """A certified image to show: PNG in base64, its class number or a text, and the answer of each defence."""

    png_base64: str
    label: int | str
    answers: Mapping[str, ExampleAnswer]
    sigma: float | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class BrokenImage:
    """An image that an attack broke, to show; the difference is `factor` times as strong as it was."""

    id: str
    label: int
    clean: int | None
    answer: int | None
    broken_by: str
    eps: float | None = None  # runs of older versions do not say it
    distance: float = 0.0
    factor: float = 1.0
    pictures: Pictures = field(default_factory=dict)


@dataclass(frozen=True)
class AttackNotes:
    """Remarks on attacks by defence, as in attacked.json: the title of the set, flags, and pictures.

    `black_box` is a flag over all rows, so that it may change when more images are attacked.
    """

    titles: Mapping[str, str]
    flags: Mapping[str, tuple[str, ...]]
    pictures: Mapping[str, tuple[BrokenImage, ...]]
    black_box: Mapping[str, str | None]

    @property
    def all_flags(self) -> dict[str, tuple[str, ...]]:
        """Signs that the numbers are too good, by defence."""
        black = {name: (said,) if (said := self.black_box.get(name)) else () for name in self.flags}
        return {name: (*flags, *black[name]) for name, flags in self.flags.items()}


def record_from(environment: Mapping[str, Any]) -> RunRecord:
    """The record that environment.json holds; raises ValueError for other content."""
    return from_json(RunRecord, dict(environment))


def read_examples(folder: Path) -> tuple[Example, ...]:
    """The examples of a run, none where it kept none; raises ValueError or OSError."""
    path = folder / "examples.json"
    return tuple(from_json(Example, one) for one in json.loads(path.read_bytes())) if path.exists() else ()


def read_audit(folder: Path) -> AuditSummary | None:
    """The audit of this run, None where it had none. Raises RunError where audit.json cannot be read."""
    return _read_beside(folder / "audit.json", "audit", AuditSummary)


def read_notes(folder: Path) -> AttackNotes | None:
    """The remarks on a run's attacks, None where it has none. Raises RunError where attacked.json cannot be read."""
    return _read_beside(folder / "attacked.json", "attack", AttackNotes)


def _read_beside(path: Path, command: str, kind: type[T]) -> T | None:
    if not path.exists():
        return None
    again = f"run `medrobust {command}` on the folder again"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("schema_version") != 1:
            raise RunError(f"{path} is of another version; {again}")
        return from_json(kind, found)
    except (OSError, ValueError) as problem:
        raise RunError(f"{path} cannot be read ({problem}); {again}") from problem
