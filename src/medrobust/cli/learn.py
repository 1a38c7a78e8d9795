"""Commands that learn: fit, and pretrain."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medrobust.cli.app import (
    LEARNS,
    Data,
    Device,
    Json,
    Model,
    Out,
    Seed,
    Skip,
    Task,
    Threads,
    Transfer,
    command,
    reporter,
)
from medrobust.errors import ConfigError, RunError

if TYPE_CHECKING:
    from medrobust.jobs.pretrain import Attacked


@command(LEARNS)
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
    from medrobust.cli.choices import settings_of
    from medrobust.jobs.experiment import Experiment, parse_choice
    from medrobust.jobs.fit import STATE, fit_into
    from medrobust.learning.workers import joined
    from medrobust.machine import use_threads
    from medrobust.settings import parse

    choice = parse_choice(defence)
    if choice["from_state"]:
        raise ConfigError(f"fit makes a state; {defence!r} names one already")
    choice["settings"] |= settings_of(set_)
    choice |= {"base_state": str(base) if base else None, "transfer": transfer}
    target = out / STATE
    if target.exists() and not overwrite:
        raise RunError(f"{target} is there already; use another --out or --overwrite")
    with joined(device) as (workers, own_device), reporter(quiet=not workers.first) as told:
        if overwrite and workers.first:
            target.with_name("state.checkpoint.safetensors").unlink(missing_ok=True)
        values = {
            "model": model, "data": data, "task": task, "fit_split": split, "seed": seed, "device": own_device,
            "threads": threads, "skip_broken": skip_broken, "defences": [choice],
        }  # fmt: skip
        experiment = parse(Experiment, values, "command line")
        use_threads(experiment.threads)
        row = fit_into(out, experiment, tell=told, workers=workers)
    if not workers.first:
        return
    if as_json:
        typer.echo(json.dumps({"state": str(target), **asdict(row)}))
    else:
        typer.echo(f"{target}: {row.defence} for {row.model} on {row.task}, learned from {row.data}")


@command(LEARNS)
def pretrain(
    recipe: Annotated[str, typer.Argument(help="`builtin`, or a recipe in YAML.")] = "builtin",
    out: Out = Path("runs/pretrain"),
    steps: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's; also that of the attack.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="A model to go on from, instead of from scratch.")] = None,
    noise: Annotated[str | None, typer.Option(help="Attack this share of the pairs first: 10% or 0.1.")] = None,
    surrogate: Annotated[str, typer.Option(help="The model that the pairs are attacked with.")] = "builtin",
    eps: Annotated[str, typer.Option(help="Of that attack, in linf: 8/255 or 0.03.")] = "8/255",
    attack_steps: Annotated[int, typer.Option(min=1, help="Of that attack.")] = 100,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Train a small CLIP on image-caption pairs and score it; the built-in model is made this way."""
    from medrobust.jobs.pretrain import build_model
    from medrobust.machine import use_threads
    from medrobust.pairs.recipe import load_recipe

    wanted = load_recipe(recipe).timed(steps=steps, seed=seed)
    attacked = None if noise is None else _attacked(noise, surrogate, eps, attack_steps, wanted.training.seed)
    use_threads()
    with reporter() as told:
        made = build_model(wanted, out, attacked=attacked, start=from_, tell=told, device=device)
    if as_json:
        typer.echo(json.dumps(made.to_json()))
        return
    for task, score in made.zero_shot.items():
        low, high = 100 * score.low, 100 * score.high
        typer.echo(f"{task}: zero-shot {100 * score.value:.1f} % ({low:.1f} to {high:.1f}) of {score.total}")


def _attacked(share: str, surrogate: str, eps: str, steps: int, seed: int) -> "Attacked":
    from medrobust.attacks.ball import Ball
    from medrobust.jobs.pretrain import Attacked
    from medrobust.pairs.image_attack import EmbeddingAttack
    from medrobust.pairs.poison import Poison, parse_share

    ball = Ball.parse("linf", eps)
    return Attacked(Poison(parse_share(share), ball, EmbeddingAttack(steps=steps), seed=seed), surrogate)
