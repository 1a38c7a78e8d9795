"""Make a model from a recipe, and measure it: `medrobust pretrain`."""

from pathlib import Path
from typing import Any

import torch

from medrobust.data import Dataset, load_task, open_dataset
from medrobust.defences.zero_shot import zero_shot
from medrobust.environment import available_threads
from medrobust.errors import RunError, cannot_write
from medrobust.models import load
from medrobust.models.clip import Clip
from medrobust.preparation import Reporter
from medrobust.smoothing.bounds import interval
from medrobust.types import Classifier, Preprocess
from medrobust.upstream.pairs import make_pairs
from medrobust.upstream.pretrain import pretrain, save
from medrobust.upstream.recipe import Recipe, caption_book


def build(recipe: Recipe, out: Path, *, reporter: Reporter | None = None) -> dict[str, Any]:
    """Train, save into `out` in the format of transformers, and score zero-shot on the sources' test splits.

    Raises MedrobustError: RunError where `out` holds a model already or cannot be written.
    """
    tell = reporter or Reporter()
    if (out / "model.safetensors").exists():
        raise RunError(f"{out} holds a model already; use another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    torch.set_num_threads(available_threads())
    side = recipe.architecture.image_size
    book, sources = caption_book(), []
    for source in recipe.sources:
        data = open_dataset(source.data, load_task(source.task), preprocess=Preprocess(side, side), split="train")
        sources.append(make_pairs(data, source, book))
        tell.say(f"{source.data}: {len(data)} images, task {source.task}")
    steps = recipe.training.steps
    network, tokenizer = pretrain(recipe, sources, progress=lambda done, total: tell.progress("pretrain", done, total))
    save(network, tokenizer, recipe, out)
    scores = evaluate(load(str(out)), recipe)
    return {"model": str(out), "steps": steps, "zero_shot": scores}


def evaluate(model: Clip, recipe: Recipe, *, split: str = "test") -> dict[str, dict[str, float | int]]:
    """Zero-shot clean accuracy with its exact 95 % interval, on each source of a recipe."""
    scores = {}
    for source in recipe.sources:
        data = open_dataset(source.data, load_task(source.task), preprocess=model.preprocess, split=split)
        right = hits(zero_shot().apply(model, data.task, {}), data)
        scores[source.task] = dict(interval(right, len(data))._asdict())
    return scores


@torch.inference_mode()
def hits(classifier: Classifier, data: Dataset, *, batch: int = 64) -> int:
    """How many images, as they are, a classifier answers rightly."""
    right = 0
    for start in range(0, len(data), batch):
        rows = range(start, min(start + batch, len(data)))
        answers = classifier(data.images(rows)).argmax(dim=1)
        right += int((answers.cpu() == data.labels[start : start + batch]).sum())
    return right
