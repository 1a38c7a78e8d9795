"""The command that asks questions about images: vqa."""

import json
from typing import Annotated, Any

import typer

from medrobust.cli.app import RUNS, Json, Out, SetValues, command, reporter
from medrobust.cli.options import Options, values_of, with_options
from medrobust.vqa.settings import VqaSettings

Recipes = Annotated[list[str], typer.Option("--recipe", help="linear, mlp, nmtune or ran; repeat. All unless given.")]


@command(RUNS)
@with_options(Options(VqaSettings, without=("recipes",), defaults={"eps": ["1/255"]}))
def vqa(
    out: Out,
    given: dict[type, dict[str, Any]],
    recipe: Recipes = [],  # noqa: B006 - typer copies it
    set_: SetValues = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Learn to answer questions about images; accuracy of closed and open ones, clean and under attack."""
    from medrobust.cli.choices import settings_of
    from medrobust.jobs.ask import VQA
    from medrobust.jobs.executors import here
    from medrobust.jobs.job import carry_out
    from medrobust.machine import use_threads
    from medrobust.settings import parse
    from medrobust.vqa.recipes import RECIPES, make_recipes

    recipes = make_recipes(recipe or list(RECIPES), settings_of(set_))
    values = values_of(given, VqaSettings)
    values["recipes"] = {name: chosen.model_dump(mode="json") for name, chosen in recipes.items()}
    settings = parse(VqaSettings, values, "command line")
    use_threads(settings.threads)
    with reporter() as told:
        result = carry_out(VQA, settings, out, execute=here, tell=told)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2, sort_keys=True))
        return
    typer.echo((out / "vqa.md").read_text(encoding="utf-8"))
