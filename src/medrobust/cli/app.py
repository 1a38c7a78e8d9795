"""The command line's frame: options that several commands share, errors as sentences, progress, printing."""

import errno
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medrobust.cli.options import annotated
from medrobust.errors import MedrobustError
from medrobust.jobs.experiment import DEFENCES, Experiment
from medrobust.jobs.parts import AttackSettings

if TYPE_CHECKING:
    from medrobust.results import RunSummary
    from medrobust.tell import Tell

app = typer.Typer(
    name="medrobust",
    help="Load a medical vision-language model, defend it, smooth it, certify it, tell the result. "
    "Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = annotated(Experiment, "model")
Data = annotated(Experiment, "data")
Task = annotated(Experiment, "task")
Revision = annotated(Experiment, "revision")
Limit = annotated(Experiment, "limit")
Seed = annotated(Experiment, "seed")
Device = annotated(Experiment, "device")
Threads = annotated(Experiment, "threads")
Skip = annotated(Experiment, "skip_broken")
Norm = annotated(AttackSettings, "norm")
Out = Annotated[Path, typer.Option("--out", "-o", help="The run folder.")]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")]
Transfer = Annotated[
    bool, typer.Option("--transfer", help="States learned on another task may be used.", rich_help_panel=DEFENCES)
]
SetValues = Annotated[
    list[str], typer.Option("--set", help="KEY=VALUE, for all named that have it, or NAME.KEY=VALUE; repeat.")
]

PANELS = RUNS, LEARNS, DATA, KNOWN = "Measure and certify", "Learn", "Images and pairs", "What is known by name"


def command(panel: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command, under a heading of the help, whose failures are one sentence and the right exit code."""
    return command_of(app, panel)


def command_of(group: typer.Typer, panel: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The same for a command of a group, such as `medrobust data check`."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except MedrobustError as error:
                fail(str(error), error.exit_code)
            except KeyboardInterrupt:
                fail("interrupted; what was written is safe, and the same command goes on from there", 130)
            except OSError as error:
                full = error.errno == errno.ENOSPC
                fail("the disk is full; what was written is safe" if full else f"{error}", 1)

        name = function.__name__.strip("_").replace("_", "-")
        return group.command(name=name, rich_help_panel=panel)(guarded)

    return register


def tell(summary: "RunSummary", folder: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary.to_json(), indent=2, sort_keys=True))
        return
    typer.echo((folder / "results.md").read_text(encoding="utf-8"))
    typer.echo(f"{folder / 'report.html'}", err=True)


def in_order() -> None:
    """Bring the commands into the order of their headings, which is that of the help."""
    app.registered_commands.sort(key=lambda one: PANELS.index(one.rich_help_panel))


def carry_out(experiment: Experiment, out: Path, as_json: bool) -> None:
    """Carry out an experiment on the threads that it may use, and print its summary."""
    from medrobust.jobs.run import run
    from medrobust.machine import use_threads

    use_threads(experiment.threads)
    with reporter() as told:
        summary = run(experiment, out, tell=told)
    tell(summary, out, as_json)


def listing(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for number, name in enumerate(rows[0]):
        table.add_column(name, overflow="fold", no_wrap=number == 0)  # no word is cut off, and the name can be copied
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@contextmanager
def reporter(*, quiet: bool = False) -> "Iterator[Tell]":
    """Sentences on stderr; progress bars too where that is a terminal; nothing of either where `quiet`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from medrobust.tell import Tell

    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:

        def show(title: str, done: int, total: int) -> None:
            if title not in bars:
                bars[title] = progress.add_task(title, total=total)
            progress.update(bars[title], completed=done, total=total)

        yield Tell(lambda text: console.print(text, markup=False), show)


def fail(message: str, code: int) -> None:
    typer.echo(f"medrobust: {message}", err=True)
    raise typer.Exit(code)
