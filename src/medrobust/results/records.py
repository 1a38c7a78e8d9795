"""Certificates on disk: one JSON line a row, appended whole, resumed where they stopped.

A row alone is enough to recompute its radius. A run that was interrupted and resumed ends with the same bytes as one
that was not, because rows are written in one planned order and a half-written last line is cut off.
"""

import errno
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from medrobust.errors import RunError, StorageError
from medrobust.smoothing.sequential import Stopping, certified_radius

SCHEMA_VERSION = 2

Scope = Literal["model", "tuned on input"]  # as in types.py, which would load torch


class Key(NamedTuple):
    """What a run holds once: an image, a noise level, a defence."""

    id: str
    sigma: float
    defence: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One certificate of one image at one sigma under one defence; raises ValueError where it contradicts itself.

    `radius` is l2 in pixels of [0, 1]. A right answer can hold at radius 0.0 (a rule that tests a grid of radii may
    settle no more); only `prediction=None` means that the classifier abstains.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    label: int
    defence: str
    sigma: float
    clean: int | None  # answer on the noiseless image; None where the logits were not finite
    selected: int | None  # class chosen by the selection draws
    prediction: int | None  # None: abstains
    radius: float
    votes: int  # for `selected`, among `trials` fresh draws
    trials: int  # when it was decided
    drawn: int  # when sampling stopped
    budget: int  # the most it might have drawn
    look: int  # draws between two looks at the count; the budget where there is one look
    grid: tuple[float, ...]  # radii that were tested, ascending, where `stopping` is "spending"; else none
    selection: int  # number of selection draws, at most
    alpha: float
    stopping: Stopping
    scope: Scope
    seed: int

    def __post_init__(self) -> None:
        classes = [number for number in (self.label, self.clean, self.selected, self.prediction) if number is not None]
        demands = [
            (min(classes) >= 0, "a class number is negative"),
            (math.isfinite(self.sigma) and self.sigma > 0, f"sigma is {self.sigma}, must be above 0"),
            (math.isfinite(self.radius) and self.radius >= 0, f"radius is {self.radius}, must be finite, not below 0"),
            (0 <= self.votes <= self.trials, f"{self.votes} votes in {self.trials} trials is no count"),
            (self.trials <= self.drawn <= self.budget, f"{self.trials} of {self.drawn} draws of {self.budget}"),
            (1 <= self.look <= self.budget, f"look is {self.look}, must lie between 1 and {self.budget}"),
            ((self.stopping == "spending") == bool(self.grid), f"the grid of radii is {list(self.grid)}"),
            (list(self.grid) == sorted(set(self.grid)) and min(self.grid, default=0) >= 0, "the grid is not ascending"),
            (self.selection >= 0, f"selection is {self.selection}, must not be negative"),
            (0 < self.alpha < 1, f"alpha is {self.alpha}, must lie between 0 and 1"),
            (self.prediction in (None, self.selected), "prediction is not the selected class"),
            (self.prediction is not None or self.radius == 0, "an abstention has a radius"),
        ]
        wrong = [text for holds, text in demands if not holds]
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def key(self) -> Key:
        """What names this row within a run."""
        return Key(self.id, self.sigma, self.defence)

    @property
    def correct(self) -> bool:
        """The certified answer is there and right."""
        return self.prediction == self.label


_FLOATS = {"sigma", "radius", "alpha"}
_STRINGS = {"id", "defence"}
_CHOICES = {"stopping": get_args(Stopping), "scope": get_args(Scope)}
_LISTS = {"grid"}
_MAY_BE_NULL = {"clean", "selected", "prediction"}


def to_line(row: Row) -> str:
    """One line of ASCII JSON with its newline: keys in the order of `Row`, floats that read back to the same bits."""
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    values |= {name: float(values[name]) for name in _FLOATS}
    values |= {name: [float(value) for value in values[name]] for name in _LISTS}
    return json.dumps(values, allow_nan=False) + "\n"


def from_line(line: str) -> Row:
    """The row of a line; raises ValueError that says what is wrong with it (JSONDecodeError where it is no JSON)."""
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    version = values.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema_version is {version}, this medrobust reads {SCHEMA_VERSION}")
    names = {field.name for field in fields(Row)}
    if values.keys() != names:
        raise ValueError(f"missing or unknown keys: {', '.join(sorted(values.keys() ^ names))}")
    return Row(**{name: _typed(name, value) for name, value in values.items()})


def _typed(name: str, value: Any) -> Any:
    if name in _FLOATS and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else math.inf
    if isinstance(value, str) and (name in _STRINGS or value in _CHOICES.get(name, ())):
        return value
    if name in _LISTS and isinstance(value, list):
        return tuple(_typed("radius", one) for one in value)
    if (
        name not in _FLOATS | _STRINGS | _LISTS | _CHOICES.keys()
        and isinstance(value, int)
        and not isinstance(value, bool)
    ):
        return value
    if name in _MAY_BE_NULL and value is None:
        return None
    raise ValueError(f"{name} is {value!r}")


