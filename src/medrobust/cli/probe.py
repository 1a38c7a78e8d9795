"""The command that compares heads on one or several models: probe."""

import json
from typing import Annotated, Any

import typer

from medrobust.cli.app import RUNS, Json, Out, SetValues, command, reporter
from medrobust.cli.certify import PLAIN
from medrobust.cli.options import RUN, Options, with_options
from medrobust.jobs.experiment import Experiment
from medrobust.jobs.parts import AttackSettings

Models = Annotated[list[str], typer.Option("--model", "-m", help="As for fit; repeat, the models are compared.")]
Recipes = Annotated[
    list[str],
    typer.Option("--recipe", help="A head from `medrobust defences`; repeat. All but mlp-probe unless given."),
]


@command(RUNS)
@with_options(
    Options(Experiment, RUN, without=(*PLAIN, "model", "revision", "defences"), required=("data",)),
    Options(AttackSettings, "Attack", without=("sigma",), defaults={"attacks": ["pgd"], "eps": ["1/255"]}),
)
def probe(
    out: Out,
    given: dict[type, dict[str, Any]],
    model: Models = ["builtin"],  # noqa: B006 - typer copies it
    recipe: Recipes = [],  # noqa: B006
    set_: SetValues = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Learn heads on the features of one or several models; clean accuracy and accuracy under attack in one table."""
    from medrobust.cli.choices import experiment_of
    from medrobust.jobs.probe import RECIPES, recipes_of
    from medrobust.jobs.probe import probe as carry_out
    from medrobust.machine import use_threads

    told, given[AttackSettings]["settings"] = _told(list(recipe or RECIPES), given[AttackSettings]["attacks"], set_)
    heads = recipes_of(recipe or RECIPES, told)
    experiment = experiment_of(given, attack=AttackSettings).model_copy(update={"defences": tuple(heads)})
    use_threads(experiment.threads)
    with reporter() as speak:
        result = carry_out(model, experiment, out, tell=speak)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2, sort_keys=True))
        return
    typer.echo((out / "probe.md").read_text(encoding="utf-8"))


def _told(recipes: list[str], attacks: list[str], texts: list[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """`--set` for the heads, as NAME.KEY, and by attack. Raises MedrobustError for a name or setting nobody has."""
    from medrobust.cli.choices import fields_of_attacks, settings_of
    from medrobust.defences import DEFENCES
    from medrobust.jobs.probe import recipes_of
    from medrobust.settings import spread

    recipes_of(recipes, {})
    fields = {name: list(DEFENCES[name].settings.model_fields) for name in recipes} | fields_of_attacks(attacks)
    told = spread(fields, settings_of(texts))
    heads = {f"{name}.{key}": value for name in recipes for key, value in told[name].items()}
    return heads, {name: told[name] for name in attacks}
