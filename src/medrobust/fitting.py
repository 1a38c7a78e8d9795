"""Defences made ready for an experiment: fitted, or their states loaded and checked."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.data import Dataset, Task, open_dataset
from medrobust.defences import DEFENCES, make
from medrobust.defences.adaptation import merged, vision_part
from medrobust.defences.state import Header, check_header, header_of, load_state, save_state
from medrobust.errors import ConfigError, RunError, StateError
from medrobust.experiment import Choice, Experiment
from medrobust.models.clip import Clip
from medrobust.preparation import Bench, Reporter, prepare
from medrobust.seeds import stream
from medrobust.types import Classifier, Defence, State


class Fitted(NamedTuple):
    """A defence made ready: its name in tables, its functions, its classifier, the hash of what it learned."""

    label: str
    defence: Defence
    classifier: Classifier
    sha256: str


class _Known(NamedTuple):
    """A state that later choices may use, and whose it is."""

    state: State
    name: str
    settings: dict[str, Any]


def fit_all(bench: Bench, out: Path, reporter: Reporter) -> list[Fitted]:
    """Every defence of the experiment, in order, fitted or loaded; fitted states are kept in `out`/states.

    Raises MedrobustError.
    """
    known: dict[str, _Known] = {}
    ready = []
    for choice in bench.experiment.defences:
        for wanted in (choice.state, choice.base):
            if wanted and wanted not in known:
                known[wanted] = _read(Path(wanted), bench)
        settings = dict(choice.settings)
        if choice.state:
            source = known[choice.state]
            if source.name != choice.name:
                raise StateError(f"{choice.state} was learned by {source.name}, asked for {choice.name}")
            state, settings = source.state, {**source.settings, **settings}
        else:
            below = vision_part(known[choice.base].state) if choice.base else {}
            path = out / "states" / f"{_file_name(choice.called)}.safetensors"
            state = _fit_or_resume(bench, choice, below, path, reporter)
        defence = make(choice.name, settings)
        known[choice.called] = _Known(state, choice.name, settings)
        classifier = apply_state(defence, bench.model, bench.task, state, called=choice.called)
        ready.append(Fitted(choice.called, defence, classifier, digest(state)))
    return ready


def apply_state(defence: Defence, model: Clip, task: Task, state: State, *, called: str) -> Classifier:
    """The classifier of a defence and its state; raises StateError where the state does not hold what it needs."""
    try:
        return defence.apply(model, task, state)
    except KeyError as error:
        raise StateError(
            f"{called} must learn before it can answer (no {error.args[0]!r} in its state); fit it with `medrobust fit`"
        ) from error


def fit_defence(
    model: Clip, data: Dataset, choice: Choice, *, below: State, seed: int, reporter: Reporter
) -> tuple[State, Header]:
    """Learn what a defence has to learn, on top of the vision weights in `below`."""
    defence = make(choice.name, choice.settings)
    if below and DEFENCES[choice.name].changes_vision:
        raise ConfigError(
            f"{choice.name} changes the vision tower itself and cannot be learned on top of {choice.base}"
        )
    if DEFENCES[choice.name].learns_from != "nothing":
        reporter.say(f"fit {choice.called}: at most {len(data)} images of {data.source} ({data.split})")
    learned = defence.fit(
        merged(model, below),
        data,
        generator=stream(seed, f"fit {choice.name}"),
        progress=lambda done, total: reporter.progress(f"fit {choice.called}", done, total),
    )
    header = header_of(
        model,
        data.task,
        choice.name,
        defence.settings,
        data=_origin(data.source, data.split),
        base=digest(below) if below else "",
        seed=seed,
    )
    return {**below, **learned}, header


def fit_into(target: Path, experiment: Experiment, *, reporter: Reporter) -> Header:
    """Learn the one defence of an experiment and keep its state in a file; the header comes back.

    Raises MedrobustError.
    """
    (choice,) = experiment.defences
    bench = prepare(experiment, split=experiment.fit_split)
    below = vision_part(_read(Path(choice.base), bench).state) if choice.base else {}
    state, header = fit_defence(bench.model, bench.data, choice, below=below, seed=experiment.seed, reporter=reporter)
    save_state(target, state, header)
    return header


def digest(state: State) -> str:
    """A hash of all that was learned."""
    found = hashlib.sha256()
    for key, value in sorted(state.items()):
        found.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _read(path: Path, bench: Bench) -> _Known:
    state, header = load_state(path)
    check_header(header, bench.model, bench.task, path=path)
    return _Known(state, header.defence, header.settings)


def _fit_or_resume(bench: Bench, choice: Choice, below: State, path: Path, reporter: Reporter) -> State:
    experiment = bench.experiment
    if path.exists():
        state, header = load_state(path)
        check_header(header, bench.model, bench.task, path=path)
        wanted = {
            "defence": choice.name,
            "settings": make(choice.name, choice.settings).settings.model_dump(mode="json"),
            "data": _origin(experiment.fit_data or experiment.data, experiment.fit_split),
            "base": digest(below) if below else "",
            "seed": experiment.seed,
        }
        if header.model_dump(include=set(wanted)) == wanted:
            return state
    learns = DEFENCES[choice.name].learns_from if choice.settings.get("mode") != "zero-shot" else "nothing"
    data = bench.data if learns == "nothing" else _fit_data(bench, choice)
    state, header = fit_defence(bench.model, data, choice, below=below, seed=experiment.seed, reporter=reporter)
    if state:
        save_state(path, state, header)
    return state


def _origin(source: str, split: str) -> str:
    return f"{source} ({split})"


def _fit_data(bench: Bench, choice: Choice) -> Dataset:
    experiment = bench.experiment
    data = open_dataset(
        experiment.fit_data or experiment.data,
        bench.task,
        preprocess=bench.model.preprocess,
        split=experiment.fit_split,
        skip_broken=experiment.skip_broken,
    )
    overlap = sorted(set(data.ids) & set(bench.data.ids)) if data.source == bench.data.source else []
    if overlap:
        raise RunError(
            f"{choice.called} would learn from {len(overlap)} images that are certified too ({overlap[0]}); give the "
            "data a training split, name one with --fit-split, or name other images with --fit-data"
        )
    return data


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in label)
