"""Defences made ready for an experiment: fitted, or their states loaded and checked."""

from pathlib import Path
from typing import Any, NamedTuple

from medrobust.data import Dataset, Task, open_dataset
from medrobust.defences import DEFENCES, make
from medrobust.defences.adaptation import digest, interpolated, merged, vision_part
from medrobust.defences.state import Header, header_of, load_checked, save_state, settings_of
from medrobust.errors import ConfigError, RunError, StateError
from medrobust.jobs.bench import Bench, prepare
from medrobust.jobs.experiment import Choice, Experiment
from medrobust.learning.checkpoint import Checkpoint
from medrobust.learning.loop import Session
from medrobust.learning.workers import ALONE, Workers
from medrobust.models.clip import Clip
from medrobust.results.rows.certified import name_of
from medrobust.seeds import stream
from medrobust.tell import Tell
from medrobust.types import Classifier, Defence, Image, State

Known = dict[str, tuple[State, Header]]  # states by their path, or by the label of the choice that learned them


class Fitted(NamedTuple):
    """A defence made ready: its name, its functions, its classifier, the hash of what it learned.

    Of a task with findings it answers about the one at `place`.
    """

    name: str
    defence: Defence
    classifier: Classifier
    sha256: str
    finding: str | None = None
    place: int = 0

    @property
    def label(self) -> str:
        """What tables and rows call it, its finding included."""
        return name_of(self.name, self.finding)

    def target(self, label: int) -> int:
        """What it should answer about an image of that label."""
        return label if self.finding is None else label >> self.place & 1


def fit_all(bench: Bench, out: Path, reporter: Tell, *, learn: bool = True) -> list[Fitted]:
    """Every defence of the experiment, in order, fitted or loaded; fitted states are kept in `out`/states.

    Raises MedrobustError; with `learn=False` also where something would have to be learned.
    """
    asked = bench.findings
    names = [part.task.classes[1] for part in asked]
    known: list[Known] = [{} for _ in asked or [bench]]
    ready = []
    for choice in bench.experiment.defences:
        if asked and DEFENCES[choice.name].changes_vision and not choice.state:
            raise ConfigError(
                f"{choice.called} would learn {len(asked)} vision towers, one a finding; learn one with `medrobust "
                f"fit`, '#{names[0]}' behind the task's name or file, and name it as `state`, with `transfer`"
            )
        for place, part in enumerate(asked or [bench]):
            finding = names[place] if asked else None
            path = out / "states" / f"{_file_name(name_of(choice.called, finding))}.safetensors"
            state, settings = _state_of(part, choice, known[place], path, reporter, learn=learn)
            defence = make(choice.name, settings)
            classifier = apply_state(defence, bench.model, part.task, state, called=choice.called)
            ready.append(Fitted(choice.called, defence, classifier, digest(state), finding, place))
    return ready


def _state_of(
    bench: Bench, choice: Choice, known: Known, path: Path, reporter: Tell, *, learn: bool
) -> tuple[State, dict[str, Any]]:
    """What a defence learned, and its settings: loaded, shared with an earlier one, or fitted; `known` is added to."""
    for wanted in (choice.state, choice.base):
        if wanted and wanted not in known:
            known[wanted] = load_checked(Path(wanted), bench.model, bench.task, transfer=choice.transfer)
    settings = dict(choice.settings)
    if choice.state:
        state, header = known[choice.state]
        settings = settings_of(header, choice.name, settings, path=Path(choice.state))
    else:
        below = below_of(bench.model, *known[choice.base]) if choice.base else {}
        if not learn and _learns_from(choice) != "nothing" and not path.exists():
            raise RunError(f"{path} is missing; the same run into another --out learns {choice.called} again")
        state, header = _fit_or_resume(bench, choice, below, path, reporter)
    known[choice.called] = state, header.model_copy(update={"settings": settings})
    return state, settings


def apply_state(defence: Defence, model: Clip, task: Task, state: State, *, called: str) -> Classifier:
    """The classifier of a defence and its state; raises StateError where the state does not hold what it needs."""
    try:
        return defence.apply(model, task, state)
    except KeyError as error:
        raise StateError(
            f"{called} must learn before it can answer (no {error.args[0]!r} in its state); fit it with `medrobust fit`"
        ) from error


