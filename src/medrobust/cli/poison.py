"""The command that attacks training data: poison."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from medrobust.cli.app import (
    Device,
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
    command,
    reporter,
)


@command
def poison(
    out: Out,
    data: Annotated[str, typer.Option("--data", "-d", help="A folder of images and captions, or labelled images.")],
    share: Annotated[str, typer.Option(help="Of the pairs that are attacked: 10% or 0.1.")],
    captions: Annotated[
        Path | None, typer.Option(help="The captions, csv or jsonl; else captions.jsonl or .csv in the folder.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="The column that names the image.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="The column that holds the caption.")] = None,
    task: Task = None,
    split: Annotated[str, typer.Option(help="Which images, where there are several splits.")] = "train",
    limit: Limit = None,
    target: Annotated[
        str | None, typer.Option(help="Images to move to: a folder, or labelled data; else others of the same data.")
    ] = None,
    target_task: Annotated[str | None, typer.Option(help="The task of --target, where its data do not say.")] = None,
    model: Model = "builtin",
    revision: Revision = None,
    norm: Norm = "linf",
    eps: Annotated[str, typer.Option(help="Size of the ball in pixels of [0, 1]: 8/255 or 0.03.")] = "8/255",
    steps: Annotated[int, typer.Option(min=1, help="Of the attack on images.")] = 100,
    step: Annotated[str | None, typer.Option(help="Length of one; 1/255 in linf, an eighth of eps in l2.")] = None,
    decay: Annotated[bool, typer.Option("--decay", help="Let these steps shrink to 0.")] = False,
    keep_grey: Annotated[bool, typer.Option("--keep-grey", help="Give grey images no colour.")] = False,
    images_only: Annotated[bool, typer.Option("--images-only", help="Leave captions as they are.")] = False,
    captions_only: Annotated[bool, typer.Option("--captions-only", help="Leave images as they are.")] = False,
    threads: Threads = None,
    seed: Seed = 0,
    device: Device = "cpu",
    skip_broken: Skip = False,
    as_json: Json = False,
) -> None:
    """Copy image-caption pairs, a share of them attacked, so that image and caption no longer fit."""
    from medrobust.attacks.ball import Ball, pixels_of
    from medrobust.jobs.poison import TargetSource, open_targets, poison_into
    from medrobust.machine import checked_device, use_threads
    from medrobust.models import load
    from medrobust.pairs.captioned import CaptionSource, open_captioned
    from medrobust.pairs.image_attack import EmbeddingAttack
    from medrobust.pairs.poison import BLOCK, Poison, parse_share

    wanted = Poison(
        share=parse_share(share),
        ball=Ball.parse(norm, eps),
        attack=EmbeddingAttack(
            steps=steps, step=None if step is None else pixels_of(step), batch=BLOCK, decay=decay, keep_grey=keep_grey
        ),
        images=not captions_only,
        captions=not images_only,
        seed=seed,
    )
    use_threads(threads)
    loaded = load(model, device=checked_device(device), revision=revision)
    source = CaptionSource(
        data=data, captions=str(captions) if captions else None, task=task, split=split, id_column=id_column,
        caption_column=caption_column, skip_broken=skip_broken, limit=limit, seed=seed,
    )  # fmt: skip
    pairs = open_captioned(source, loaded.preprocess)
    targets = open_targets(TargetSource(target, target_task, split, skip_broken), loaded.preprocess) if target else None
    with reporter() as told:
        manifest = poison_into(out, pairs, wanted, loaded, targets=targets, reporter=told)
    if as_json:
        typer.echo(json.dumps({key: value for key, value in manifest.items() if key != "pairs"}, indent=2))
        return
    typer.echo(_sentence(out, manifest))


def _sentence(out: Path, manifest: dict[str, Any]) -> str:
    counts = manifest["counts"]
    parts = [f"{out}: {counts['attacked']} of {counts['pairs']} pairs attacked"]
    if counts["cosine_after"] is not None:
        parts.append(f"cosine to the target {counts['cosine_before']:.3f} before, {counts['cosine_after']:.3f} after")
    if counts["psnr"] is not None:
        parts.append(f"PSNR {counts['psnr']:.1f} dB")
    if manifest["attack"]["captions"]:
        parts.append(f"captions changed {counts['captions_changed']}, not changed {counts['captions_unchanged']}")
    left = [f"{counts[key]} {text}" for key, text in (("without_caption", "without a caption"), ("skipped", "skipped"))]
    shown = [text for text in left if not text.startswith("0 ")]
    return "; ".join(parts + ([f"left out: {', '.join(shown)}"] if shown else []))
