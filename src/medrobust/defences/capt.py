"""CAPT: multi-modal adversarial prompts, kept consistent with themselves and with the frozen model; and APT.

References: Yang et al., "Revisiting the robust generalization of adversarial prompt tuning", 2024, arXiv 2405.11154
(CAPT); Li et al., "One prompt word is enough to boost adversarial robustness for pre-trained vision-language models",
CVPR 2024, arXiv 2403.01849 (APT).
"""

from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from medrobust.attacks.losses import PerImage
from medrobust.data.task import Dataset, Task
from medrobust.defences.adaptation import merged, visual_prompts
from medrobust.defences.adversarial import (
    ON_ATTACKED,
    AttackInTraining,
    BatchTraining,
    Objective,
    PixelLength,
    climb_cross_entropy,
    learn,
)
from medrobust.defences.coop import coop
from medrobust.defences.defence import Change, Defence
from medrobust.defences.heads import CosineHead, context_names, text_prototypes
from medrobust.defences.probe import layer
from medrobust.defences.tecoa import divergence, log_chances
from medrobust.defences.zero_shot import zero_shot
from medrobust.learning.loop import SILENT, Session
from medrobust.types import Classifier, Images, Labels, State, VisionLanguageModel


class Apt(AttackInTraining, BatchTraining):
    """The paper's numbers: 16 words, 16 shots, eps 4/255 with 3 steps of two thirds of it."""

    shots: int | None = Field(16, ge=1)
    epochs: int = Field(50, ge=1)
    batch: int = Field(32, ge=1)
    lr: float = Field(0.002, gt=0)
    eps: PixelLength = 4 / 255
    attack_steps: int = Field(3, ge=1)
    attack_step: PixelLength = 8 / 3 / 255
    words: int = Field(16, ge=1)


class Capt(AttackInTraining, BatchTraining):
    """Prompts of `length` vectors at the inputs of the first `depth` layers of both towers, N(0, 0.02^2).

    `coupling`: `linear` makes each text prompt of the image prompt of its layer (ours; learned on their own, deep
    prompts collapse sooner), `none` learns both. `weight` is lambda, `balance` a (`adaptive`, or a number), `ce_on`
    the images of the cross-entropy; `weight` 0 with `ce_on` adversarial is plain adversarial training of the prompts.
    """

    shots: int | None = Field(16, ge=1)
    epochs: int = Field(50, ge=1)
    batch: int = Field(32, ge=1)
    lr: float = Field(0.0035, gt=0)
    length: int = Field(2, ge=1)
    depth: int = Field(9, ge=1)
    coupling: Literal["linear", "none"] = "linear"
    weight: float = Field(1.0, ge=0)
    balance: Literal["adaptive"] | float = "adaptive"
    ce_on: Literal["clean", "adversarial", "both"] = "clean"


def apt(settings: Apt | None = None) -> Defence:
    """min over a text context of CE at attacked images, both towers frozen; state: `context` (words x width)."""
    chosen = settings or Apt()

    def fit(
        model: VisionLanguageModel, data: Dataset, *, generator: torch.Generator, session: Session = SILENT
    ) -> State:
        names = context_names(data.task)
        start = 0.02 * torch.randn(chosen.words, model.prompt_shape().text_width, generator=generator)

        def student(state: State) -> Classifier:
            head = CosineHead(text_prototypes(model, names, text_prompts(state).context), model.logit_scale)
            return Classifier(model.encode_image, head)

        return learn(
            {"context": start}, student, ON_ATTACKED, data, chosen, chosen.attack,
            device=model.device, generator=generator, session=session,
        )  # fmt: skip

    return Defence(chosen, fit, coop().apply, learns_from="labels", changes=frozenset({"text prompts"}))


