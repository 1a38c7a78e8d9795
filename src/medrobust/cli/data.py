"""Commands about images themselves: data check, and data tiles."""

import json
from pathlib import Path
from typing import Annotated

import typer

from medrobust.cli.app import DATA, Json, Model, Task, app, command_of, reporter

data = typer.Typer(help="Look at images before anything else, or cut slides into them.", no_args_is_help=True)
app.add_typer(data, name="data", rich_help_panel=DATA)


@command_of(data)
def check(
    path: Annotated[str, typer.Argument(help="What --data takes: a folder, manifest, .npz, MedMNIST name or phantom.")],
    task: Task = None,
    model: Model = "builtin",
    split: Annotated[str | None, typer.Option(help="Only this split; all of them unless given.")] = None,
    as_json: Json = False,
) -> None:
    """Read every image once and tell what would make results wrong; exit code 1 where something would."""
    from medrobust.data.check.check import check as look
    from medrobust.data.check.text import check_text
    from medrobust.data.taskfile import load_task
    from medrobust.models import load

    known = load_task(task) if task else None
    preprocess = load(model).preprocess
    with reporter() as told:
        found = look(path, known, preprocess=preprocess, split=split, say=told.say, progress=told.progress)
    found["preprocess"]["model"] = model
    typer.echo(json.dumps(found, indent=2) if as_json else check_text(found))
    if not found["usable"]:
        raise typer.Exit(1)


@command_of(data)
def tiles(
    slide: Annotated[Path, typer.Argument(help="A whole-slide image: svs, ndpi, mrxs, scn, bif, tiled TIFF.")],
    magnification: Annotated[float, typer.Option(help="As of an objective; 10 is about one micron a pixel.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the tiles.")],
    size: Annotated[
        int | None, typer.Option(help="Pixels of a tile's side; what the model takes unless given.")
    ] = None,
    overlap: Annotated[int, typer.Option(help="Pixels that neighbours share.")] = 0,
    tissue: Annotated[float, typer.Option(help="Tiles with a smaller share of tissue are left out.")] = 0.25,
    model: Model = "builtin",
    as_json: Json = False,
) -> None:
    """Cut a whole-slide image into PNG tiles with a list; the same command goes on where it was interrupted."""
    from medrobust.data.slides import Cut, cut_tiles

    if size is None:
        from medrobust.models import load

        size = load(model).preprocess.size
    with reporter() as told:
        found = cut_tiles(slide, Cut(magnification, size, overlap, tissue), out, say=told.say, progress=told.progress)
    left = f"{found['left_out']} without tissue left out"
    typer.echo(json.dumps(found, indent=2) if as_json else f"{found['list']}: {found['tiles']} tiles, {left}")
