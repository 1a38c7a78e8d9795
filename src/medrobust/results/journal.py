"""Rows on disk, of whatever kind: one JSON line each, appended whole, resumed where they stopped.

A run that was interrupted and resumed ends with the same bytes as one that was not, because rows are written in one
planned order and a half-written last line is cut off.
"""

import errno
import json
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

from pydantic import TypeAdapter, ValidationError

from medrobust.errors import RunError, StorageError
from medrobust.results.values import reason_of


@runtime_checkable
class Keyed(Protocol):
    """A row; its key names it within a run, and reads well in a sentence."""

    @property
    def key(self) -> Hashable: ...


R = TypeVar("R", bound=Keyed)


@dataclass(frozen=True)
class Form(Generic[R]):
    """A kind of rows: its writing, its reading (ValueError where it cannot be read), and its name in sentences."""

    to_line: Callable[[R], str]
    from_line: Callable[[str], R]
    parts: str  # of a key: "images or defences"
    command: str  # that writes such rows


def checked_form(row: Callable[..., R], version: int, *, parts: str, command: str) -> Form[R]:
    """The form of a dataclass: one line of ASCII JSON with its newline, keys in its order; reading checks its types."""

    @cache
    def reader() -> Any:  # a TypeAdapter, which beartype does not know
        return TypeAdapter(cast(Any, row))

    def to_line(one: R) -> str:
        return json.dumps(asdict(one), allow_nan=False) + "\n"  # type: ignore[call-overload]

    def from_line(line: str) -> R:
        values = values_of(line, cast(type, row), version)
        text = json.dumps(values, ensure_ascii=False).encode(errors="replace")
        try:
            found: Any = reader().validate_json(text, strict=True)
        except ValidationError as error:
            raise ValueError(reason_of(error)) from error
        # a file name that is not UTF-8 has half characters, which pydantic refuses
        odd = {name: value for name, value in values.items() if isinstance(value, str) and not value.isascii()}
        return cast(R, replace(found, **odd)) if b"?" in text and odd else cast(R, found)

    return Form(to_line, from_line, parts, command)


def values_of(line: str, row: type, version: int) -> dict[str, Any]:
    """The values of a line for a kind of row, a dataclass, each key there and none besides; unchecked.

    Raises ValueError naming the fault (JSONDecodeError where it is not JSON).
    """
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    found = values.get("schema_version")
    if found != version:
        raise ValueError(f"schema_version is {found}, this medrobust reads {version}")
    names = {field.name for field in fields(row)}
    if values.keys() != names:
        raise ValueError(f"missing or unknown keys: {', '.join(sorted(values.keys() ^ names))}")
    return values


def read_journal(path: Path, form: Form[R]) -> list[R]:
    """All whole rows of a file; a torn last line is left out. Raises RunError naming file and line."""
    try:
        return _scan(path, form)[0]
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; run `medrobust {form.command}` into that folder first") from None
    except OSError as problem:
        raise RunError(f"{path} cannot be read ({_reason(problem)})") from problem


def _scan(path: Path, form: Form[R]) -> tuple[list[R], int]:
    """The whole rows of a file, and their number of bytes from its start."""
    *lines, torn = path.read_bytes().split(b"\n")
    rows: list[R] = []
    keys: set[Hashable] = set()
    size = 0
    for number, line in enumerate(lines, 1):
        try:
            row = form.from_line(line.decode())
        except ValueError as problem:
            unreadable = isinstance(problem, json.JSONDecodeError | UnicodeDecodeError)
            if unreadable and number == len(lines) and not torn:
                break
            reason = "not readable" if unreadable else str(problem)
            raise RunError(f"{path}, line {number}: {reason}; restore the file or use another --out") from problem
        if row.key in keys:
            raise RunError(f"{path}, line {number}: a second row for {row.key}; use another --out")
        keys.add(row.key)
        rows.append(row)
        size += len(line) + 1
    return rows, size


class Journal(Generic[R]):
    """The rows of a run, appended in the order of its plan; opened with `Journal.open`, closed by `with`."""

    def __init__(
        self, path: Path, plan: Sequence[Hashable], form: Form[R], descriptor: int, count: int, size: int
    ) -> None:
        self._path, self._plan, self._form, self._descriptor = path, plan, form, descriptor
        self._count, self._size = count, size

    @classmethod
    def open(cls, path: Path, plan: Sequence[Hashable], form: Form[R]) -> "Journal[R]":
        """Open for appending; rows on disk must be the beginning of `plan`, and a torn last line is cut off.

        Raises RunError where the file holds other rows (it is then left as it was) or cannot be written.
        """
        if len(set(plan)) < len(plan):
            raise RunError(f"the same {form.parts} are asked for twice; image ids must be unique")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            rows, size = _scan(path, form) if path.exists() else ([], 0)
            _check_beginning(path, [row.key for row in rows], plan, form.parts)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.ftruncate(descriptor, size)
        except OSError as problem:
            raise RunError(f"{path} cannot be written ({_reason(problem)}); use another --out") from problem
        return cls(path, plan, form, descriptor, len(rows), size)

    @property
    def done(self) -> set[Hashable]:
        """The keys whose rows are on disk."""
        return set(self._plan[: self._count])

    @property
    def remaining(self) -> Sequence[Hashable]:
        """The keys still to come, in their order."""
        return self._plan[self._count :]

    def append(self, rows: Sequence[R]) -> None:
        """Add whole lines in one write and see them onto the disk; all of them, or none and a StorageError."""
        wanted = self._plan[self._count : self._count + len(rows)]
        for key, row in zip(wanted, rows, strict=False):
            if row.key != key:
                raise RunError(f"{self._path}: {row.key} came where {key} was planned")
        if len(wanted) < len(rows):
            raise RunError(f"{self._path}: {rows[len(wanted)].key} came after the end of the plan")
        if os.fstat(self._descriptor).st_size != self._size:
            raise RunError(f"{self._path} was changed by another process; end it, then run the same command again")
        data = "".join(map(self._form.to_line, rows)).encode()
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
        """Close the file; nothing is left to write."""
        os.close(self._descriptor)

    def __enter__(self) -> "Journal[R]":
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


def _check_beginning(path: Path, found: Sequence[Hashable], plan: Sequence[Hashable], parts: str) -> None:
    for number, (key, wanted) in enumerate(zip(found, plan, strict=False), 1):
        if key != wanted:
            raise RunError(f"{path} holds other {parts} (line {number}: {key}, asked for {wanted}); use another --out")
    if len(found) > len(plan):
        raise RunError(f"{path} holds {len(found)} rows, asked for its first {len(plan)}; use another --out")


def _reason(problem: OSError) -> str:
    if problem.errno == errno.ENOSPC:
        return "the disk is full"
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there"
    return problem.strerror or str(problem)
