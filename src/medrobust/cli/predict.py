"""Commands that answer at once: predict, and what is known by name."""

import json
from pathlib import Path
from typing import Annotated

import typer

from medrobust.cli.app import KNOWN, RUNS, Device, Json, Model, Seed, Task, Transfer, command, listing

_COMMERCIAL = {True: "yes", False: "no", None: "not stated"}


@command(RUNS)
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Model = "builtin",
    task: Task = None,
    defence: Annotated[str, typer.Option("--defence", help="`NAME[:MODE][=STATE.safetensors]`.")] = "zero-shot",
    sigma: Annotated[float | None, typer.Option(help="Also the smoothed answer and its certificate.")] = None,
    n: Annotated[int, typer.Option("--n", help="Draws that are counted.")] = 1000,
    alpha: Annotated[float, typer.Option(help="Probability that the certificate is false.")] = 0.001,
    transfer: Transfer = False,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Name the class of images, with probabilities; with --sigma also a certificate."""
    from medrobust.jobs.experiment import Choice
    from medrobust.jobs.predict import answer_images
    from medrobust.machine import use_threads

    choice = Choice.model_validate(defence).model_copy(update={"transfer": transfer})
    use_threads()
    found = answer_images(
        images, model=model, task=task, choice=choice, sigma=sigma, n=n,
        alpha=alpha, seed=seed, device=device,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    for item in found.images:
        for answer in item.answers.values():
            typer.echo(f"{item.path}: {answer}")
    typer.echo(f"model {found.model}, task {found.task}, {found.defence}; not a medical device", err=True)


@command(KNOWN)
def models(as_json: Json = False) -> None:
    """List the models that are known by name."""
    from medrobust.models import MODELS

    rows = [
        {"name": e.name, "title": e.title, "source": e.source, "format": e.format, "pixels": e.image_size,
         "preprocessing": e.preprocessing, "activation": e.activation, "revision": e.revision, "sha256": e.sha256,
         "licence": e.licence, "commercial_use": e.commercial_use} for e in MODELS.values()
    ]  # fmt: skip
    short = [
        {"name": e.name, "title": e.title, "source": e.source, "format": e.format,
         "pixels": f"{e.image_size}; {e.preprocessing}", "activation": e.activation or "from its config",
         "files": e.pinned, "licence": f"{e.licence}; commercial use: {_COMMERCIAL[e.commercial_use]}"}
        for e in MODELS.values()
    ]  # fmt: skip
    listing(rows if as_json else short, as_json)


@command(KNOWN)
def tasks(as_json: Json = False) -> None:
    """List the tasks that are known by name, with their classes in label order."""
    from medrobust.data import load_task, task_names

    rows = []
    for name in task_names():
        task = load_task(name)
        kind = "findings, each there or not" if task.absent else "classes"
        rows.append({
            "name": name, "answers": kind, "classes": "; ".join(task.classes), "licence": task.licence,
            "source": task.source,
        })  # fmt: skip
    listing(rows, as_json)


@command(KNOWN)
def defences(as_json: Json = False) -> None:
    """List the defences, what they learn from, and their settings."""
    from medrobust.defences import DEFENCES, make_defence

    rows = [
        {"name": name, "title": e.title, "learns from": make_defence(name).learns_from,
         "settings": ", ".join(e.settings.model_fields), "reference": e.reference} for name, e in DEFENCES.items()
    ]  # fmt: skip
    listing(rows, as_json)