def recompute(row: Row) -> float:
    """The radius from the counts of the record alone, by the rule of its `stopping`.

    Raises ValueError where the counts cannot have come from that rule.
    """
    if not row.trials:
        return 0.0
    found = certified_radius(
        row.votes,
        row.trials,
        stopping=row.stopping,
        grid=row.grid,
        sigma=row.sigma,
        alpha=row.alpha,
        budget=row.budget,
        look=row.look,
    )
    return found or 0.0


def read_rows(path: Path) -> list[Row]:
    """All whole rows of a file; a torn last line is left out. Raises RunError naming file and line."""
    try:
        return _scan(path)[0]
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; run `medrobust certify` into that folder first") from None
    except OSError as problem:
        raise RunError(f"{path} cannot be read ({_reason(problem)})") from problem


def _scan(path: Path) -> tuple[list[Row], int]:
    """The whole rows of a file, and how many bytes they take from its start."""
    *lines, torn = path.read_bytes().split(b"\n")
    rows: list[Row] = []
    keys: set[Key] = set()
    size = 0
    for number, line in enumerate(lines, 1):
        try:
            row = from_line(line.decode())
        except ValueError as problem:
            unreadable = isinstance(problem, json.JSONDecodeError | UnicodeDecodeError)
            if unreadable and number == len(lines) and not torn:
                break
            reason = "not readable" if unreadable else str(problem)
            raise RunError(f"{path}, line {number}: {reason}; restore the file or use another --out") from problem
        if row.key in keys:
            raise RunError(f"{path}, line {number}: a second row for {_told(row.key)}; use another --out")
        keys.add(row.key)
        rows.append(row)
        size += len(line) + 1
    return rows, size


class Journal:
    """The rows of a run, appended in the order of its plan; opened with `Journal.open`, closed by `with`."""

    def __init__(self, path: Path, plan: Sequence[Key], descriptor: int, count: int, size: int) -> None:
        self._path, self._plan, self._descriptor = path, plan, descriptor
        self._count, self._size = count, size

    @classmethod
    def open(cls, path: Path, plan: Sequence[Key]) -> "Journal":
        """Open for appending; what is there must be the beginning of `plan`, and a torn last line is cut off.

        Raises RunError where the file holds other rows (it is then left as it was) or cannot be written.
        """
        plan = [Key(*key) for key in plan]
        if len(set(plan)) < len(plan):
            raise RunError("an image, sigma and defence are asked for twice; image ids must be unique")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            rows, size = _scan(path) if path.exists() else ([], 0)
            _check_beginning(path, [row.key for row in rows], plan)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.ftruncate(descriptor, size)
        except OSError as problem:
            raise RunError(f"{path} cannot be written ({_reason(problem)}); use another --out") from problem
        return cls(path, plan, descriptor, len(rows), size)

    @property
    def done(self) -> set[Key]:
        """The keys whose rows are on disk."""
        return set(self._plan[: self._count])

    @property
    def remaining(self) -> Sequence[Key]:
        """The keys still to come, in their order."""
        return self._plan[self._count :]

    def append(self, rows: Sequence[Row]) -> None:
        """Add whole lines in one write and see them onto the disk; all of them, or none and a StorageError."""
        wanted = self._plan[self._count : self._count + len(rows)]
        for key, row in zip(wanted, rows, strict=False):
            if row.key != key:
                raise RunError(f"{self._path}: {_told(row.key)} came where {_told(key)} was planned")
        if len(wanted) < len(rows):
            raise RunError(f"{self._path}: {_told(rows[len(wanted)].key)} came after the end of the plan")
        if os.fstat(self._descriptor).st_size != self._size:
            raise RunError(f"{self._path} was changed by another process; end it, then run the same command again")
        data = "".join(map(to_line, rows)).encode()
        try:
            _write(self._descriptor, data, self._size)
        except OSError as problem:
            raise StorageError(
                f"{self._path} cannot be written ({_reason(problem)}); its first {self._count} rows are safe, "
                "and the same command goes on after them once that is mended"
            ) from problem
        self._count += len(rows)
        self._size += len(data)

    def close(self) -> None:
        """Give the file back; nothing is left to write."""
        os.close(self._descriptor)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write(descriptor: int, data: bytes, size: int) -> None:
    rest = memoryview(data)
    try:
        while rest:  # a second round only where the disk took a part: it then says why
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _check_beginning(path: Path, found: Sequence[Key], plan: Sequence[Key]) -> None:
    for number, (key, wanted) in enumerate(zip(found, plan, strict=False), 1):
        if key != wanted:
            raise RunError(
                f"{path} holds other images, sigmas or defences (line {number}: {_told(key)}, asked for "
                f"{_told(wanted)}); use another --out"
            )
    if len(found) > len(plan):
        raise RunError(f"{path} holds {len(found)} rows, asked for its first {len(plan)}; use another --out")


def _told(key: Key) -> str:
    return f"{key.id} at sigma {key.sigma:g} under {key.defence}"


def _reason(problem: OSError) -> str:
    if problem.errno == errno.ENOSPC:
        return "the disk is full"
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there"
    return problem.strerror or str(problem)
