"""The command that carries on a run from its folder: resume."""

import json
from pathlib import Path
from typing import Annotated

import typer

from medrobust.cli.app import RUNS, Json, command, reporter, tell


@command(RUNS)
def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    as_json: Json = False,
) -> None:
    """Carry on an interrupted run from its folder alone; what is finished is told again."""
    from medrobust.jobs.resume import resume as carry_on
    from medrobust.jobs.resume import standing_in
    from medrobust.machine import use_threads
    from medrobust.results import RunSummary

    standing = standing_in(folder)
    use_threads(standing.threads)
    with reporter() as told:
        summary = carry_on(standing, tell=told)
    table = folder / f"{standing.kind.name}.md"
    if isinstance(summary, RunSummary):
        tell(summary, folder, as_json)
    elif as_json or not table.exists():
        found = summary if isinstance(summary, dict) else summary.to_json()
        typer.echo(json.dumps(found, indent=2, sort_keys=True))
    else:
        typer.echo(table.read_text(encoding="utf-8"))
