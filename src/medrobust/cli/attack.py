"""Commands that attack: attack, and what attacks there are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medrobust.cli.app import (
    Attacks,
    AttackSettingTexts,
    Device,
    Eps,
    FitData,
    FitSplit,
    Json,
    Limit,
    Model,
    Norm,
    Out,
    Revision,
    Seed,
    Skip,
    Task,
    Threads,
    Transfer,
    command,
    listing,
    reporter,
    tell,
)
from medrobust.errors import ConfigError

if TYPE_CHECKING:
    from medrobust.jobs.experiment import Experiment


@command
def attack(
    out: Out,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="As for certify; without it, the run in OUT is attacked.")
    ] = None,
    defence: Annotated[list[str], typer.Option("--defence", help="NAME[:MODE][=STATE.safetensors]; repeat.")] = [],  # noqa: B006 - typer copies it
    model: Model = "builtin",
    revision: Revision = None,
    task: Task = None,
    split: Annotated[str, typer.Option(help="Which images are attacked.")] = "test",
    limit: Limit = None,
    attack_: Attacks = ["autoattack"],  # noqa: B006
    set_: AttackSettingTexts = [],  # noqa: B006
    norm: Norm = "linf",
    eps: Eps = ["8/255"],  # noqa: B006
    sigma: Annotated[
        float | None, typer.Option(help="Noise under which prompts are tuned on the clean image, before the attack.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images attacked at once; it decides the last bits.")] = 64,
    transfer: Transfer = False,
    fit_data: FitData = None,
    fit_split: FitSplit = "train",
    threads: Threads = None,
    seed: Seed = 0,
    device: Device = "cpu",
    skip_broken: Skip = False,
    as_json: Json = False,
) -> None:
    """Attack images under one or several defences; what no attack breaks is robust accuracy."""
    from medrobust.cli.choices import attack_settings, chosen, settings_of_attacks
    from medrobust.jobs.attack import attack as carry_out
    from medrobust.jobs.experiment import checked

    settings = attack_settings(attack_, norm, eps, batch, sigma, settings_of_attacks(attack_, set_))
    if data is None:
        experiment = _experiment_of(out, limit, defence)
    else:
        values = {
            "model": model, "revision": revision, "data": data, "task": task, "split": split, "limit": limit,
            "fit_data": fit_data, "fit_split": fit_split, "threads": threads, "seed": seed, "device": device,
            "skip_broken": skip_broken, "defences": chosen(defence or ["zero-shot"], transfer=transfer),
        }  # fmt: skip
        experiment = checked(values, "command line")
    with reporter() as told:
        summary = carry_out(experiment, settings, out, reporter=told)
    tell(summary, out, as_json)


@command
def attacks(as_json: Json = False) -> None:
    """The attacks, what they need, their settings, and where they come from."""
    import yaml

    from medrobust.attacks import ATTACKS

    rows = []
    for name, entry in ATTACKS.items():
        settings = entry.settings
        told = ", ".join(f"{key}={yaml.safe_dump(value).split()[0]}" for key, value in settings.items())
        rows.append({
            "name": name, "title": entry.title, "needs gradients": "yes" if entry.default.needs_gradients else "no",
            "fewest classes": entry.default.fewest_classes, "settings": settings if as_json else told,
            "reference": entry.reference,
        })  # fmt: skip
    listing(rows, as_json)


def _experiment_of(out: Path, limit: int | None, defence: list[str]) -> "Experiment":
    """The experiment that a run folder holds, for so many images."""
    from medrobust.jobs.experiment import load_experiment

    path = out / "experiment.yaml"
    if not path.exists():
        raise ConfigError(f"{out} holds no run whose images could be attacked; name images with --data")
    if defence:
        raise ConfigError(f"without --data the defences of the run in {out} are attacked; leave out --defence")
    experiment = load_experiment(path)
    return experiment if limit is None else experiment.model_copy(update={"limit": limit})