def capt(settings: Capt | None = None) -> Defence:
    """min CE(p(x), y) + lambda [(1 - a) KL(p(x_adv) || p(x)) + a KL(p(x_adv) || p_frozen(x))].

    p: the prompted model; p_frozen: the model with its templates, on the clean image; both teachers have no gradient.
    a = p_frozen(x)[y] / (p_frozen(x)[y] + p(x)[y]), image by image: the better teacher weighs more (ours). State:
    `prompt.tokens`, `prompt.deep`, `context`, `deep_context`.
    """
    chosen = settings or Capt()

    def fit(
        model: VisionLanguageModel, data: Dataset, *, generator: torch.Generator, session: Session = SILENT
    ) -> State:
        frozen, start = zero_shot().apply(model, data.task, {}), _start(model, chosen, generator)
        tower = merged(model, prompts_of(start)).vision
        learned = learn(
            start, partial(_student, model, tower, context_names(data.task)),
            Objective(climb_cross_entropy, partial(consistent, frozen, chosen)), data, chosen, chosen.attack,
            device=model.device, generator=generator, session=session,
        )  # fmt: skip
        return prompts_of(learned)

    def apply(model: VisionLanguageModel, task: Task, state: State) -> Classifier:
        base = merged(model, state)
        context, deep = text_prompts(state)
        with torch.no_grad():
            deep = None if deep is None else deep.to(base.device)
            prototypes = text_prototypes(base, context_names(task), context.to(base.device), deep)
        return Classifier(base.encode_image, CosineHead(prototypes, base.logit_scale))

    changes: frozenset[Change] = frozenset({"vision prompts", "text prompts"})
    return Defence(chosen, fit, apply, learns_from="labels", changes=changes)


def consistent(
    frozen: Classifier, chosen: Capt, student: Classifier, images: Images, attacked: Images, labels: Labels
) -> PerImage:
    """CAPT's loss, image by image."""
    clean, here = log_chances(student(images)), log_chances(student(attacked))
    entropies = {"clean": clean, "adversarial": here}
    loss = sum(
        F.nll_loss(entropies[name], labels, reduction="none")
        for name in (entropies if chosen.ce_on == "both" else (chosen.ce_on,))
    )
    with torch.no_grad():
        guide, own = log_chances(frozen(images)), clean.detach()
    share = balance_of(guide, own, labels) if chosen.balance == "adaptive" else chosen.balance
    return loss + chosen.weight * ((1 - share) * divergence(here, own) + share * divergence(here, guide))


def balance_of(guide: Tensor, own: Tensor, labels: Labels) -> PerImage:
    """a, from log-probabilities: the frozen model's probability of the label in the sum of both."""
    rows = torch.arange(len(labels), device=labels.device)
    return torch.sigmoid(guide[rows, labels] - own[rows, labels])


class TextPrompts(NamedTuple):
    """Learned context of the first layer of the text tower, and of further ones where there are any."""

    context: Tensor
    deep: Tensor | None


def text_prompts(state: State) -> TextPrompts:
    """The text prompts of a state. Raises KeyError where there are none."""
    return TextPrompts(state["context"], state.get("deep_context"))


def prompts_of(learned: State) -> State:
    """The prompts that a training's numbers stand for; `coupling` maps every image prompt to a text prompt."""
    tokens = learned["tokens"]  # layers x length x width
    if "coupling.weight" in learned:
        weight, bias = layer(learned, "coupling")
        context = torch.einsum("lmv,ltv->lmt", tokens[: len(weight)], weight) + bias[:, None]
    else:
        context = text_prompts(learned).context
    prompts = {"prompt.tokens": tokens[0], "context": context[0]}
    if len(tokens) > 1:
        prompts |= {"prompt.deep": tokens[1:]}
    if len(context) > 1:
        prompts |= {"deep_context": context[1:]}
    return {key: value.contiguous() for key, value in prompts.items()}


def _start(model: VisionLanguageModel, chosen: Capt, generator: torch.Generator) -> State:
    shape = model.prompt_shape()
    image_depth, text_depth = min(chosen.depth, shape.vision_layers), min(chosen.depth, shape.text_layers)
    tokens = 0.02 * torch.randn(image_depth, chosen.length, shape.vision_width, generator=generator)
    if chosen.coupling == "none":
        return {
            "tokens": tokens,
            "context": 0.02 * torch.randn(text_depth, chosen.length, shape.text_width, generator=generator),
        }
    depth, reach = min(image_depth, text_depth), shape.vision_width**-0.5
    weight = torch.rand(depth, shape.text_width, shape.vision_width, generator=generator)
    bias = torch.rand(depth, shape.text_width, generator=generator)
    return {  # as torch starts a linear layer
        "tokens": tokens,
        "coupling.weight": reach * (2 * weight - 1),
        "coupling.bias": reach * (2 * bias - 1),
    }


def _student(model: VisionLanguageModel, tower: nn.Module, names: tuple[str, ...], learned: State) -> Classifier:
    prompts = prompts_of(learned)
    vision = visual_prompts(prompts)
    prototypes = text_prototypes(model, names, *text_prompts(prompts))
    return Classifier(
        lambda images: functional_call(tower, vision, (images,)), CosineHead(prototypes, model.logit_scale)
    )
