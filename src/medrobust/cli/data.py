"""Commands about images themselves: data check, and data tiles."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from medrobust.cli.app import DATA, Json, Model, app, command_of, reporter
from medrobust.cli.options import Options, values_of, with_options
from medrobust.jobs.check_settings import CheckSettings
from medrobust.jobs.tiles_settings import TilesSettings

data = typer.Typer(help="Look at images before anything else, or cut slides into them.", no_args_is_help=True)
app.add_typer(data, name="data", rich_help_panel=DATA)


@command_of(data)
@with_options(Options(CheckSettings, without=("data",)))
def check(
    path: Annotated[str, typer.Argument(help="What --data takes: a folder, manifest, .npz, MedMNIST name or phantom.")],
    given: dict[type, dict[str, Any]],
    as_json: Json = False,
) -> None:
    """Read every image once and tell what would make results wrong; exit code 1 where something would."""
    from medrobust.data.check.text import check_text
    from medrobust.jobs.check import check_images
    from medrobust.settings import parse

    settings = parse(CheckSettings, {"data": path} | values_of(given, CheckSettings), "command line")
    with reporter() as told:
        found = check_images(settings, tell=told)
    typer.echo(json.dumps(found.to_json(), indent=2) if as_json else check_text(found))
    if not found.usable:
        raise typer.Exit(1)


@command_of(data)
@with_options(Options(TilesSettings, defaults={"size": None}))
def tiles(
    slide: Annotated[Path, typer.Argument(help="A whole-slide image: svs, ndpi, mrxs, scn, bif, tiled TIFF.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the tiles.")],
    given: dict[type, dict[str, Any]],
    model: Model = "builtin",
    as_json: Json = False,
) -> None:
    """Cut a whole-slide image into PNG tiles with a list; the same command goes on where it was interrupted."""
    from medrobust.jobs.executors import here
    from medrobust.jobs.job import carry_out
    from medrobust.jobs.tiles import TILES
    from medrobust.settings import parse

    values = {"slide": slide} | values_of(given, TilesSettings)
    if "size" not in values:
        from medrobust.models import load

        values |= {"size": load(model).preprocess.size}
    with reporter() as told:
        found = carry_out(TILES, parse(TilesSettings, values, "command line"), out, execute=here, tell=told)
    typer.echo(json.dumps(found.to_json(), indent=2) if as_json else found.sentence)
