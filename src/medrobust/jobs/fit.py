"""Fit: the states of an experiment's defences, learned before its other parts or on their own.

An experiment with parts keeps them in states/, where its other parts find them. One without parts measures nothing:
its images are those that are learned from, and the state of a single defence is OUT/state.safetensors.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.defences import make_defence
from medrobust.defences.adaptation import digest
from medrobust.defences.state import Header
from medrobust.jobs.bench import Bench, check_settings, environment_of, prepare_bench
from medrobust.jobs.executors import here
from medrobust.jobs.experiment import PARTS, Choice, Experiment
from medrobust.jobs.fitting import Known, bench_parts, learn_or_load_state, state_files
from medrobust.jobs.folder import RunFolder
from medrobust.jobs.job import Done, Kind, Opening, Unit, Work, carry_out
from medrobust.learning.workers import ALONE, Workers
from medrobust.results.journal import read_journal
from medrobust.results.rows.certified import name_of
from medrobust.results.rows.learned import LEARNED, StateRow
from medrobust.tell import SILENT, Tell

STATE = "state.safetensors"
_SETTINGS, _ROWS = "fit.yaml", "states.jsonl"


class Fitting(NamedTuple):
    """Model and images to learn from, and the state file of each defence."""

    bench: Bench
    files: dict[str, Path]
    tell: Tell


def open_fit(opening: Opening[Experiment]) -> Fitting:
    """Load the model and list the images. Raises MedrobustError."""
    experiment, given, out = opening.settings, opening.given, opening.folder.path
    if experiment.parts:
        bench = prepare_bench(experiment, findings=True, given=given)
    else:
        wanted = experiment.model_copy(update={"data": experiment.fit_data or experiment.data})
        bench = prepare_bench(
            wanted, split=experiment.fit_split, given=given._replace(data=given.fit_data or given.data)
        )
        bench = replace(bench, fit_data=bench.data)
    names = [name_of(choice.name, part.finding) for choice in experiment.defences for part in bench_parts(bench)]
    alone = not experiment.parts and len(names) == 1
    return Fitting(bench, {names[0]: out / STATE} if alone else state_files(names, out), opening.tell)


def fit_units(opened: Fitting) -> list[Unit]:
    """A unit a defence, together with those that take its state or are learned on top of it; a row for each state."""
    parts, defences = bench_parts(opened.bench), opened.bench.experiment.defences
    return [
        Unit(tuple(name_of(defences[at].name, part.finding) for at in chain for part in parts), tuple(chain))
        for chain in chains(defences)
    ]


def chains(defences: Sequence[Choice]) -> list[list[int]]:
    """Defences by their places, those that build on one another together.

    >>> chains([Choice(defence="tecoa"), Choice(defence="vote"), Choice(defence="coop", base="tecoa")])
    [[0, 2], [1]]
    """
    found: list[list[int]] = []
    for place, choice in enumerate(defences):
        before = [chain for chain in found if {defences[at].name for at in chain} & {choice.from_, choice.base}]
        found = [chain for chain in found if chain not in before] + [[*(at for chain in before for at in chain), place]]
    return sorted(sorted(chain) for chain in found)


def fit_work(opened: Fitting, *, workers: Workers = ALONE) -> Work[StateRow]:
    """Learns the states of a unit, or loads those that are there, and keeps each in its file."""
    bench, files, tell = opened
    reuse = bool(bench.experiment.parts)

    def work(unit: Unit) -> Done[StateRow]:
        known: list[Known] = [{} for _ in bench_parts(bench)]
        rows = []
        for place in unit.what:
            choice = bench.experiment.defences[int(place)]
            for part, before in zip(bench_parts(bench), known, strict=True):
                name = name_of(choice.name, part.finding)
                state, asked = learn_or_load_state(
                    part.bench, choice, before, files[name], tell, reuse=reuse, workers=workers
                )
                settings = make_defence(choice.defence, asked).settings.model_dump(mode="json")
                header = before[choice.name][1].model_copy(update={"settings": settings})
                rows.append(row_of(name, digest(state), header))
        return Done(rows)

    return work


def row_of(name: str, sha256: str, header: Header) -> StateRow:
    """The row of a state."""
    return StateRow(name=name, sha256=sha256, **header.model_dump(exclude={"schema_version"}))


def publish_states(folder: RunFolder, _opened: Fitting, _tell: Tell) -> list[StateRow]:
    """The rows of all states."""
    return read_journal(folder.path / _ROWS, LEARNED)


def _environment(opened: Fitting) -> dict[str, Any]:
    return environment_of(opened.bench, {})


def _told(experiment: Experiment) -> str:
    return f"{len(experiment.defences)} defences fitted on images of {experiment.fit_data or experiment.data}"


FIT: Kind[Experiment, Fitting, StateRow, list[StateRow]] = Kind(
    name="fit",
    settings=Experiment,
    settings_file=_SETTINGS,
    rows_file=_ROWS,
    form=LEARNED,
    told=_told,
    check=check_settings,
    open=open_fit,
    units=fit_units,
    work=fit_work,
    environment=_environment,
    publish=publish_states,
)


def fit_into(out: Path, experiment: Experiment, *, tell: Tell = SILENT, workers: Workers = ALONE) -> StateRow:
    """Learn the one defence of an experiment, and nothing else that stands there, and keep it as OUT/state.safetensors.

    A state that is there is replaced once the new one is learned; a training cut off goes on from its checkpoint. Of
    several processes that learn together, the first alone writes. Raises MedrobustError.
    """
    (_,) = experiment.defences
    alone = experiment.model_copy(update=dict.fromkeys(PARTS))
    folder = RunFolder(out)
    if workers.first:
        folder.remove(_ROWS, _SETTINGS)
        (row,) = carry_out(replace(FIT, work=partial(fit_work, workers=workers)), alone, out, execute=here, tell=tell)
        return row
    check_settings(alone)
    opened = open_fit(Opening(folder, alone, tell))
    (done,) = map(fit_work(opened, workers=workers), fit_units(opened))
    (row,) = done.rows
    return row
