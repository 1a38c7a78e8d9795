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

from medrobust.errors import MedrobustError

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

Model = Annotated[
    str, typer.Option("--model", "-m", help="A name from `medrobust models`, a hub id, a folder, or NAME=PATH.")
]
Data = Annotated[
    str, typer.Option("--data", "-d", help="A folder, a manifest (csv, jsonl), an .npz, a MedMNIST name, or phantom.")
]
Task = Annotated[str | None, typer.Option("--task", "-t", help="A name from `medrobust tasks`, or a YAML file.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The run folder.")]
Seed = Annotated[int, typer.Option("--seed", help="Every random number follows from it.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")]
Transfer = Annotated[bool, typer.Option("--transfer", help="States learned on another task may be used.")]
Skip = Annotated[bool, typer.Option("--skip-broken", help="Leave out images that cannot be decoded.")]
Defences = Annotated[list[str], typer.Option("--defence", help="NAME[:MODE][=STATE.safetensors]; repeat for several.")]
Sigmas = Annotated[list[float], typer.Option("--sigma", help="Noise level in pixels of [0, 1]; repeat for several.")]
Revision = Annotated[str | None, typer.Option(help="Of a hub id: a branch, tag or commit.")]
Limit = Annotated[int | None, typer.Option(help="So many images, balanced over the classes.")]
FitData = Annotated[str | None, typer.Option(help="Where defences without a state learn.")]
FitSplit = Annotated[str, typer.Option(help="Which images they learn from.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; all that the process may use unless given.")]
Draws = Annotated[int, typer.Option("--n-max", "--n", help="Draws that are counted, at most, for each image.")]
Selection = Annotated[int, typer.Option("--n0", help="Draws that choose the class.")]
Alpha = Annotated[float, typer.Option(help="Probability that a certificate is false, for each image.")]
Stopping = Annotated[
    str,
    typer.Option(help="spending: stop once every radius is decided; anytime: the same, any radius; fixed: never."),
]
Radii = Annotated[
    str | None, typer.Option(help="Radii to certify: one, or several with commas, 0,0.25,0.5; fewer cost less.")
]
CopyBatch = Annotated[
    int | None,
    typer.Option("--batch", help="Noisy copies an encoder pass, part of what is certified; measured unless given."),
]
Attacks = Annotated[
    list[str], typer.Option("--attack", help="A name from `medrobust attacks`; repeat, they run in this order.")
]
Norm = Annotated[str, typer.Option(help="Of the ball: linf or l2.")]
Eps = Annotated[list[str], typer.Option(help="Its size in pixels of [0, 1]: 8/255 or 0.03; repeat for several.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command whose failures are one sentence and the right exit code."""
    return command_of(app)(function)


def command_of(group: typer.Typer) -> Callable[[Callable[..., None]], Callable[..., None]]:
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

        return group.command(name=function.__name__.strip("_").replace("_", "-"))(guarded)

    return register


def tell(summary: "RunSummary", folder: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary.to_json(), indent=2, sort_keys=True))
        return
    typer.echo((folder / "results.md").read_text(encoding="utf-8"))
    typer.echo(f"{folder / 'report.html'}", err=True)


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
