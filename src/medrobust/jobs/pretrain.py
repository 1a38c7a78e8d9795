"""Make a model from a recipe, and measure it: `medrobust pretrain`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from medrobust.data import Dataset, load_task, open_dataset
from medrobust.defences.zero_shot import zero_shot
from medrobust.errors import RunError, cannot_write
from medrobust.files import replace_text
from medrobust.learning.checkpoint import Checkpoint
from medrobust.machine import checked_device
from medrobust.models import load
from medrobust.models.clip import Clip
from medrobust.pairs.attacked_pairs import Noise, fixed_pairs, resizing
from medrobust.pairs.batches import Pairs, make_pairs
from medrobust.pairs.captioned import CaptionedImages, CaptionSource, captioned_by_class, open_captioned
from medrobust.pairs.poison import Poison
from medrobust.pairs.poison_summary import count_attacked
from medrobust.pairs.pretrain import pretrain, save
from medrobust.pairs.recipe import PairSource, Recipe, caption_book
from medrobust.pairs.start import start_from
from medrobust.smoothing.bounds import Interval, interval
from medrobust.tell import SILENT, Tell
from medrobust.types import Classifier, Preprocess


@dataclass(frozen=True)
class Attacked:
    """An attack on the pairs before training, made with a surrogate: a model by name or path."""

    poison: Poison
    surrogate: str = "builtin"


@dataclass(frozen=True)
class Pretrained:
    """A model that was trained: its folder, its zero-shot accuracy by task, and the attack on its pairs, if any."""

    model: str
    steps: int
    zero_shot: Mapping[str, Interval]
    noise: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the attack where there was none."""
        scores = {task: score._asdict() for task, score in self.zero_shot.items()}
        plain = {"model": self.model, "steps": self.steps, "zero_shot": scores}
        return plain | ({"noise": dict(self.noise)} if self.noise else {})


def build_model(
    recipe: Recipe,
    out: Path,
    *,
    attacked: Attacked | None = None,
    start: str | None = None,
    tell: Tell = SILENT,
    device: str = "cpu",
) -> Pretrained:
    """Train, save into `out` in the format of transformers, and score zero-shot on the sources' test splits.

    `attacked`: on pairs of which a share is attacked, each image under one caption; the record of it goes to
    `out/noise.json`. `start`: from that model on instead of from scratch. A training cut off (not its attack) is kept
    in `out` and goes on from there.

    Raises MedrobustError: RunError where `out` holds a model already or cannot be written.
    """
    if (out / "model.safetensors").exists():
        raise RunError(f"{out} holds a model already; use another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    there = checked_device(device)
    begun = start_from(start, recipe) if start else None
    recipe = begun.recipe if begun else recipe
    sources, noise = _sources(recipe, attacked, tell)
    steps = recipe.training.steps
    about = {"recipe": recipe.model_dump(mode="json"), "noise": noise, "start": start, "images": _digest(sources)}
    checkpoint = Checkpoint(out / "pretrain.checkpoint.safetensors", about)
    if checkpoint.path.exists():
        tell.say(f"{checkpoint.path} is there: the training goes on from it")
    network, tokenizer = pretrain(
        recipe,
        sources,
        start=begun[:2] if begun else None,
        progress=lambda done, total: tell.progress("pretrain", done, total),
        checkpoint=checkpoint,
        device=there,
    )
    save(network, tokenizer, recipe, out)
    checkpoint.drop()
    if noise:
        replace_text(out / "noise.json", json.dumps(noise, indent=1) + "\n")
    scores = evaluate(load(str(out)), recipe)
    return Pretrained(str(out), steps, scores, noise)


def _sources(recipe: Recipe, attacked: Attacked | None, tell: Tell) -> tuple[list[Pairs], dict[str, Any]]:
    """The pairs of every source, and the record of their attack; empty without one."""
    surrogate = load(attacked.surrogate) if attacked and attacked.poison.share else None
    book, sources, told = caption_book(), [], []
    for source in recipe.sources:
        if source.format == "labels" and attacked is None:
            data = open_dataset(source.data, load_task(source.task), preprocess=_square(recipe), split="train")
            sources.append(make_pairs(data, source, book))
            tell.say(f"{source.data}: {len(data)} images, task {source.task}")
            continue
        noise = _noise(attacked, surrogate, f"attack pairs of {source.data}", tell)
        captioned = _captioned(source, recipe, attacked.poison.seed if attacked else recipe.training.seed)
        pairs, done = fixed_pairs(captioned, noise, any_rotation=source.any_rotation, share=source.share)
        sources.append(pairs)
        told.append({"data": source.data, "pairs": len(captioned)} | asdict(count_attacked(done)))
        tell.say(f"{source.data}: {len(captioned)} pairs, {len(done)} of them attacked")
    if attacked is None:
        return sources, {}
    named = {"name": surrogate.name, "sha256": surrogate.sha256} if surrogate else None
    poison = attacked.poison
    how = {"share": poison.share, "ball": str(poison.ball), "steps": poison.attack.steps, "seed": poison.seed}
    return sources, how | {"surrogate": named, "sources": told}


def _digest(sources: list[Pairs]) -> list[str]:
    return [hashlib.sha256(pairs.images.numpy().tobytes()).hexdigest() for pairs in sources]


def _noise(attacked: Attacked | None, surrogate: Clip | None, title: str, tell: Tell) -> Noise | None:
    if attacked is None or surrogate is None:
        return None
    encode = resizing(surrogate.encode_image, surrogate.preprocess.size)
    return Noise(attacked.poison, encode, lambda done, total: tell.progress(title, done, total))


def _captioned(source: PairSource, recipe: Recipe, seed: int) -> CaptionedImages:
    if source.format == "captions":
        asked = CaptionSource(data=source.data, captions=source.captions, task=source.task or None, seed=seed)
        return open_captioned(asked, _square(recipe))
    data = open_dataset(source.data, load_task(source.task), preprocess=_square(recipe), split="train")
    return captioned_by_class(data, seed)


def _square(recipe: Recipe) -> Preprocess:
    return Preprocess(recipe.architecture.image_size, recipe.architecture.image_size)


def evaluate(model: Clip, recipe: Recipe, *, split: str = "test") -> dict[str, Interval]:
    """Zero-shot clean accuracy with its exact 95 % interval, on each labelled source of a recipe."""
    scores = {}
    for source in recipe.sources:
        if source.format != "labels":
            continue
        data = open_dataset(source.data, load_task(source.task), preprocess=model.preprocess, split=split)
        right = hits(zero_shot().apply(model, data.task, {}), data)
        scores[source.task] = interval(right, len(data))
    return scores


@torch.inference_mode()
def hits(classifier: Classifier, data: Dataset, *, batch: int = 64) -> int:
    """The number of clean images that a classifier answers rightly."""
    right = 0
    for start in range(0, len(data), batch):
        rows = range(start, min(start + batch, len(data)))
        answers = classifier(data.images(rows)).argmax(dim=1)
        right += int((answers.cpu() == data.labels[start : start + batch]).sum())
    return right