def tuned_on(
    defence: Defence, classifier: Classifier, image: Image, *, sigma: float, seed: int, item: str
) -> Classifier:
    """The classifier that answers this image: tuned on it where the defence does so, else as it is.

    Its noise depends on (seed, item, sigma) alone, so that a run and a single answer tune alike.
    """
    if defence.tune is None:
        return classifier
    return defence.tune(classifier, image, sigma=sigma, generator=stream(seed, "tune", item, sigma))


def below_of(model: Clip, state: State, header: Header) -> State:
    """The vision tower of a state as it is deployed, for another defence to be learned on top of it."""
    return interpolated(model.vision, vision_part(state), header.settings.get("interpolation", 1.0))


def fit_defence(
    model: Clip,
    data: Dataset,
    choice: Choice,
    target: Path,
    *,
    below: State,
    seed: int,
    reporter: Tell,
    workers: Workers = ALONE,
) -> tuple[State, Header]:
    """Learn what a defence has to learn, on top of the vision tower in `below`, and keep it in `target`.

    A long training is kept beside `target` from time to time, and goes on from there.
    """
    defence = make(choice.name, choice.settings)
    if below and DEFENCES[choice.name].changes_vision:
        raise ConfigError(
            f"{choice.name} changes the vision tower itself and cannot be learned on top of {choice.base}"
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
    if _learns_from(choice) != "nothing":
        reporter.say(f"fit {choice.called}: at most {len(data)} images of {data.source} ({data.split})")

    def progress(done: int, total: int) -> None:
        reporter.progress(f"fit {choice.called}", done, total)

    checkpoint = Checkpoint(target.with_name(f"{target.stem}.checkpoint.safetensors"), header.model_dump(mode="json"))
    how: dict[str, Any] = {"progress": progress}
    if DEFENCES[choice.name].in_sessions:
        how = {"session": Session(progress, reporter.say, checkpoint, workers)}
        if checkpoint.path.exists():
            reporter.say(f"{checkpoint.path} is there: the training goes on from it")
    elif workers.count > 1:
        raise ConfigError(f"{choice.name} is learned by one process; run the command without torchrun")
    learned = defence.fit(merged(model, below), data, generator=stream(seed, f"fit {choice.name}"), **how)
    state = {**below, **learned}
    if state and workers.first:
        save_state(target, state, header)
        checkpoint.drop()
    return state, header


def fit_into(target: Path, experiment: Experiment, *, reporter: Tell, workers: Workers = ALONE) -> Header:
    """Learn the one defence of an experiment and keep its state in a file; the header comes back.

    Raises MedrobustError.
    """
    (choice,) = experiment.defences
    bench = prepare(experiment, split=experiment.fit_split)
    below: State = {}
    if choice.base:
        base = load_checked(Path(choice.base), bench.model, bench.task, transfer=choice.transfer)
        below = below_of(bench.model, *base)
    _, header = fit_defence(
        bench.model, bench.data, choice, target, below=below, seed=experiment.seed, reporter=reporter, workers=workers
    )
    return header


def _fit_or_resume(bench: Bench, choice: Choice, below: State, path: Path, reporter: Tell) -> tuple[State, Header]:
    experiment = bench.experiment
    if path.exists():
        state, header = load_checked(path, bench.model, bench.task)
        wanted = {
            "defence": choice.name,
            "settings": make(choice.name, choice.settings).settings.model_dump(mode="json"),
            "data": _origin(experiment.fit_data or experiment.data, experiment.fit_split),
            "base": digest(below) if below else "",
            "seed": experiment.seed,
        }
        if header.model_dump(include=set(wanted)) == wanted:
            return state, header
    data = bench.data if _learns_from(choice) == "nothing" else _fit_data(bench, choice)
    return fit_defence(bench.model, data, choice, path, below=below, seed=experiment.seed, reporter=reporter)


def _learns_from(choice: Choice) -> str:
    return "nothing" if choice.settings.get("mode") == "zero-shot" else DEFENCES[choice.name].learns_from


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
