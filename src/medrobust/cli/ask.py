"""The command that asks questions about images: vqa."""

import json
from typing import Annotated

import typer

from medrobust.cli.app import Device, Eps, Json, Model, Norm, Out, Seed, Skip, Threads, command, reporter

Images = Annotated[str, typer.Option("--data", "-d", help="The images: a folder, or an .npz.")]
Questions = Annotated[list[str], typer.Option("--questions", "-q", help="A .json, .jsonl or .csv file; repeat.")]
Recipes = Annotated[list[str], typer.Option("--recipe", help="linear, mlp, nmtune or ran; repeat. All unless given.")]
Settings = Annotated[
    list[str], typer.Option("--set", help="KEY=VALUE, for the recipes that have it, or RECIPE.KEY=VALUE; repeat.")
]


@command
def vqa(
    out: Out,
    data: Images,
    questions: Questions,
    model: Model = "builtin",
    recipe: Recipes = [],  # noqa: B006 - typer copies it
    set_: Settings = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="Which questions are asked.")] = "test",
    fit_split: Annotated[str, typer.Option(help="Which questions are learned from.")] = "train",
    official: Annotated[
        bool, typer.Option("--official", help="VQA-RAD's own split by phrase_type; images are shared.")
    ] = False,
    language: Annotated[
        str, typer.Option(help="Of the questions, where the files say it; others are left out.")
    ] = "en",
    limit: Annotated[int | None, typer.Option(min=1, help="All questions about so many images.")] = None,
    norm: Norm = "linf",
    eps: Eps = ["1/255"],  # noqa: B006
    attack_steps: Annotated[int, typer.Option(min=1, help="Of PGD.")] = 20,
    batch: Annotated[int, typer.Option(min=1, help="Questions attacked at once; it decides the last bits.")] = 64,
    threads: Threads = None,
    seed: Seed = 0,
    device: Device = "cpu",
    skip_broken: Skip = False,
    as_json: Json = False,
) -> None:
    """Learn to answer questions about images; accuracy of closed and open ones, clean and under attack."""
    from medrobust.attacks import Ball
    from medrobust.cli.choices import settings_of
    from medrobust.jobs.ask import ask
    from medrobust.vqa.recipes import RECIPES, make_recipes
    from medrobust.vqa.settings import Asking

    balls = [Ball.parse(norm, size) for size in eps]
    recipes = make_recipes(recipe or list(RECIPES), settings_of(set_))
    asking = Asking(
        model=model, data=data, questions=tuple(questions), split=split, fit_split=fit_split, official=official,
        language=language,
        recipes={name: chosen.model_dump(mode="json") for name, chosen in recipes.items()}, limit=limit,
        norm=balls[0].norm, eps=tuple(sorted(ball.eps for ball in balls)), attack_steps=attack_steps, batch=batch,
        threads=threads, seed=seed, device=device, skip_broken=skip_broken,
    )  # fmt: skip
    with reporter() as told:
        result = ask(asking, out, reporter=told)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2, sort_keys=True))
        return
    typer.echo((out / "vqa.md").read_text(encoding="utf-8"))
