"""The command that puts a run's certificates to the test."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medrobust.cli.app import RUNS, Json, command, reporter
from medrobust.cli.options import Options, with_options
from medrobust.jobs.parts import AuditSettings


@command(RUNS)
@with_options(Options(AuditSettings, "Audit"))
def audit(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    given: dict[type, dict[str, Any]],
    as_json: Json = False,
) -> None:
    """Recompute, attack and redraw a run's certificates; exit code 1 where one does not hold."""
    from medrobust.jobs.audit import audit as carry_out
    from medrobust.machine import use_threads
    from medrobust.results.sections.audited import audit_markdown
    from medrobust.settings import parse

    settings = parse(AuditSettings, given[AuditSettings], "command line")
    use_threads(_threads_of(folder))
    with reporter() as told:
        found = carry_out(folder, settings, tell=told)
    typer.echo(found.to_text().removesuffix("\n") if as_json else audit_markdown(found))
    if found.findings:
        raise typer.Exit(1)


def _threads_of(folder: Path) -> int | None:
    """The threads that the run was asked to use."""
    from medrobust.jobs.experiment import load_experiment

    path = folder / "experiment.yaml"
    return load_experiment(path).threads if path.exists() else None
