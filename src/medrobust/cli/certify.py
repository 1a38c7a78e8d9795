"""Commands that certify: demo, run, certify, and report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medrobust.cli.app import (
    Alpha,
    CopyBatch,
    Data,
    Defences,
    Device,
    Draws,
    FitData,
    FitSplit,
    Json,
    Limit,
    Model,
    Out,
    Radii,
    Revision,
    Seed,
    Selection,
    Sigmas,
    Skip,
    Stopping,
    Task,
    Threads,
    Transfer,
    command,
    reporter,
    tell,
)

if TYPE_CHECKING:
    from medrobust.jobs.experiment import Experiment


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
            _carry_out_file(path, out, as_json)


@command
def run(
    file: Annotated[Path, typer.Argument(help="An experiment in YAML.")],
    out: Out = Path("runs/run"),
    as_json: Json = False,
) -> None:
    """Carry out an experiment from a YAML file; an interrupted one goes on where it stopped."""
    _carry_out_file(file, out, as_json)


@command
def certify(
    out: Out,
    data: Data,
    defence: Defences,
    model: Model = "builtin",
    revision: Revision = None,
    task: Task = None,
    split: Annotated[str, typer.Option(help="Which images are certified.")] = "test",
    sigma: Sigmas = [0.25],  # noqa: B006 - typer copies it
    n: Draws = 10_000,
    n0: Selection = 100,
    alpha: Alpha = 0.001,
    stopping: Stopping = "spending",
    radii: Radii = None,
    limit: Limit = None,
    transfer: Transfer = False,
    fit_data: FitData = None,
    fit_split: FitSplit = "train",
    batch: CopyBatch = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Compile the encoder; long runs do unless told.")
    ] = None,
    lean: Annotated[bool, typer.Option("--lean/--no-lean", help="The lean path for vision transformers.")] = True,
    dtype: Annotated[
        str, typer.Option(help="Of the encoder: float32, bfloat16, float16; noise is float32.")
    ] = "float32",
    threads: Threads = None,
    seed: Seed = 0,
    device: Device = "cpu",
    skip_broken: Skip = False,
    as_json: Json = False,
) -> None:
    """Certify images under one or several defences, in one pass over the noise for each encoder."""
    from medrobust.cli.choices import chosen, numbers
    from medrobust.jobs.experiment import checked

    values: dict[str, Any] = {
        "model": model, "revision": revision, "data": data, "task": task, "split": split, "limit": limit,
        "sigmas": sigma, "n": n, "stopping": stopping, "compile": compile_, "lean": lean, "dtype": dtype,
        "selection": n0, "alpha": alpha, "seed": seed, "device": device, "batch": batch, "threads": threads,
        "fit_data": fit_data, "fit_split": fit_split, "skip_broken": skip_broken,
        "defences": chosen(defence, transfer=transfer),
    }  # fmt: skip
    if radii is not None:
        values["radii"] = numbers(radii)
    _carry_out(checked(values, "command line"), out, as_json)


@command
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")], as_json: Json = False) -> None:
    """Make summary, tables, curves and page anew from the rows of a run, also of an unfinished one."""
    from medrobust.results.folder import republish

    tell(republish(folder), folder, as_json)


def _carry_out_file(file: Path, out: Path, as_json: bool) -> None:
    from medrobust.jobs.experiment import load_experiment

    _carry_out(load_experiment(file), out, as_json)


def _carry_out(experiment: "Experiment", out: Path, as_json: bool) -> None:
    from medrobust.jobs.certify import run as carry_out

    with reporter() as told:
        summary = carry_out(experiment, out, reporter=told)
    tell(summary, out, as_json)
