"""One kind of work: a plan of keyed units; a unit gives rows; rows go into a journal in the plan's order.

A kind consists of its settings, its units, its work on one unit and its summary. Executors, and the callers that start
a job (command line, Python, a service), do not depend on any of them.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from medrobust.errors import CancelledError
from medrobust.jobs.folder import RUN, Holding, RunFolder
from medrobust.results.journal import Form, Journal, Keyed
from medrobust.tell import SILENT, Tell

S = TypeVar("S", bound=BaseModel)
O = TypeVar("O")  # noqa: E741  (what is opened)
R = TypeVar("R", bound=Keyed)
P = TypeVar("P")

Notes = Mapping[str, Any]


class Unit(NamedTuple):
    """One piece of work: the keys of its rows in the plan's order, and plain values that describe it."""

    keys: tuple[Hashable, ...]
    what: tuple[int | str | float, ...]


@dataclass(frozen=True)
class Done(Generic[R]):
    """The rows of one unit, and notes beside them (flags, pictures)."""

    rows: Sequence[R]
    notes: Notes = field(default_factory=dict)


@runtime_checkable
class Work(Protocol[R]):
    """A function from a unit to its rows, opened once in each process; the rows depend on the unit alone."""

    def __call__(self, unit: Unit) -> Done[R]: ...


Execute = Callable[[Callable[[], Work[Any]], Sequence[Unit]], Iterator[Done[Any]]]


class Given(NamedTuple):
    """A model and data sets that a Python program has loaded already; None: those of the settings are loaded."""

    model: Any = None
    data: Any = None
    fit_data: Any = None


NOTHING = Given()


@dataclass(frozen=True)
class Opening(Generic[S]):
    """The arguments with which a job is opened. `learn`: missing states may be learned; a worker never learns."""

    folder: RunFolder
    settings: S
    tell: Tell = SILENT
    given: Given = NOTHING
    learn: bool = True


@dataclass(frozen=True)
class Kind(Generic[S, O, R, P]):
    """A kind of job: to add one, a file with these and a line in `KINDS`.

    `told` names the work in a few words. `check` raises for settings that contradict each other, before anything is
    loaded. `open` loads and learns from the folder and the settings alone. `units` is the plan,
    `cost` the sentences that announce it (`left`: the share of rows still to come), `work` the function of a unit.
    `environment` is everything that decides a byte, and is refused where it differs on resuming. `keep` writes the
    notes of a unit before its rows, `after` reports on the rows so far. `publish` makes the summary of the rows.
    `settle` completes settings by what stands in the folder, before they are compared with those of a run that goes on.
    `holding` tells what the folder is called, and whether other files, or a finished job, keep the job out of it.
    """

    name: str
    settings: type[S]
    settings_file: str
    rows_file: str
    form: Form[R]
    open: Callable[[Opening[S]], O]
    units: Callable[[O], Sequence[Unit]]
    work: Callable[[O], Work[R]]
    environment: Callable[[O], Mapping[str, Any]]
    publish: Callable[[RunFolder, O, Tell], P]
    check: Callable[[S], None] = lambda _settings: None
    told: Callable[[S], str] = lambda _settings: ""
    cost: Callable[[O, float], Sequence[str]] = lambda _opened, _left: ()
    keep: Callable[[RunFolder, Notes], None] = lambda _folder, _notes: None
    after: Callable[[RunFolder, O], object] = lambda _folder, _opened: None
    settle: Callable[[RunFolder, S], S] = lambda _folder, settings: settings
    holding: Holding = RUN


@dataclass(frozen=True)
class OpenWork(Generic[R]):
    """Opens the work of a job: the one that this process has opened already, elsewhere from the run folder alone."""

    kind: Kind[Any, Any, R, Any]
    folder: Path
    opened: list[Any] = field(default_factory=list)  # not sent to other processes

    def __call__(self) -> Work[R]:
        if not self.opened:
            self.opened.append(reopen(self.kind, RunFolder(self.folder)))
        return self.kind.work(self.opened[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_by_name, (self.kind.name, self.folder)


def _open_by_name(name: str, folder: Path) -> OpenWork[Any]:
    from medrobust.jobs import kind_of

    return OpenWork(kind_of(name), folder)


def reopen(kind: Kind[S, O, Any, Any], folder: RunFolder, tell: Tell = SILENT, given: Given = NOTHING) -> O:
    """Open a job that has begun, as it was; nothing is learned.

    Raises RunError where the folder holds no such job, or where something that decides its bytes is different here.
    """
    opened = kind.open(Opening(folder, folder.settings(kind.settings, kind.settings_file), tell, given, learn=False))
    folder.check(kind.environment(opened))
    return opened


def carry_out(
    kind: Kind[S, O, R, P],
    settings: S,
    out: Path,
    *,
    execute: Execute,
    tell: Tell = SILENT,
    given: Given = NOTHING,
) -> P:
    """Carry out the rest of a job in `out`, and return its summary; an interrupted job goes on where it stopped.

    A unit that lacks a row is done again as a whole, and only the missing rows are appended, so that a resumed job
    ends with the same bytes. Raises MedrobustError, with everything already written intact.
    """
    kind.check(settings)
    folder = RunFolder(out)
    with folder.held():
        settings = folder.claim(kind.settle(folder, settings), kind.settings_file, begun_parts(out), kind.holding)
        opened = kind.open(Opening(folder, settings, tell, given))
        folder.record(kind.environment(opened))
        units = kind.units(opened)
        plan = [key for unit in units for key in unit.keys]
        with Journal.open(folder.path / kind.rows_file, plan, kind.form) as journal:
            folder.keep(settings, kind.settings_file)
            for line in kind.cost(opened, len(journal.remaining) / max(1, len(plan))):
                tell.say(line)
            todo = _left(units, journal)
            results = execute(OpenWork(kind, out, [opened]), todo)
            before, after = len(units) - len(todo), partial(kind.after, folder, opened)
            _append_all(kind, folder, todo, journal, results, tell, after, before=before)
        return kind.publish(folder, opened, tell)


def begun_parts(out: Path) -> Callable[[BaseModel], dict[str, str]]:
    """The parts of an experiment that have rows in a folder, with their files."""
    from medrobust.jobs.parts import ROWS

    return lambda settings: {
        part: name for part, name in ROWS.items() if hasattr(settings, part) and (out / name).exists()
    }


def _left(units: Sequence[Unit], journal: Journal[Any]) -> list[Unit]:
    there = journal.done
    return [unit for unit in units if any(key not in there for key in unit.keys)]


def _append_all(
    kind: Kind[Any, Any, R, Any],
    folder: RunFolder,
    todo: Sequence[Unit],
    journal: Journal[R],
    results: Iterator[Done[R]],
    tell: Tell,
    after: Callable[[], object],
    *,
    before: int,
) -> None:
    there, finished, total = journal.done, before, before + len(todo)
    tell.progress(kind.name, finished, total)
    for unit, done in zip(todo, results, strict=True):
        rows = {row.key: row for row in done.rows}
        if done.notes:
            kind.keep(folder, done.notes)
        journal.append([rows[key] for key in unit.keys if key not in there])
        after()
        finished += 1
        tell.progress(kind.name, finished, total)
        if tell.cancelled() and finished < total:
            raise CancelledError("stopped as asked; what was written is safe, and the same job goes on from there")
