"""`distill`: teach the vision tower to give its clean features under noise too (ours; label-free, sound)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.func import functional_call

from medrobust.data.augment import augment
from medrobust.data.task import Dataset, Task
from medrobust.defences.adaptation import Part, changed_weights, merged, on, starting_state
from medrobust.defences.context import add_noise
from medrobust.defences.defence import Change, Defence
from medrobust.defences.heads import CosineHead, template_prototypes
from medrobust.learning.loop import SILENT, Schedule, Session, descend
from medrobust.types import Classifier, Features, Logits, State, VisionLanguageModel

_MLP = ("mlp.in", "mlp.in_bias", "mlp.out", "mlp.out_bias")  # its tensors in a state


class Distill(BaseModel):
    """Settings; all of them ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: Literal["lora", "norms", "all", "feature"] = "lora"
    rank: int = Field(4, ge=1)
    images: int = Field(500, ge=1)  # size of the unlabelled pool
    steps: int = Field(300, ge=1)
    batch: int = Field(32, ge=1)
    lr: float = Field(2e-3, gt=0)
    sigmas: tuple[float, ...] = (0.1, 0.25, 0.5)


def distill(settings: Distill | None = None) -> Defence:
    """min_w E |unit I_w(x + e) - unit I(x)|^2 = 2 - 2 cos, on an unlabelled pool, sigma mixed.

    w: low-rank deltas on every linear layer of the vision tower, merged when applied, so that the tower keeps its
    form and any class list works afterwards. `part: feature` is a residual MLP on the frozen feature instead, which
    keeps one pass over the noise for all classifiers.
    """
    chosen = settings or Distill()

    def fit(
        model: VisionLanguageModel, data: Dataset, *, generator: torch.Generator, session: Session = SILENT
    ) -> State:
        held = session.alone("distill").keeping(generator)
        order = torch.randperm(len(data), generator=generator)[: chosen.images].tolist()
        images = data.images(order)
        if chosen.part == "feature":
            return _fit_feature(model, images, chosen, generator, held)
        return _fit_tower(model, images, chosen, chosen.part, generator, held)

    def apply(model: VisionLanguageModel, task: Task, state: State) -> Classifier:
        base = merged(model, state)
        head = CosineHead(template_prototypes(base, task), base.logit_scale)
        if chosen.part == "feature":
            return Classifier(base.encode_image, _ResidualHead(head, on(base.device, state)))
        return Classifier(base.encode_image, head)

    changes: Change = "head" if chosen.part == "feature" else "vision"
    return Defence(chosen, fit, apply, learns_from="images", changes=frozenset({changes}))


def _fit_tower(
    model: VisionLanguageModel,
    images: Tensor,
    chosen: Distill,
    part: Part,
    generator: torch.Generator,
    session: Session,
) -> State:
    state = starting_state(model.vision, part, rank=chosen.rank, generator=generator)
    state = {key: value.to(model.device).requires_grad_(True) for key, value in state.items()}

    def student(noisy: Tensor) -> Features:
        return functional_call(model.vision, changed_weights(model.vision, state), (noisy,))

    def loss(_step: int) -> Tensor:
        clean, noisy = _views(model, images, chosen, generator)
        return _distance(student(noisy), clean)

    optimiser = torch.optim.AdamW(list(state.values()), lr=chosen.lr, weight_decay=0.0)
    warmup = min(20, chosen.steps // 10)
    descend(loss, optimiser, Schedule(chosen.lr, chosen.steps, warmup=warmup), session=session, clip_norm=1.0)
    return {key: value.detach().cpu() for key, value in state.items()}


def _fit_feature(
    model: VisionLanguageModel,
    images: Tensor,
    chosen: Distill,
    generator: torch.Generator,
    session: Session,
) -> State:
    with torch.no_grad():
        dim = model.encode_image(images[:1]).shape[1]
    into = torch.randn(4 * dim, dim, generator=generator) / dim**0.5
    parts = into, torch.zeros(4 * dim), torch.zeros(dim, 4 * dim), torch.zeros(dim)
    start = dict(zip(_MLP, parts, strict=True))
    state = {key: value.to(model.device).requires_grad_(True) for key, value in start.items()}

    def loss(_step: int) -> Tensor:
        clean, noisy = _views(model, images, chosen, generator)
        with torch.no_grad():
            features = model.encode_image(noisy)
        return _distance(_restored(features, state), clean)

    optimiser = torch.optim.AdamW(list(state.values()), lr=chosen.lr, weight_decay=0.0)
    descend(loss, optimiser, Schedule(chosen.lr, chosen.steps), session=session)
    return {key: value.detach().cpu() for key, value in state.items()}


def _restored(features: Features, state: State) -> Features:
    """The unit feature plus the output of a two-layer MLP on it."""
    unit = F.normalize(features, dim=-1)
    into, into_bias, out, out_bias = (state[name] for name in _MLP)
    return unit + F.linear(F.gelu(F.linear(unit, into, into_bias)), out, out_bias)


def _views(
    model: VisionLanguageModel, images: Tensor, chosen: Distill, generator: torch.Generator
) -> tuple[Features, Tensor]:
    rows = torch.randint(len(images), (chosen.batch,), generator=generator)
    views = augment(images[rows], generator, scale=(0.8, 1.0), colour=0.0)
    with torch.no_grad():
        clean = F.normalize(model.encode_image(views.to(model.device)), dim=-1)
    return clean, add_noise(views, chosen.sigmas, generator).to(model.device)


def _distance(features: Features, target: Features) -> Tensor:
    return (2 - 2 * (F.normalize(features, dim=-1) * target).sum(dim=-1)).mean()


@dataclass(frozen=True)
class _ResidualHead:
    """A cosine head behind a residual MLP on the unit feature."""

    head: Callable[[Features], Logits]
    state: State

    def __call__(self, features: Features) -> Logits:
        return self.head(_restored(features, self.state))
