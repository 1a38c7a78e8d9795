"""The command that compares heads on one or several models: probe."""

import json
from typing import Annotated

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
    list[str], typer.Option("--set", help="KEY=VALUE, for the heads that have it, or RECIPE.KEY=VALUE; repeat.")
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
    from medrobust.cli.choices import attack_settings, settings_of
    from medrobust.jobs.experiment import checked
    from medrobust.jobs.probe import RECIPES, recipes_of
    from medrobust.jobs.probe import probe as carry_out

    settings = attack_settings(attack, norm, eps, batch)
    values = {
        "data": data, "task": task, "split": split, "limit": limit, "fit_data": fit_data, "fit_split": fit_split,
        "threads": threads, "seed": seed, "device": device, "skip_broken": skip_broken,
        "defences": recipes_of(recipe or RECIPES, settings_of(set_)),
    }  # fmt: skip
    with reporter() as told:
        result = carry_out(model, checked(values, "command line"), settings, out, reporter=told)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2, sort_keys=True))
        return
    typer.echo((out / "probe.md").read_text(encoding="utf-8"))
