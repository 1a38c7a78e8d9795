"""Defences made ready for an experiment: fitted, or their states loaded and checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.data import Dataset, Task, open_dataset
from medrobust.defences import make_defence
from medrobust.defences.adaptation import digest, interpolated_weights, merged, vision_part
from medrobust.defences.defence import Defence
from medrobust.defences.state import Header, header_of, load_checked, save_state, state_settings
from medrobust.errors import ConfigError, RunError, StateError
from medrobust.jobs.bench import Bench, named
from medrobust.jobs.experiment import Choice
from medrobust.learning.checkpoint import Checkpoint
from medrobust.learning.loop import Session
from medrobust.learning.workers import ALONE, Workers
from medrobust.results.rows.certified import name_of
from medrobust.seeds import stream
from medrobust.tell import SILENT, Tell
from medrobust.types import Classifier, Image, State, VisionLanguageModel

Known = dict[str, tuple[State, Header]]  # states by their path, or by the name of the defence that learned them


class Fitted(NamedTuple):
    """A defence made ready: its functions, its classifier, the hash of what it learned.

    Of a task with findings it answers about the one at `place`.
    """

    choice: str
    defence: Defence
    classifier: Classifier
    sha256: str
    finding: str | None = None
    place: int = 0

    @property
    def name(self) -> str:
        """Its name in tables and rows, its finding included."""
        return name_of(self.choice, self.finding)

    def target(self, label: int) -> int:
        """The right answer of this defence about an image of that label."""
        return label if self.finding is None else label >> self.place & 1


class Part(NamedTuple):
    """A bench whose images have one answer: the whole, or that of one finding."""

    bench: Bench
    finding: str | None = None


def bench_parts(bench: Bench) -> list[Part]:
    """The bench of each finding; the whole where an image has one class.

    Raises ConfigError where a defence would learn a vision tower for each finding.
    """
    parts = [Part(one, one.task.classes[1]) for one in bench.findings]
    for choice in bench.experiment.defences if parts else ():
        learns = not (choice.from_state or choice.from_)
        if learns and "vision" in make_defence(choice.defence, choice.settings).changes:
            raise ConfigError(
                f"{choice.name} would learn {len(parts)} vision towers, one a finding; learn one with `medrobust "
                f"fit`, '#{parts[0].finding}' behind the task's name or file, and name it as `from_state`, with "
                "`transfer`"
            )
    return parts or [Part(bench)]


def fit_all(bench: Bench, out: Path, tell: Tell = SILENT, *, learn: bool = True) -> list[Fitted]:
    """Every defence of the experiment, in order, fitted or loaded; fitted states are kept in `out`/states.

    Raises MedrobustError; with `learn=False` also where something would have to be learned.
    """
    parts, defences = bench_parts(bench), bench.experiment.defences
    files = state_files([name_of(choice.name, part.finding) for choice in defences for part in parts], out)
    known: list[Known] = [{} for _ in parts]
    ready = []
    for choice in defences:
        for place, part in enumerate(parts):
            path = files[name_of(choice.name, part.finding)]
            state, settings = learn_or_load_state(part.bench, choice, known[place], path, tell, learn=learn)
            defence = make_defence(choice.defence, settings)
            classifier = apply_state(defence, bench.model, part.bench.task, state, name=choice.name)
            ready.append(Fitted(choice.name, defence, classifier, digest(state), part.finding, place))
    return ready


def state_files(names: Sequence[str], out: Path) -> dict[str, Path]:
    """The state file of each defence in a run folder. Raises ConfigError where two would share one."""
    files = {name: out / "states" / f"{_file_name(name)}.safetensors" for name in names}
    taken: dict[str, str] = {}
    for name, path in files.items():
        other = taken.setdefault(path.name.casefold(), name)  # one file on disks that do not tell cases apart
        if other != name:
            raise ConfigError(
                f"the defences {other!r} and {name!r} would both keep their state in states/{path.name}; give one "
                "another name"
            )
    return files


def learn_or_load_state(
    bench: Bench,
    choice: Choice,
    known: Known,
    path: Path,
    tell: Tell,
    *,
    learn: bool = True,
    reuse: bool = True,
    workers: Workers = ALONE,
) -> tuple[State, dict[str, Any]]:
    """State and settings of a defence: loaded, shared with an earlier one, or fitted; `known` is added to.

    With `reuse`, a state in `path` that was learned in the same way is what is fitted. Raises MedrobustError; without
    `learn` also where something would have to be learned.
    """
    for wanted in (choice.from_state, choice.base_state):
        if wanted and wanted not in known:
            known[wanted] = load_checked(Path(wanted), bench.model, bench.task, transfer=choice.transfer)
    for name in (choice.from_, choice.base):
        if name and name not in known:
            before = ", ".join(one for one in known if one not in (choice.from_state, choice.base_state)) or "none"
            raise ConfigError(
                f"{choice.name} takes the state of {name!r}, which no earlier defence is called ({before})"
            )
    settings = dict(choice.settings)
    source, base = choice.from_state or choice.from_, choice.base_state or choice.base
    if source:
        state, header = known[source]
        settings = state_settings(header, choice.defence, settings, path=Path(source))
    else:
        below = below_of(bench.model, *known[base]) if base else {}
        state, header = _fit_or_resume(bench, choice, below, path, tell, learn=learn, reuse=reuse, workers=workers)
    known[choice.name] = state, header.model_copy(update={"settings": settings})
    return state, settings


def apply_state(defence: Defence, model: VisionLanguageModel, task: Task, state: State, *, name: str) -> Classifier:
    """The classifier of a defence and its state; raises StateError where the state does not hold what it needs."""
    try:
        return defence.apply(model, task, state)
    except KeyError as error:
        raise StateError(
            f"{name} must learn before it can answer (no {error.args[0]!r} in its state); fit it with `medrobust fit`"
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


def below_of(model: VisionLanguageModel, state: State, header: Header) -> State:
    """The vision tower of a state as it is deployed, for another defence to be learned on top of it."""
    return interpolated_weights(model.vision, vision_part(state), header.settings.get("interpolation", 1.0))


def fit_defence(
    model: VisionLanguageModel,
    data: Dataset,
    choice: Choice,
    target: Path,
    *,
    below: State,
    seed: int,
    tell: Tell,
    workers: Workers = ALONE,
) -> tuple[State, Header]:
    """Learn what a defence has to learn, on top of the vision tower in `below`, and keep it in `target`.

    A long training is kept beside `target` from time to time, and goes on from there.
    """
    defence = make_defence(choice.defence, choice.settings)
    if below and "vision" in defence.changes:
        raise ConfigError(
            f"{choice.defence} changes the vision tower itself and cannot be learned on top of "
            f"{choice.base_state or choice.base}"
        )
    header = header_of(
        model,
        data.task,
        choice.defence,
        defence.settings,
        data=_origin(data.source, data.split),
        base=digest(below) if below else "",
        seed=seed,
    )
    if defence.learns_from != "nothing":
        tell.say(f"fit {choice.name}: at most {len(data)} images of {data.source} ({data.split})")

    def progress(done: int, total: int) -> None:
        tell.progress(f"fit {choice.name}", done, total)

    checkpoint = Checkpoint(target.with_name(f"{target.stem}.checkpoint.safetensors"), header.model_dump(mode="json"))
    session = Session(progress, tell.say, checkpoint, workers)
    if checkpoint.path.exists():
        tell.say(f"{checkpoint.path} is there: the training goes on from it")
    fitting = merged(model, below)
    learned = defence.fit(fitting, data, generator=stream(seed, f"fit {choice.defence}"), session=session)
    state = {**below, **learned}
    if state and workers.first:
        save_state(target, state, header)
        checkpoint.drop()
    return state, header


def _fit_or_resume(
    bench: Bench, choice: Choice, below: State, path: Path, tell: Tell, *, learn: bool, reuse: bool, workers: Workers
) -> tuple[State, Header]:
    experiment = bench.experiment
    different = "is missing"
    if reuse and path.exists():
        state, header = load_checked(path, bench.model, bench.task)
        wanted = {
            "defence": choice.defence,
            "settings": make_defence(choice.defence, choice.settings).settings.model_dump(mode="json"),
            "data": _origin(*_fit_source(bench)),
            "base": digest(below) if below else "",
            "seed": experiment.seed,
        }
        found = header.model_dump(include=set(wanted))
        if found == wanted:
            return state, header
        different = f"was learned with another {next(key for key in wanted if found[key] != wanted[key])}"
    learns_from = make_defence(choice.defence, choice.settings).learns_from
    if learns_from != "nothing" and not learn:
        raise RunError(f"{path} {different}; the same run into another --out learns {choice.name} again")
    data = bench.data if learns_from == "nothing" else _fit_data(bench, choice)
    return fit_defence(bench.model, data, choice, path, below=below, seed=experiment.seed, tell=tell, workers=workers)


def _origin(source: str, split: str) -> str:
    return f"{source} ({split})"


def _fit_source(bench: Bench) -> tuple[str, str]:
    """Source and split that defences learn from."""
    if bench.fit_data is not None:
        return bench.fit_data.source, bench.fit_data.split
    return bench.experiment.fit_data or bench.experiment.data, bench.experiment.fit_split


def _fit_data(bench: Bench, choice: Choice) -> Dataset:
    source, split = _fit_source(bench)
    data = bench.fit_data or open_dataset(
        named(source, "fit_data"),
        bench.task,
        preprocess=bench.model.preprocess,
        split=split,
        skip_broken=bench.experiment.skip_broken,
    )
    measured = data is not bench.data and data.source == bench.data.source
    overlap = sorted(set(data.ids) & set(bench.data.ids)) if measured else []
    if overlap:
        raise RunError(
            f"{choice.name} would learn from {len(overlap)} images that are certified too ({overlap[0]}); give the "
            "data a training split, name one with --fit-split, or name other images with --fit-data"
        )
    return data


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
