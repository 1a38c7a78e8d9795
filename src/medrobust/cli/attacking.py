"""Commands that attack: attack, and what attacks there are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medrobust.cli.app import Device, Json, Model, Out, Seed, Skip, Task, command, listing, reporter, tell
from medrobust.errors import ConfigError

if TYPE_CHECKING:
    from medrobust.experiment import Experiment


@command
def attack(
    out: Out,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="As for certify; without it, the run in OUT is attacked.")
    ] = None,
    defence: Annotated[list[str], typer.Option("--defence", help="NAME[:MODE][=STATE.safetensors]; repeat.")] = [],  # noqa: B006 - typer copies it
    model: Model = "builtin",
    revision: Annotated[str | None, typer.Option(help="Of a hub id: a branch, tag or commit.")] = None,
    task: Task = None,
    split: Annotated[str, typer.Option(help="Which images are attacked.")] = "test",
    limit: Annotated[int | None, typer.Option(help="So many images, balanced over the classes.")] = None,
    attack_: Annotated[
        list[str], typer.Option("--attack", help="A name from `medrobust attacks`; repeat, they run in this order.")
    ] = ["autoattack"],  # noqa: B006
    norm: Annotated[str, typer.Option(help="Of the ball: linf or l2.")] = "linf",
    eps: Annotated[str, typer.Option(help="Its size in pixels of [0, 1]: 8/255 or 0.03.")] = "8/255",
    sigma: Annotated[
        float | None, typer.Option(help="Noise under which prompts are tuned on the clean image, before the attack.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images attacked at once; it decides the last bits.")] = 64,
    fit_data: Annotated[str | None, typer.Option(help="Where defences without a state learn.")] = None,
    fit_split: Annotated[str, typer.Option(help="Which images they learn from.")] = "train",
    threads: Annotated[int | None, typer.Option(help="CPU threads; all that the process may use unless given.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    skip_broken: Skip = False,
    as_json: Json = False,
) -> None:
    """Attack images under one or several defences; what no attack breaks is robust accuracy."""
    from medrobust.attacking import AttackSettings
    from medrobust.attacking import attack as carry_out
    from medrobust.attacks import Ball
    from medrobust.cli.choices import chosen
    from medrobust.experiment import checked

    ball = Ball.parse(norm, eps)
    settings = AttackSettings(attacks=tuple(attack_), norm=ball.norm, eps=ball.eps, sigma=sigma, batch=batch)
    if data is None:
        experiment = _experiment_of(out, limit, defence)
    else:
        values = {
            "model": model, "revision": revision, "data": data, "task": task, "split": split, "limit": limit,
            "fit_data": fit_data, "fit_split": fit_split, "threads": threads, "seed": seed, "device": device,
            "skip_broken": skip_broken, "defences": chosen(defence or ["zero-shot"]),
        }  # fmt: skip
        experiment = checked(values, "command line")
    with reporter() as told:
        summary = carry_out(experiment, settings, out, reporter=told)
    tell(summary, out, as_json)


@command
def attacks(as_json: Json = False) -> None:
    """The attacks, what they need, and where they come from."""
    from medrobust.attacks import ATTACKS

    rows = [
        {"name": name, "title": e.title, "needs gradients": "yes" if e.needs_gradients else "no",
         "fewest classes": e.fewest_classes, "reference": e.reference} for name, e in ATTACKS.items()
    ]  # fmt: skip
    listing(rows, as_json)


def _experiment_of(out: Path, limit: int | None, defence: list[str]) -> "Experiment":
    """The experiment that a run folder holds, for so many images."""
    from medrobust.experiment import load_experiment

    path = out / "experiment.yaml"
    if not path.exists():
        raise ConfigError(f"{out} holds no run whose images could be attacked; name images with --data")
    if defence:
        raise ConfigError(f"without --data the defences of the run in {out} are attacked; leave out --defence")
    experiment = load_experiment(path)
    return experiment if limit is None else experiment.model_copy(update={"limit": limit})
