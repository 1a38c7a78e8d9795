"""Integer tables that take a while to compute, kept on disk under what they were computed from."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

_VERSION = 1  # of the computation: a change of it leaves old files unread


def kept(name: str, inputs: Mapping[str, Any], build: Callable[[], Int[np.ndarray, " looks"]]) -> np.ndarray:
    """The table for these inputs, read where a whole one lies there, else built and written.

    A file that is cut off, foreign or changed is built anew; without a writable folder the table is only not kept.
    """
    key = _digest({"name": name, "version": _VERSION, **inputs})
    path = folder() / f"{name}-{key[:32]}.json"
    found = _read(path, key)
    if found is None:
        found = build()
        _write(path, key, found)
    return found


def folder() -> Path:
    """The folder of tables: MEDROBUST_CACHE, else medrobust/ in the user's cache."""
    named = os.environ.get("MEDROBUST_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medrobust"


def _read(path: Path, key: str) -> np.ndarray | None:
    try:
        stored = json.loads(path.read_text(encoding="ascii"))
        values = [int(value) for value in stored["values"]]
        whole = stored["key"] == key and stored["sha256"] == _digest(values)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return np.array(values, dtype=np.int64) if whole else None


def _write(path: Path, key: str, table: np.ndarray) -> None:
    values = table.tolist()
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps({"key": key, "sha256": _digest(values), "values": values}), encoding="ascii")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True) if draft.parent.is_dir() else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
