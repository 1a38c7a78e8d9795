"""The command that attacks and certifies."""

from typing import Annotated, Any

import typer

from medrobust.cli.app import (
    Alpha,
    Attacks,
    AttackSettingTexts,
    CopyBatch,
    Data,
    Defences,
    Device,
    Draws,
    Eps,
    FitData,
    FitSplit,
    Json,
    Limit,
    Model,
    Norm,
    Out,
    Radii,
    Revision,
    Seed,
    Selection,
    Sigmas,
    Skip,
    Stopping,
    Task,
    Threads,
    Transfer,
    command,
    reporter,
    tell,
)


@command
def evaluate(
    out: Out,
    data: Data,
    defence: Defences,
    model: Model = "builtin",
    revision: Revision = None,
    task: Task = None,
    split: Annotated[str, typer.Option(help="Which images are attacked and certified.")] = "test",
    limit: Limit = None,
    attack: Attacks = ["autoattack"],  # noqa: B006 - typer copies it
    set_: AttackSettingTexts = [],  # noqa: B006
    norm: Norm = "linf",
    eps: Eps = ["1/255"],  # noqa: B006
    attack_batch: Annotated[int, typer.Option(min=1, help="Images attacked at once; decides the last bits.")] = 64,
    sigma: Sigmas = [0.25],  # noqa: B006
    n: Draws = 10_000,
    n0: Selection = 100,
    alpha: Alpha = 0.001,
    stopping: Stopping = "spending",
    radii: Radii = None,
    batch: CopyBatch = None,
    transfer: Transfer = False,
    fit_data: FitData = None,
    fit_split: FitSplit = "train",
    threads: Threads = None,
    seed: Seed = 0,
    device: Device = "cpu",
    skip_broken: Skip = False,
    as_json: Json = False,
) -> None:
    """Attack and certify the same images under several defences: clean, robust and certified accuracy in one table."""
    from medrobust.cli.choices import attack_settings, chosen, numbers, settings_of_attacks
    from medrobust.jobs.evaluate import evaluate as carry_out
    from medrobust.jobs.experiment import checked

    settings = attack_settings(attack, norm, eps, attack_batch, given=settings_of_attacks(attack, set_))
    values: dict[str, Any] = {
        "model": model, "revision": revision, "data": data, "task": task, "split": split, "limit": limit,
        "sigmas": sigma, "n": n, "selection": n0, "alpha": alpha, "stopping": stopping, "batch": batch,
        "fit_data": fit_data, "fit_split": fit_split, "threads": threads, "seed": seed, "device": device,
        "skip_broken": skip_broken, "defences": chosen(defence, transfer=transfer),
    }  # fmt: skip
    if radii is not None:
        values["radii"] = numbers(radii)
    with reporter() as told:
        summary = carry_out(checked(values, "command line"), settings, out, reporter=told)
    tell(summary, out, as_json)
