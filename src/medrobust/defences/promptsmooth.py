"""PromptSmooth: only a text prompt is learned, so that the frozen model withstands Gaussian noise.

Reference: Hussein et al., "PromptSmooth: certifying robustness of medical vision-language models via prompt learning",
MICCAI 2024, arXiv 2408.16769. One prompt serves every noise level.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, Field
from torch import Tensor

from medrobust.data.task import Dataset, Task
from medrobust.defences.adaptation import merged
from medrobust.defences.context import ContextSettings, learn_context
from medrobust.defences.defence import Defence
from medrobust.defences.heads import CosineHead, PromptHead, prompt_head, start_context, start_template, text_prototypes
from medrobust.learning.loop import SILENT, Session
from medrobust.types import (
    Classifier,
    Context,
    Features,
    Image,
    Images,
    Logits,
    State,
    VisionLanguageModel,
)

Mode = Literal["few-shot", "zero-shot", "combined"]


class SmoothingPrompts(BaseModel):
    """Mode, noise in training, and the tuning on the image (the paper's section 3)."""

    mode: Mode = "few-shot"
    sigmas: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    clean_fraction: float = Field(0.0, ge=0, le=1)
    draws: int = Field(100, ge=1)  # T, noisy copies of the image that is tuned on
    tune_lr: float = Field(5e-3, gt=0)
    tune_steps: int = Field(1, ge=1)


class PromptSmooth(SmoothingPrompts, ContextSettings):
    """Few-shot settings from `ContextSettings`; the tuning on the image from the paper's section 3."""


def promptsmooth(settings: PromptSmooth | None = None) -> Defence:
    """`few-shot`: offline and labelled. `zero-shot`: tuned on each image, unlabelled. `combined`: both.

    The two that tune on the image certify the classifier with the prompt frozen as tuned there: scope
    `tuned on input`. State: `context` (words x width), for few-shot and combined.
    """
    chosen = settings or PromptSmooth()
    zero = chosen.mode == "zero-shot"

    def fit(
        model: VisionLanguageModel, data: Dataset, *, generator: torch.Generator, session: Session = SILENT
    ) -> State:
        if zero:
            return {}
        context = learn_context(
            model,
            data,
            chosen,
            sigmas=chosen.sigmas,
            clean_fraction=chosen.clean_fraction,
            generator=generator,
            session=session.alone("promptsmooth"),
        )
        return {"context": context}

    def apply(model: VisionLanguageModel, task: Task, state: State) -> Classifier:
        base = merged(model, state)
        context = start_context(base, start_template(task)) if zero else state["context"].to(base.device)
        return Classifier(base.encode_image, prompt_head(base, task, context))

    def tune(classifier: Classifier, image: Image, *, sigma: float, generator: torch.Generator) -> Classifier:
        head = classifier.head
        if not isinstance(head, PromptHead):
            raise TypeError(f"tuning needs a head with a learned context, got {type(head).__name__}")
        features = noisy_features(classifier, image, sigma=sigma, draws=chosen.draws, generator=generator)
        tuned = sharpen(head, features, lr=chosen.tune_lr, steps=chosen.tune_steps)
        return classifier.tuned(head.with_context(tuned))

    return Defence(
        chosen, fit, apply, None if chosen.mode == "few-shot" else tune,
        learns_from="nothing" if zero else "labels", changes=frozenset() if zero else frozenset({"text prompts"}),
    )  # fmt: skip


@torch.no_grad()
def noisy_features(
    classifier: Classifier, image: Image, *, sigma: float, draws: int, generator: torch.Generator
) -> Features:
    """Features of `draws` noisy copies of one image."""
    return classifier.encode(noisy_copies(image, sigma=sigma, draws=draws, generator=generator))


def noisy_copies(image: Image, *, sigma: float, draws: int, generator: torch.Generator) -> Images:
    """The copies themselves, not clipped; they are tuned on and used for nothing else."""
    noise = torch.randn((draws, *image.shape), generator=generator)
    return image + sigma * noise.to(image.device)


def sharpen(head: PromptHead, features: Features, *, lr: float, steps: int) -> Context:
    """AdamW steps on the entropy of the mean prediction, from the head's own context; the head stays as it is."""

    def logits(prompts: State) -> Logits:
        prototypes = text_prototypes(head.model, head.names, prompts["context"])
        return CosineHead(prototypes, head.model.logit_scale)(features)

    return surest({"context": head.context}, logits, lr=lr, steps=steps)["context"]


def surest(start: State, logits: Callable[[State], Logits], *, lr: float, steps: int) -> State:
    """AdamW steps on the entropy of the mean prediction over the draws, from `start`, which stays as it is."""
    state = {key: value.clone().requires_grad_(True) for key, value in start.items()}
    optimiser = torch.optim.AdamW(list(state.values()), lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            entropy_of_mean(logits(state).log_softmax(dim=-1)).backward()
            optimiser.step()
    return {key: value.detach() for key, value in state.items()}


def entropy_of_mean(log_probabilities: Float[Tensor, "*groups draws classes"]) -> Float[Tensor, "*groups"]:
    """H of the mean over the draws, in log space, so that tiny probabilities keep their gradient.

    >>> import torch
    >>> round(float(entropy_of_mean(torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log())), 4)
    0.6931
    """
    mean = log_probabilities.logsumexp(dim=-2) - torch.tensor(float(log_probabilities.shape[-2])).log()
    return -(mean.exp() * mean).sum(dim=-1)
