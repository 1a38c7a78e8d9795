"""Learn prompts from labelled images, clean or noisy: the core of CoOp and of PromptSmooth's few-shot modes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from medrobust.data.augment import augment
from medrobust.data.sources import shots
from medrobust.data.task import Dataset, Task
from medrobust.defences.heads import CosineHead, context_names, start_context, start_template, text_prototypes
from medrobust.learning.loop import SILENT, Schedule, Session, descend
from medrobust.types import Context, Features, Images, State, VisionLanguageModel


class ContextSettings(BaseModel):
    """Defaults of the paper's few-shot mode, except where a field says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shots: int = Field(16, ge=1)  # images a class
    words: int = Field(5, ge=1)  # M; only where the context starts at random
    start: Literal["random", "template"] = "random"
    epochs: int = Field(50, ge=1)
    batch: int = Field(32, ge=1)
    lr: float = Field(0.002, gt=0)
    augment: bool = True


def learn_context(
    model: VisionLanguageModel,
    data: Dataset,
    settings: ContextSettings,
    *,
    sigmas: Sequence[float],
    clean_fraction: float = 0.0,
    generator: torch.Generator,
    session: Session = SILENT,
) -> Context:
    """min_P mean CE(softmax z_P(x + e), y): `learn_prompts` with a text context alone, both towers frozen.

    `sigmas`: noise levels in pixels of [0, 1], one drawn for each image (ours); none means clean images (CoOp).
    References: Zhou et al., IJCV 2022 (CoOp); Hussein et al., MICCAI 2024 (PromptSmooth), section 3.
    """

    @torch.no_grad()
    def encode(_prompts: State, images: Images) -> Features:
        return model.encode_image(images)

    chosen = shots(data, settings.shots, generator)
    start = {"context": first_context(model, data.task, settings, generator)}
    learned = learn_prompts(
        model, chosen, settings, start, encode,
        noise=partial(add_noise, sigmas=sigmas, generator=generator, clean_fraction=clean_fraction),
        generator=generator, session=session,
    )  # fmt: skip
    return learned["context"]


def learn_prompts(
    model: VisionLanguageModel,
    chosen: Dataset,
    settings: ContextSettings,
    start: State,
    encode: Callable[[State, Images], Features],
    *,
    noise: Callable[[Images], Images],
    factors: Mapping[str, float] = MappingProxyType({}),
    generator: torch.Generator,
    session: Session = SILENT,
) -> State:
    """CE on noisy images by SGD with momentum 0.9 and a cosine; first epoch at lr 1e-5.

    `start`: `context`, and what else `encode` takes. `factors`: by name, multiples of the learning rate.
    """
    images, labels = chosen.images(), chosen.labels
    names = context_names(chosen.task)
    prompts = {key: value.to(model.device).requires_grad_(True) for key, value in start.items()}
    order = torch.arange(len(labels))  # of the images in an epoch
    per_epoch = -(-len(labels) // settings.batch)

    def loss(step: int) -> Tensor:
        place = step % per_epoch
        if place == 0:
            order.copy_(torch.randperm(len(labels), generator=generator))
        rows = order[place * settings.batch : (place + 1) * settings.batch]
        views = images[rows]
        if settings.augment:
            views = augment(views, generator, scale=(0.8, 1.0), colour=0.0)
        features = encode(prompts, noise(views).to(model.device))
        logits = CosineHead(text_prototypes(model, names, prompts["context"]), model.logit_scale)(features)
        return F.cross_entropy(logits, labels[rows].to(model.device))

    groups = [{"params": [value], "lr_factor": factors.get(key, 1.0)} for key, value in prompts.items()]
    warmup = per_epoch if settings.epochs > 1 else 0
    descend(
        loss,
        torch.optim.SGD(groups, lr=settings.lr, momentum=0.9),
        Schedule(settings.lr, per_epoch * settings.epochs, warmup=warmup, warmup_lr=1e-5),
        session=session.keeping(generator, order),
    )
    return {key: value.detach().cpu() for key, value in prompts.items()}


def add_noise(
    images: Images, sigmas: Sequence[float], generator: torch.Generator, *, clean_fraction: float = 0.0
) -> Images:
    """Gaussian noise on images (CPU), not clipped; its level drawn for each of them from `sigmas`, or none at all."""
    if not sigmas:
        return images
    count = len(images)
    level = torch.tensor(list(sigmas))[torch.randint(len(sigmas), (count,), generator=generator)]
    if clean_fraction > 0:
        level = level * (torch.rand(count, generator=generator) >= clean_fraction)
    return images + torch.randn(images.shape, generator=generator) * level.view(-1, 1, 1, 1)


def first_context(
    model: VisionLanguageModel, task: Task, settings: ContextSettings, generator: torch.Generator
) -> Context:
    """The initial context: N(0, 0.02^2), or the words of the first template."""
    if settings.start == "template":
        return start_context(model, start_template(task))
    width = model.embed_words("a").shape[1]
    return 0.02 * torch.randn(settings.words, width, generator=generator)
