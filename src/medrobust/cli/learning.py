"""Commands that learn: fit, and pretrain."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from medrobust.cli.app import Data, Device, Json, Model, Out, Seed, Skip, Task, Threads, Transfer, command, reporter
from medrobust.errors import ConfigError, RunError


@command
def fit(
    out: Out,
    data: Data,
    defence: Annotated[str, typer.Option("--defence", help="NAME[:MODE], see `medrobust defences`.")],
    model: Model = "builtin",
    task: Task = None,
    split: Annotated[str, typer.Option(help="Which images it learns from.")] = "train",
    base: Annotated[Path | None, typer.Option(help="A state whose vision weights this is learned on top of.")] = None,
    set_: Annotated[list[str], typer.Option("--set", help="A setting of the defence, KEY=VALUE; repeat.")] = [],  # noqa: B006
    transfer: Transfer = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a state, or a training cut off, that is there.")] = False,
    threads: Threads = None,
    seed: Seed = 0,
    device: Device = "cpu",
    skip_broken: Skip = False,
    as_json: Json = False,
) -> None:
    """Learn what a defence has to learn, and keep it as OUT/state.safetensors."""
    from medrobust.experiment import checked, parse_choice
    from medrobust.fitting import fit_into
    from medrobust.parallel import joined

    choice = parse_choice(defence)
    if choice["state"]:
        raise ConfigError(f"fit makes a state; {defence!r} names one already")
    choice["settings"] |= _settings(set_)
    choice |= {"base": str(base) if base else None, "transfer": transfer}
    target = out / "state.safetensors"
    if target.exists() and not overwrite:
        raise RunError(f"{target} is there already; use another --out or --overwrite")
    with joined(device) as (workers, own_device), reporter(quiet=not workers.first) as told:
        if overwrite and workers.first:
            target.with_name("state.checkpoint.safetensors").unlink(missing_ok=True)
        values = {
            "model": model, "data": data, "task": task, "fit_split": split, "seed": seed, "device": own_device,
            "threads": threads, "skip_broken": skip_broken, "defences": [choice],
        }  # fmt: skip
        header = fit_into(target, checked(values, "command line"), reporter=told, workers=workers)
    if not workers.first:
        return
    if as_json:
        typer.echo(json.dumps({"state": str(target), **header.model_dump(mode="json")}))
    else:
        typer.echo(f"{target}: {header.defence} for {header.model} on {header.task}, learned from {header.data}")


@command
def pretrain(
    recipe: Annotated[str, typer.Argument(help="`builtin`, or a recipe in YAML.")] = "builtin",
    out: Out = Path("runs/pretrain"),
    steps: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    as_json: Json = False,
) -> None:
    """Train a small CLIP on image-caption pairs and score it; the built-in model is made this way."""
    from medrobust.build import build
    from medrobust.upstream.recipe import load_recipe

    wanted = load_recipe(recipe)
    if steps is not None:
        training = wanted.training.model_copy(
            update={"steps": steps, "warmup": min(wanted.training.warmup, steps // 2)}
        )
        wanted = wanted.model_copy(update={"training": training})
    with reporter() as told:
        made = build(wanted, out, reporter=told)
    if as_json:
        typer.echo(json.dumps(made))
        return
    for task, score in made["zero_shot"].items():
        low, high = 100 * score["low"], 100 * score["high"]
        typer.echo(f"{task}: zero-shot {100 * score['value']:.1f} % ({low:.1f} to {high:.1f}) of {score['total']}")


def _settings(texts: list[str]) -> dict[str, Any]:
    import yaml

    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes KEY=VALUE, got {text!r}")
        settings[key.strip()] = yaml.safe_load(value)
    return settings
