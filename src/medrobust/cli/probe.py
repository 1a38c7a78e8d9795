"""The command that compares heads on one or several models: probe."""

import json
from typing import Annotated, Any

import typer

from medrobust.cli.app import (
    Attacks,
    Data,
    Device,
    Eps,
    FitData,
    FitSplit,
    Json,
    Limit,
    Norm,
    Out,
    Seed,
    Skip,
    Task,
    Threads,
    command,
    reporter,
)

Models = Annotated[list[str], typer.Option("--model", "-m", help="As for fit; repeat, the models are compared.")]
Recipes = Annotated[
    list[str],
    typer.Option("--recipe", help="A head from `medrobust defences`; repeat. All but mlp-probe unless given."),
]
Settings = Annotated[
    list[str],
    typer.Option("--set", help="KEY=VALUE, for all heads and attacks that have it, or NAME.KEY=VALUE; repeat."),
]


@command
def probe(
    out: Out,
    data: Data,
    model: Models = ["builtin"],  # noqa: B006 - typer copies it
    recipe: Recipes = [],  # noqa: B006
    set_: Settings = [],  # noqa: B006
    task: Task = None,
    split: Annotated[str, typer.Option(help="Which images are answered and attacked.")] = "test",
    limit: Limit = None,
    attack: Attacks = ["pgd"],  # noqa: B006
    norm: Norm = "linf",
    eps: Eps = ["1/255"],  # noqa: B006
    batch: Annotated[int, typer.Option(min=1, help="Images attacked at once; it decides the last bits.")] = 64,
    fit_data: FitData = None,
    fit_split: FitSplit = "train",
    threads: Threads = None,
    seed: Seed = 0,
    device: Device = "cpu",
    skip_broken: Skip = False,
    as_json: Json = False,
) -> None:
    """Learn heads on the features of one or several models; clean accuracy and accuracy under attack in one table."""
    from medrobust.cli.choices import attack_settings
    from medrobust.jobs.experiment import checked
    from medrobust.jobs.probe import RECIPES, recipes_of
    from medrobust.jobs.probe import probe as carry_out

    heads, attacks = _told(list(recipe or RECIPES), attack, set_)
    settings = attack_settings(attack, norm, eps, batch, given=attacks)
    values = {
        "data": data, "task": task, "split": split, "limit": limit, "fit_data": fit_data, "fit_split": fit_split,
        "threads": threads, "seed": seed, "device": device, "skip_broken": skip_broken,
        "defences": recipes_of(recipe or RECIPES, heads),
    }  # fmt: skip
    with reporter() as told:
        result = carry_out(model, checked(values, "command line"), settings, out, reporter=told)
    if as_json:
        typer.echo(json.dumps(result, indent=2, sort_keys=True))
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
