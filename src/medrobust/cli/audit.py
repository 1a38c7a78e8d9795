"""The command that puts a run's certificates to the test."""

import json
from pathlib import Path
from typing import Annotated

import typer

from medrobust.cli.app import Json, Seed, command, reporter


@command
def audit(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    attacks: Annotated[int, typer.Option(min=0, help="Certificates attacked, for each defence.")] = 20,
    redraws: Annotated[int, typer.Option(min=0, help="Images certified again with other seeds.")] = 10,
    border: Annotated[int, typer.Option(min=0, help="Images between two classes, certified many times.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Of an attack.")] = 10,
    draws: Annotated[int, typer.Option(min=1, help="Noisy copies behind each step of an attack.")] = 32,
    seed: Seed = 0,
    records_only: Annotated[bool, typer.Option("--records-only", help="Without model and images.")] = False,
    as_json: Json = False,
) -> None:
    """Recompute, attack and redraw a run's certificates; exit code 1 where one does not hold."""
    from medrobust.jobs.audit import Depth
    from medrobust.jobs.audit import audit as carry_out
    from medrobust.results.audit_summary import AuditSummary
    from medrobust.results.sections.audited import audit_markdown
    from medrobust.results.values import from_json

    depth = Depth(
        attacks=attacks, redraws=redraws, border=border, steps=steps, draws=draws, seed=seed, records_only=records_only
    )
    with reporter() as told:
        found = carry_out(folder, depth, reporter=told)
    summary = from_json(AuditSummary, found)
    typer.echo(json.dumps(found, indent=2) if as_json else audit_markdown(summary))
    if summary.findings:
        raise typer.Exit(1)
