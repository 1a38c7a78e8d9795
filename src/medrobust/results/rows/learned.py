"""States that defences learned, on disk: one JSON line a state, with its hash and what its header says."""

from dataclasses import dataclass
from typing import Any

from medrobust.results.journal import checked_form

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StateRow:
    """One state: the defence's name in its run, the hash of the tensors, and the fields of the state's header.

    `base` is the hash of the state whose vision weights it was learned on top of, empty where there is none.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    sha256: str
    model: str
    model_sha256: str
    task: str
    classes: tuple[str, ...]
    defence: str
    settings: dict[str, Any]
    data: str
    base: str
    seed: int
    medrobust: str

    @property
    def key(self) -> str:
        """Its name within a run."""
        return self.name


LEARNED = checked_form(StateRow, SCHEMA_VERSION, parts="defences", command="fit")
