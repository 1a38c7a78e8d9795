"""Commands that carry out experiments: demo, run, resume, certify, and report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medrobust.cli.app import RUNS, Json, Out, Transfer, carry_out, command, tell
from medrobust.cli.options import RUN, Options, with_options
from medrobust.jobs.experiment import PARTS, Experiment
from medrobust.jobs.parts import CertifySettings

PLAIN = ("schema_version", *PARTS)  # of an experiment: all but its parts


@command(RUNS)
def demo(
    out: Out = Path("runs/demo"),
    show: Annotated[bool, typer.Option("--show", help="Print the demo's experiment, to start your own from.")] = False,
    as_json: Json = False,
) -> None:
    """Fit, certify and report on synthetic blood smears with the built-in model; about two minutes."""
    from importlib.resources import as_file, files

    from medrobust.jobs.experiment import load_experiment

    with as_file(files("medrobust") / "demo.yaml") as path:
        if show:
            typer.echo(path.read_text(encoding="utf-8"), nl=False)
        else:
            carry_out(load_experiment(path), out, as_json)


@command(RUNS)
def run(
    file: Annotated[Path, typer.Argument(help="An experiment in YAML.")],
    out: Out = Path("runs/run"),
    as_json: Json = False,
) -> None:
    """Carry out the parts of an experiment from a YAML file; an interrupted one goes on where it stopped."""
    from medrobust.jobs.experiment import load_experiment

    carry_out(load_experiment(file), out, as_json)


@command(RUNS)
@with_options(
    Options(Experiment, RUN, without=PLAIN, required=("data", "defences")),
    Options(CertifySettings, "Certificates"),
)
def certify(out: Out, given: dict[type, dict[str, Any]], transfer: Transfer = False, as_json: Json = False) -> None:
    """Certify images under one or several defences, in one pass over the noise for each encoder."""
    from medrobust.cli.choices import experiment_of

    carry_out(experiment_of(given, transfer=transfer, certify=CertifySettings), out, as_json)


@command(RUNS)
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")], as_json: Json = False) -> None:
    """Make summary, tables, curves and page anew from the rows of a run, also of an unfinished one."""
    from medrobust.results.folder import republish

    tell(republish(folder), folder, as_json)
