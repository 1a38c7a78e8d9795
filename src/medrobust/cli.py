"""The command line. Nothing heavy is imported before a command needs it."""

import errno
import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medrobust import __version__
from medrobust.errors import ConfigError, MedrobustError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medrobust.preparation import Reporter

app = typer.Typer(
    name="medrobust",
    help="Load a medical vision-language model, defend it, smooth it, certify it, tell the result. "
    "Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Option("--model", "-m", help="A name from `medrobust models`, a hub id, or a folder.")]
Data = Annotated[
    str, typer.Option("--data", "-d", help="A folder, a manifest (csv, jsonl), an .npz, a MedMNIST name, or phantom.")
]
Task = Annotated[str | None, typer.Option("--task", "-t", help="A name from `medrobust tasks`, or a YAML file.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The run folder.")]
Seed = Annotated[int, typer.Option("--seed", help="Every random number follows from it.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")]
Skip = Annotated[bool, typer.Option("--skip-broken", help="Leave out images that cannot be decoded.")]
Defences = Annotated[list[str], typer.Option("--defence", help="NAME[:MODE][=STATE.safetensors]; repeat for several.")]
Sigmas = Annotated[list[float], typer.Option("--sigma", help="Noise level in pixels of [0, 1]; repeat for several.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command whose failures are one sentence and the right exit code."""

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except MedrobustError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("interrupted; what was written is safe, and the same command goes on from there", 130)
        except OSError as error:
            full = error.errno == errno.ENOSPC
            _fail("the disk is full; what was written is safe" if full else f"{error}", 1)

    return app.command(name=function.__name__.strip("_").replace("_", "-"))(guarded)


@command
def demo(
    out: Out = Path("runs/demo"),
    show: Annotated[bool, typer.Option("--show", help="Print the demo's experiment, to start your own from.")] = False,
    as_json: Json = False,
) -> None:
    """Fit, certify and report on synthetic blood smears with the built-in model; about two minutes."""
    from importlib.resources import as_file, files

    with as_file(files("medrobust") / "demo.yaml") as path:
        if show:
            typer.echo(path.read_text(encoding="utf-8"), nl=False)
        else:
            _carry_out(path, out, as_json)


@command
def run(
    file: Annotated[Path, typer.Argument(help="An experiment in YAML.")],
    out: Out = Path("runs/run"),
    as_json: Json = False,
) -> None:
    """Carry out an experiment from a YAML file; an interrupted one goes on where it stopped."""
    _carry_out(file, out, as_json)


@command
def certify(
    out: Out,
    data: Data,
    defence: Defences,
    model: Model = "builtin",
    revision: Annotated[str | None, typer.Option(help="Of a hub id: a branch, tag or commit.")] = None,
    task: Task = None,
    split: Annotated[str, typer.Option(help="Which images are certified.")] = "test",
    sigma: Sigmas = [0.25],  # noqa: B006 - typer copies it
    n: Annotated[int, typer.Option("--n", help="Draws that are counted, for each image.")] = 10_000,
    n0: Annotated[int, typer.Option("--n0", help="Draws that choose the class.")] = 100,
    alpha: Annotated[float, typer.Option(help="Probability that a certificate is false, for each image.")] = 0.001,
    radii: Annotated[str | None, typer.Option(help="Of the tables: numbers with commas, 0,0.25,0.5.")] = None,
    limit: Annotated[int | None, typer.Option(help="So many images, balanced over the classes.")] = None,
    fit_data: Annotated[str | None, typer.Option(help="Where defences without a state learn.")] = None,
    fit_split: Annotated[str, typer.Option(help="Which images they learn from.")] = "train",
    batch: Annotated[int, typer.Option(help="Noisy copies an encoder pass; part of what is certified.")] = 64,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all that the process may use unless given.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    skip_broken: Skip = False,
    as_json: Json = False,
) -> None:
    """Certify images under one or several defences, in one pass over the noise for each encoder."""
    from medrobust.experiment import checked, parse_choice
    from medrobust.run import run as carry_out

    values = {
        "model": model, "revision": revision, "data": data, "task": task, "split": split, "limit": limit,
        "sigmas": sigma, "n": n,
        "selection": n0, "alpha": alpha, "seed": seed, "device": device, "batch": batch, "threads": threads,
        "fit_data": fit_data, "fit_split": fit_split, "skip_broken": skip_broken,
        "defences": _told_apart([_with_mode_of_state(parse_choice(text)) for text in defence]),
    }  # fmt: skip
    if radii is not None:
        values["radii"] = _numbers(radii)
    experiment = checked(values, "command line")
    with _reporter() as reporter:
        summary = carry_out(experiment, out, reporter=reporter)
    _tell(summary, out, as_json)


@command
def fit(
    out: Out,
    data: Data,
    defence: Annotated[str, typer.Option("--defence", help="NAME[:MODE], see `medrobust defences`.")],
    model: Model = "builtin",
    task: Task = None,
    split: Annotated[str, typer.Option(help="Which images it learns from.")] = "train",
    base: Annotated[Path | None, typer.Option(help="A state whose vision weights this is learned on top of.")] = None,
    set_: Annotated[list[str], typer.Option("--set", help="A setting of the defence, KEY=VALUE; repeat.")] = [],  # noqa: B006
    overwrite: Annotated[bool, typer.Option(help="Replace a state that is there.")] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    skip_broken: Skip = False,
    as_json: Json = False,
) -> None:
    """Learn what a defence has to learn, and keep it as OUT/state.safetensors."""
    from medrobust.experiment import checked, parse_choice
    from medrobust.fitting import fit_into

    choice = parse_choice(defence)
    if choice["state"]:
        raise ConfigError(f"fit makes a state; {defence!r} names one already")
    choice["settings"] |= _settings(set_)
    choice["base"] = str(base) if base else None
    target = out / "state.safetensors"
    if target.exists() and not overwrite:
        raise RunError(f"{target} is there already; use another --out or --overwrite")
    values = {
        "model": model, "data": data, "task": task, "fit_split": split, "seed": seed, "device": device,
        "skip_broken": skip_broken, "defences": [choice],
    }  # fmt: skip
    with _reporter() as reporter:
        header = fit_into(target, checked(values, "command line"), reporter=reporter)
    if as_json:
        typer.echo(json.dumps({"state": str(target), **header.model_dump(mode="json")}))
    else:
        typer.echo(f"{target}: {header.defence} for {header.model} on {header.task}, learned from {header.data}")


@command
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Model = "builtin",
    task: Task = None,
    defence: Annotated[str, typer.Option("--defence", help="NAME[:MODE][=STATE.safetensors].")] = "zero-shot",
    sigma: Annotated[float | None, typer.Option(help="Also the smoothed answer and its certificate.")] = None,
    n: Annotated[int, typer.Option("--n", help="Draws that are counted.")] = 1000,
    alpha: Annotated[float, typer.Option(help="Probability that the certificate is false.")] = 0.001,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Name the class of images, with probabilities; with --sigma also a certificate."""
    from medrobust.answering import answer_images
    from medrobust.experiment import Choice

    found = answer_images(
        images, model=model, task=task, choice=Choice.model_validate(defence), sigma=sigma, n=n,
        alpha=alpha, seed=seed, device=device,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for item in found["images"]:
        typer.echo(f"{item['path']}: {item['class']} ({item['probability']:.3f}){_smoothed(item)}")
    typer.echo(f"model {found['model']}, task {found['task']}, {found['defence']}; not a medical device", err=True)


@command
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")], as_json: Json = False) -> None:
    """Make summary, tables, curves and page anew from the rows of a run, also of an unfinished one."""
    from medrobust.results.folder import republish

    _tell(republish(folder), folder, as_json)


@command
def pretrain(
    recipe: Annotated[str, typer.Argument(help="`builtin`, or a recipe in YAML.")] = "builtin",
    out: Out = Path("runs/pretrain"),
    steps: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    as_json: Json = False,
) -> None:
    """Train a small CLIP on image-caption pairs and score it; the built-in model is made this way."""
    from medrobust.build import build
    from medrobust.upstream.recipe import load_recipe

    wanted = load_recipe(recipe)
    if steps is not None:
        training = wanted.training.model_copy(
            update={"steps": steps, "warmup": min(wanted.training.warmup, steps // 2)}
        )
        wanted = wanted.model_copy(update={"training": training})
    with _reporter() as reporter:
        made = build(wanted, out, reporter=reporter)
    if as_json:
        typer.echo(json.dumps(made))
        return
    for task, score in made["zero_shot"].items():
        low, high = 100 * score["low"], 100 * score["high"]
        typer.echo(f"{task}: zero-shot {100 * score['value']:.1f} % ({low:.1f} to {high:.1f}) of {score['total']}")


@command
def models(as_json: Json = False) -> None:
    """The models that are known by name."""
    from medrobust.models import MODELS

    rows = [
        {"name": e.name, "title": e.title, "source": e.source, "format": e.format, "pixels": e.image_size,
         "licence": e.licence} for e in MODELS.values()
    ]  # fmt: skip
    _list(rows, as_json)


@command
def tasks(as_json: Json = False) -> None:
    """The tasks that are known by name, with their classes in label order."""
    from medrobust.data import load_task, task_names

    rows = []
    for name in task_names():
        task = load_task(name)
        rows.append({"name": name, "classes": "; ".join(task.classes), "licence": task.licence, "source": task.source})
    _list(rows, as_json)


@command
def defences(as_json: Json = False) -> None:
    """The defences, what they learn from, and their settings."""
    from medrobust.defences import DEFENCES

    rows = [
        {"name": name, "title": e.title, "learns from": e.learns_from, "settings": ", ".join(e.settings.model_fields),
         "reference": e.reference} for name, e in DEFENCES.items()
    ]  # fmt: skip
    _list(rows, as_json)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of `medrobust`."""
    app()


def _carry_out(file: Path, out: Path, as_json: bool) -> None:
    from medrobust.experiment import load_experiment

    experiment = load_experiment(file)
    from medrobust.run import run as carry_out

    with _reporter() as reporter:
        summary = carry_out(experiment, out, reporter=reporter)
    _tell(summary, out, as_json)


def _with_mode_of_state(choice: dict[str, Any]) -> dict[str, Any]:
    """A state given without a mode is called after the mode it was learned in."""
    if choice["state"] and not choice["settings"]:
        from medrobust.defences.state import load_state

        mode = load_state(Path(choice["state"]))[1].settings.get("mode")
        choice["settings"] = {"mode": mode} if mode else {}
    return choice


def _told_apart(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two states of one defence are called after their folders."""
    for choice in choices:
        same = [other for other in choices if other["name"] == choice["name"] and other["state"]]
        modes = [other["settings"].get("mode") for other in same]
        mode = choice["settings"].get("mode")
        if choice["state"] and modes.count(mode) > 1:
            called = f"{choice['name']}:{mode}" if mode else choice["name"]
            choice["label"] = f"{called} ({Path(choice['state']).parent.name or choice['state']})"
    return choices


def _settings(texts: list[str]) -> dict[str, Any]:
    import yaml

    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes KEY=VALUE, got {text!r}")
        settings[key.strip()] = yaml.safe_load(value)
    return settings


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--radii takes numbers with commas between them, got {text!r}") from None


def _tell(summary: dict[str, Any], folder: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary, indent=2, sort_keys=True))
        return
    typer.echo((folder / "results.md").read_text(encoding="utf-8"))
    typer.echo(f"{folder / 'report.html'}", err=True)


def _smoothed(item: dict[str, Any]) -> str:
    if "certificate" not in item:
        return ""
    found = item["certificate"]
    if found["class"] is None:
        return "; smoothed: abstains"
    return f"; smoothed: {found['class']}, certified within l2 radius {found['radius']:.3f} ({found['scope']})"


def _list(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None, header_style="bold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@contextmanager
def _reporter() -> "Iterator[Reporter]":
    """Sentences on stderr; progress bars too where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from medrobust.preparation import Reporter

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:

        def show(title: str, done: int, total: int) -> None:
            if title not in bars:
                bars[title] = progress.add_task(title, total=total)
            progress.update(bars[title], completed=done)

        yield Reporter(lambda text: console.print(text, markup=False), show)


def _fail(message: str, code: int) -> None:
    typer.echo(f"medrobust: {message}", err=True)
    raise typer.Exit(code)
