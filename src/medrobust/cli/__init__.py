"""The command line. Nothing heavy is imported before a command needs it."""

from typing import Annotated

import typer

from medrobust import __version__

# isort: off
# imported in the order in which the help lists their commands
from medrobust.cli import certifying as certifying
from medrobust.cli import auditing as auditing
from medrobust.cli import attacking as attacking
from medrobust.cli import evaluating as evaluating
from medrobust.cli import probing as probing
from medrobust.cli import questions as questions
from medrobust.cli import learning as learning
from medrobust.cli import poisoning as poisoning
from medrobust.cli import asking as asking
from medrobust.cli import data as data

# isort: on
from medrobust.cli.app import app as app


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of `medrobust`."""
    app()
