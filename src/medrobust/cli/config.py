"""Commands about settings files: config schema, and config show."""

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from medrobust.cli.app import KNOWN, app, command_of
from medrobust.errors import ConfigError, nearest
from medrobust.jobs.experiment import Experiment, load_experiment
from medrobust.settings import schema_of, to_yaml
from medrobust.vqa.settings import VqaSettings

SCHEMAS: dict[str, type[BaseModel]] = {"experiment": Experiment, "vqa": VqaSettings}

config = typer.Typer(help="Show settings files: their JSON Schema, and a file as understood.", no_args_is_help=True)
app.add_typer(config, name="config", rich_help_panel=KNOWN)


@command_of(config)
def schema(of: Annotated[str, typer.Argument(metavar="OF", help="experiment or vqa.")] = "experiment") -> None:
    """Print the JSON Schema of an experiment, or of vqa.yaml, for editors that complete and check YAML."""
    if of not in SCHEMAS:
        raise ConfigError(f"no schema of {of!r}{nearest(of, SCHEMAS)}; there are {', '.join(SCHEMAS)}")
    typer.echo(json.dumps(schema_of(SCHEMAS[of]), indent=2))


@command_of(config)
def show(file: Annotated[Path, typer.Argument(help="An experiment in YAML, of version 1 or 2.")]) -> None:
    """Print an experiment as it is understood, in version 2, with every default filled in."""
    typer.echo(to_yaml(load_experiment(file)), nl=False)
