"""The command that attacks training data: poison."""

import json
from typing import Any

import typer

from medrobust.cli.app import DATA, Json, Out, command, reporter
from medrobust.cli.options import Options, values_of, with_options
from medrobust.pairs.settings import PoisonSettings


@command(DATA)
@with_options(Options(PoisonSettings, defaults={"eps": "8/255"}))
def poison(out: Out, given: dict[type, dict[str, Any]], as_json: Json = False) -> None:
    """Copy image-caption pairs, a share of them attacked, so that image and caption no longer fit."""
    from medrobust.jobs.executors import here
    from medrobust.jobs.job import carry_out
    from medrobust.jobs.poison import POISON
    from medrobust.machine import use_threads
    from medrobust.settings import parse

    settings = parse(PoisonSettings, values_of(given, PoisonSettings), "command line")
    use_threads(settings.threads)
    with reporter() as told:
        summary = carry_out(POISON, settings, out, execute=here, tell=told)
    typer.echo(json.dumps(summary.to_json(pairs=False), indent=2) if as_json else summary.sentence(out))
