"""Errors that a user can mend. Each message is one sentence: what was got, what was expected, what to do."""

import difflib
import errno
from collections.abc import Iterable


class MedrobustError(Exception):
    """Root of all errors this package raises on purpose; `exit_code` is what the command line ends with.

    2: the input cannot be used. 1: the input was fine, and the work failed on the way.
    """

    exit_code = 2


class DataError(MedrobustError):
    """Images, labels or their folder do not fit the task."""


class BrokenImageError(DataError):
    """One file that should be an image cannot be decoded."""


class TaskError(MedrobustError):
    """The classes of the data and of the task do not match, or a task file is wrong."""


class ModelError(MedrobustError):
    """A checkpoint is missing, incomplete, of another family or has broken weights."""


class PromptError(MedrobustError):
    """A text does not fit the model's context; `index` is its place among the texts."""

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.index = index


class StateError(MedrobustError):
    """A learned state belongs to another model, task or defence."""


class SmoothingError(MedrobustError):
    """These settings cannot give a certificate."""


class ConfigError(MedrobustError):
    """A setting is unknown or out of its range."""


class PluginError(MedrobustError):
    """An entry that an installed package adds to a registry cannot be used."""


class RunError(MedrobustError):
    """A run folder cannot be written or holds another experiment."""


class StorageError(RunError):
    """A disk stopped taking rows in the middle of a run; those already written are safe."""

    exit_code = 1


def cannot_write(path: object, error: OSError) -> RunError:
    """The error for a path that could not be written: the user's fault, unless the disk is full."""
    if error.errno == errno.ENOSPC:
        return StorageError(f"cannot write {path}: the disk is full; what was written before is safe")
    return RunError(f"cannot write {path}: {error.strerror or error}; use another --out")


class CancelledError(MedrobustError):
    """The work was cancelled by its caller; everything already written is safe."""

    exit_code = 130


class TrainingError(MedrobustError):
    """A loss became NaN or infinite."""

    exit_code = 1


def nearest(word: str, known: Iterable[str]) -> str:
    """A suggestion for a mistyped word, or nothing.

    >>> nearest("sigmma", ["sigma", "alpha"])
    " (did you mean 'sigma'?)"
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
