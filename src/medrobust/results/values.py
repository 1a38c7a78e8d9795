"""Typed results to plain JSON values and back: every file that is not rows is written and read through here."""

import json
from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from medrobust.files import replace_text
from medrobust.words import number_key

T = TypeVar("T")
LEFT_OUT = {"where empty": "left out"}


def to_json(value: Any) -> Any:
    """Dataclasses and named tuples as objects, in the order of their fields; radii and sigmas as keys in short.

    A field with the metadata `LEFT_OUT` is absent where it is None or empty.
    """
    if is_dataclass(value) and not isinstance(value, type):
        found = {field: getattr(value, field.name) for field in fields(value)}
        return {field.name: to_json(one) for field, one in found.items() if one or field.metadata != LEFT_OUT}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, Mapping):
        return {number_key(key) if isinstance(key, float) else key: to_json(one) for key, one in value.items()}
    return [to_json(one) for one in value] if isinstance(value, list | tuple) else value


def from_json(kind: type[T], value: Any) -> T:
    """The typed value that `to_json` made plain; raises ValueError that says where it is something else."""
    try:
        found: T = _reader(cast(Hashable, kind)).validate_python(value)
    except ValidationError as error:
        raise ValueError(reason_of(error)) from error
    return found


def reason_of(error: ValidationError) -> str:
    """The first fault, in a sentence: the value that was got, and the expected one."""
    match error.errors()[0]:
        case {"type": "value_error", "ctx": {"error": raised}}:  # by the class itself, which says it all
            return str(raised)
        case {"type": "missing", "loc": where, "msg": said}:
            return f"{'.'.join(map(str, where))}: {said}"
        case {"loc": where, "msg": said, "input": got}:
            return f"{'.'.join(map(str, where)) or 'it'} is {got!r:.80}: {said}"
    return str(error)


def write_sorted(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all: sorted keys, a newline at its end. Raises RunError."""
    replace_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


@cache
def _reader(kind: Hashable) -> Any:  # a TypeAdapter, which beartype does not know
    return TypeAdapter(cast(Any, kind))
