"""The one way a whole file is written: a reader sees the old one or the new one."""

import os
from contextlib import suppress
from pathlib import Path

from medrobust.errors import cannot_write


def replace_text(path: Path, text: str) -> None:
    """The same for text, in UTF-8 and with its line ends as they are."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Put a file in place in one step. Raises RunError, a StorageError where the disk is full; the old one stays."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
