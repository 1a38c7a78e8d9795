"""The command line. Nothing heavy is imported before a command needs it."""

from typing import Annotated

import typer

from medrobust import __version__

# isort: off
# imported in the order in which the help lists their commands
from medrobust.cli import certify as certify
from medrobust.cli import resume as resume
from medrobust.cli import audit as audit
from medrobust.cli import attack as attack
from medrobust.cli import probe as probe
from medrobust.cli import ask as ask
from medrobust.cli import learn as learn
from medrobust.cli import poison as poison
from medrobust.cli import predict as predict
from medrobust.cli import data as data
from medrobust.cli import config as config

# isort: on
from medrobust.cli.app import app as app
from medrobust.cli.app import in_order

in_order()


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of `medrobust`."""
    app()
