"""PromptSmooth++: prompts in both towers learned on noise, or low-rank deltas of the vision tower tuned on each image.

Reference: PromptSmooth++ (2025), of which the abstract alone is public: sizes, starts and learning rates are ours.
PromptSmooth itself: Hussein et al., MICCAI 2024, arXiv 2408.16769.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from medrobust.data.sources import shots
from medrobust.data.task import Dataset, Task
from medrobust.defences.adaptation import changed_weights, on, starting_state
from medrobust.defences.context import ContextSettings, add_noise, first_context, learn_prompts
from medrobust.defences.coop import coop
from medrobust.defences.defence import Defence
from medrobust.defences.promptsmooth import SmoothingPrompts, noisy_copies, surest
from medrobust.defences.zero_shot import zero_shot
from medrobust.learning.loop import SILENT, Session
from medrobust.models.hooks import changed_output
from medrobust.models.prompting import PromptedVision, shared_copy
from medrobust.types import Classifier, Context, Features, Image, Images, Logits, State, VisionLanguageModel


class PromptSmoothPlus(SmoothingPrompts, ContextSettings):
    """PromptSmooth's settings, and the sizes of the new parts; the numbers of the new parts are ours.

    `token_lr`: of the visual tokens, as `lr` unless given. `tune_lr` and `tune_steps` are those of the deltas.
    """

    tokens: int = Field(8, ge=1)
    token_lr: float | None = Field(None, gt=0)
    rank: int = Field(4, ge=1)


def promptsmooth_plus(settings: PromptSmoothPlus | None = None) -> Defence:
    """`few-shot`: text context and visual tokens, offline and labelled. `zero-shot`: deltas on each image, unlabelled.

    `combined` tunes the deltas on top of the learned prompts. Where deltas are tuned, the certificate speaks of the
    tower frozen as tuned on that image: scope `tuned on input`. State: `context` (words x width) and `prompt.tokens`
    (tokens x width), for few-shot and combined. Raises NotAViT or StateError for a tower without tokens, or without
    queries and values.
    """
    chosen = settings or PromptSmoothPlus()
    zero = chosen.mode == "zero-shot"

    def fit(
        model: VisionLanguageModel, data: Dataset, *, generator: torch.Generator, session: Session = SILENT
    ) -> State:
        return {} if zero else _learn(model, data, chosen, generator, session.alone("promptsmooth++"))

    def apply(model: VisionLanguageModel, task: Task, state: State) -> Classifier:
        if zero:  # prompts of a few-shot state are left aside, a tower that was taught is not
            tower = {key: value for key, value in state.items() if not key.startswith("prompt.")}
            return zero_shot().apply(model, task, tower)
        return coop().apply(model, task, state)

    def tune(classifier: Classifier, image: Image, *, sigma: float, generator: torch.Generator) -> Classifier:
        vision, head = classifier.encode.tower(), classifier.head
        noisy = noisy_copies(image, sigma=sigma, draws=chosen.draws, generator=generator)
        start = starting_state(vision, "attention", rank=chosen.rank, generator=generator)
        start = on(next(vision.parameters()).device, start)
        deltas = sharpen_tower(vision, head, noisy, start, lr=chosen.tune_lr, steps=chosen.tune_steps)
        adapted = classifier.encode.adapted(changed_weights(vision, deltas))
        return replace(classifier.tuned(head), encode=adapted)

    return Defence(
        chosen, fit, apply, None if chosen.mode == "few-shot" else tune, learns_from="nothing" if zero else "labels",
        changes=frozenset() if zero else frozenset({"vision prompts", "text prompts"}),
    )  # fmt: skip


def sharpen_tower(
    vision: nn.Module, head: Callable[[Features], Logits], noisy: Images, start: State, *, lr: float, steps: int
) -> State:
    """AdamW steps on the entropy of the mean prediction, over deltas of the tower; the tower stays as it is.

    Other threads may use the tower meanwhile: the weights are replaced in modules of its own.
    """
    own = shared_copy(vision)

    def logits(deltas: State) -> Logits:
        return head(functional_call(own, changed_weights(vision, deltas), (noisy,)))

    return surest(start, logits, lr=lr, steps=steps)


@torch.no_grad()
def first_tokens(model: VisionLanguageModel, images: Images, count: int, generator: torch.Generator) -> Context:
    """Copies of the tower's first token as its embeddings give it, and N(0, 0.02^2) to tell them apart.

    In a tower with a class token that is the class token. Layers after the embeddings make a small random token as
    large as any other, and eight of them mislead the frozen model; copies of the first token do not. Raises NotAViT.
    """
    model.prompt_shape()
    seen: list[Tensor] = []

    def look(embedded: Tensor) -> Tensor:
        seen.append(embedded[:, 0])
        return embedded

    embeddings: Any = model.vision.embeddings
    with changed_output(embeddings, look):
        model.encode_image(images)
    first = seen[0].float().mean(dim=0).cpu()
    return first + 0.02 * torch.randn(count, len(first), generator=generator)


def _learn(
    model: VisionLanguageModel,
    data: Dataset,
    chosen: PromptSmoothPlus,
    generator: torch.Generator,
    session: Session,
) -> State:
    few = shots(data, chosen.shots, generator)
    start = {
        "context": first_context(model, data.task, chosen, generator),
        "tokens": first_tokens(model, few.images([0]), chosen.tokens, generator),
    }
    tower = PromptedVision(model.vision, tokens=start["tokens"])

    def encode(prompts: State, images: Images) -> Features:
        return functional_call(tower, {"tokens": prompts["tokens"]}, (images,))

    learned = learn_prompts(
        model, few, chosen, start, encode,
        noise=partial(add_noise, sigmas=chosen.sigmas, generator=generator, clean_fraction=chosen.clean_fraction),
        factors={} if chosen.token_lr is None else {"tokens": chosen.token_lr / chosen.lr},
        generator=generator, session=session,
    )  # fmt: skip
    return {"context": learned["context"], "prompt.tokens": learned["tokens"]}
