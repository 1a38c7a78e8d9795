"""Image-caption pairs from labelled images: several captions a class, drawn anew at every step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from medrobust.data.augment import augment
from medrobust.data.task import Dataset, Task
from medrobust.pairs.recipe import PairSource
from medrobust.types import Images


@dataclass(frozen=True)
class Pairs:
    """Images of one source, and for each of its classes all captions that fit."""

    images: UInt8[Tensor, "batch 3 h w"]
    labels: Int[Tensor, " batch"]
    captions: tuple[tuple[str, ...], ...]
    any_rotation: bool
    share: float
    chance: Float[Tensor, " batch"] | None = None  # of each image to be drawn; every class equally likely without it


@dataclass(frozen=True)
class PairBatch:
    """Images, captions, and for each image the caption that describes it; images of one class share theirs."""

    images: Images
    captions: tuple[str, ...]
    caption_of: Int[Tensor, " batch"]

    def to(self, device: torch.device) -> "PairBatch":
        """The same on a device; pairs are drawn and changed on the CPU."""
        return PairBatch(self.images.to(device), self.captions, self.caption_of.to(device))


def captions_of(task: Task, book: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """All captions of each class: the task's templates and the book's frames, over class names and synonyms.

    Templates of the task count double, because zero-shot classification uses them.
    """
    own = book.get(task.name, {"frames": [], "classes": {}})
    every = []
    for name in task.classes:
        names = [name, *own["classes"].get(name, [])]
        plain = [template.format(name) for template in task.templates] * 2
        every.append(tuple(plain + [frame.format(n) for frame in own["frames"] for n in names]))
    return tuple(every)


def make_pairs(data: Dataset, source: PairSource, book: Mapping[str, Any]) -> Pairs:
    """Pairs of one source; images are kept as bytes."""
    pixels = torch.stack([(data.read(i) * 255).round().to(torch.uint8) for i in range(len(data))])
    return Pairs(pixels, data.labels, captions_of(data.task, book), source.any_rotation, source.share)


def batches(sources: Sequence[Pairs], size: int, generator: torch.Generator) -> Callable[[], PairBatch]:
    """A function that draws the next batch: each source's share of it, every class of a source equally likely."""
    total = sum(pairs.share for pairs in sources)
    counts = [max(1, round(size * pairs.share / total)) for pairs in sources]
    chances = [class_balanced(pairs.labels) if pairs.chance is None else pairs.chance for pairs in sources]

    def draw() -> PairBatch:
        images: list[Tensor] = []
        captions: list[str] = []
        caption_of: list[Tensor] = []
        for pairs, count, chance in zip(sources, counts, chances, strict=True):
            rows = torch.multinomial(chance, count, replacement=True, generator=generator)
            pixels = pairs.images[rows].float() / 255
            images.append(augment(pixels, generator, any_rotation=pairs.any_rotation, mode="bicubic"))
            present, place = pairs.labels[rows].unique(return_inverse=True)
            caption_of.append(place + len(captions))
            captions += [_pick(pairs.captions[label], generator) for label in present.tolist()]
        return PairBatch(torch.cat(images), tuple(captions), torch.cat(caption_of))

    return draw


def class_balanced(labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Probability of each image where every class is equally likely."""
    counts = torch.bincount(labels).clamp(min=1)
    return (1.0 / counts.float())[labels]


def _pick(options: Sequence[str], generator: torch.Generator) -> str:
    return options[int(torch.randint(len(options), (1,), generator=generator))]
