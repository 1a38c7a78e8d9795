"""The folder of a run: who may write there, what it was asked, where its numbers come from."""

import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel

from medrobust.errors import ConfigError, RunError, cannot_write
from medrobust.files import replace_text
from medrobust.settings import changes, parse, to_yaml

try:
    import fcntl
except ImportError:  # pragma: no cover - no locks on files there, so two writers meet in the journal's own check
    fcntl = None  # type: ignore[assignment]

S = TypeVar("S", bound=BaseModel)

ENVIRONMENT = "environment.json"
_LOCK = ".lock"
_OWN = re.compile(r"\.lock|\..*\.tmp")  # what a process that was killed may leave behind


class Holding(NamedTuple):
    """One kind of folder: its name in sentences, and who else may be there.

    With `alone`, a job begins in a folder without other files only. `finished` is the file after which nothing is
    added: a job that is done is refused, not made anew.
    """

    called: str = "run"
    alone: bool = False
    finished: str = ""


RUN = Holding()


class RunFolder:
    """A folder that holds settings, rows and states of one run, written by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing here until the block ends, or this process does.

        Raises RunError naming the process that holds the folder.
        """
        lock = self.path / _LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(lock)
        except BlockingIOError:
            raise RunError(
                f"{self.path} is being written by {_holder(lock)}; wait for it or use another --out"
            ) from None
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            with suppress(OSError):  # a full disk: the lock holds without its words
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            yield
        finally:
            with suppress(OSError):
                lock.unlink()
            os.close(descriptor)

    @property
    def begun(self) -> bool:
        """True where there are rows of any kind."""
        return any(self.path.glob("*.jsonl"))

    def settings(self, model: type[S], name: str) -> S:
        """The settings of this run, as they stand in the file of that name. Raises RunError."""
        path = self.path / name
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            return parse(model, values, str(path))
        except FileNotFoundError:
            raise RunError(f"{self.path} is no run folder: it has no {name}") from None
        except (OSError, ValueError, yaml.YAMLError, ConfigError) as error:
            raise RunError(f"{path} cannot be read ({' '.join(str(error).split())}); use another --out") from error

    def claim(
        self,
        settings: S,
        name: str,
        begun: Callable[[S], Mapping[str, str]] = lambda _settings: {},
        holding: Holding = RUN,
    ) -> S:
        """Make the folder the run of these settings, or see that it is.

        `begun`: the parts of these settings that have rows here, with their file. Such a part, and every field outside
        of parts, must be as it was, but for fields whose `resume` allows another value; some parts then begin anew.
        Parts that are not asked for now are kept. Raises RunError naming the first field that differs, or what makes
        the folder one of another kind.
        """
        self._refuse_other(holding, name)
        if not (self.begun and (self.path / name).exists()):
            self.keep(settings, name)
            return settings
        before = self.settings(type(settings), name)
        rows = begun(settings)
        pairs = {"": (before, settings)} | {part: (getattr(before, part), getattr(settings, part)) for part in rows}
        for part, (was, now) in pairs.items():
            for key, old, new in changes(was, now) if was is not None and now is not None else ():
                if not getattr(now, "begins_anew", False):
                    raise RunError(
                        f"{self.path} holds a {holding.called} with {key} = {old}, asked for {new}; use another --out"
                    )
                (self.path / rows[part]).unlink(missing_ok=True)
        kept = {key: value for key, value in before if isinstance(value, BaseModel) and getattr(settings, key) is None}
        return settings.model_copy(update=kept)

    def _refuse_other(self, holding: Holding, name: str) -> None:
        if holding.finished and (self.path / holding.finished).exists():
            raise RunError(f"{self.path} holds a finished {holding.called}; use another --out")
        if holding.alone and not (self.path / name).exists():
            others = sorted(entry.name for entry in self.path.iterdir() if not _OWN.fullmatch(entry.name))
            if others:
                raise RunError(f"{self.path} holds other files ({', '.join(others[:3])}); use another --out")

    def remove(self, *names: str) -> None:
        """Delete files that only an unfinished job needs."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def keep(self, settings: BaseModel, name: str) -> None:
        """Write the settings' file, whole or not at all. Raises RunError."""
        replace_text(self.path / name, to_yaml(settings))

    @property
    def environment(self) -> dict[str, dict[str, Any]]:
        """The origin of the numbers of a run that has begun; empty where none has begun. Raises RunError."""
        path = self.path / ENVIRONMENT
        if not (path.exists() and self.begun):
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {part: dict(values) for part, values in found.items()}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise RunError(f"{path} cannot be read ({error}); use another --out") from error

    def check(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise RunError naming what differs between the run's environment and this one."""
        recorded = self.environment
        for part, values in found.items():
            for key, value in values.items():
                was = recorded.get(part, {}).get(key, value)  # what is new belongs to a kind of rows that is new here
                if was != value:
                    raise RunError(
                        f"{self.path} was begun with {part} {key} = {was!r}, now it is {value!r}; rows of both must "
                        "not be mixed: use another --out"
                    )

    def record(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Write environment.json, or see that a run that goes on has the same one. Raises RunError."""
        self.check(found)
        recorded = self.environment
        whole = recorded | {part: {**recorded.get(part, {}), **values} for part, values in found.items()}
        replace_text(self.path / ENVIRONMENT, json.dumps(whole, indent=2) + "\n")


def _locked(lock: Path) -> int:
    """The descriptor of a file that this process has locked; BlockingIOError where another has."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and os.fstat(descriptor).st_ino == lock.stat().st_ino:
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it has removed it meanwhile


def _holder(lock: Path) -> str:
    try:
        return lock.read_text(encoding="utf-8").strip() or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
