"""TeCoA, and its neighbours FARE and PMG-AFT, which are the same training with another loss.

References: Mao et al., "Understanding zero-shot adversarial robustness for large-scale models", ICLR 2023,
arXiv 2212.07016 (TeCoA); Schlarmann et al., "Robust CLIP", ICML 2024, arXiv 2402.12336 (FARE); Wang et al.,
"Pre-trained model guided fine-tuning for zero-shot adversarial robustness", CVPR 2024, arXiv 2401.04350 (PMG-AFT).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import nn
from torch.func import functional_call

from medrobust.attacks.losses import PerImage
from medrobust.data.task import Dataset, Task
from medrobust.defences.adaptation import changed_weights, interpolated_weights, merged, starting_state, visual_prompts
from medrobust.defences.adversarial import (
    ON_ATTACKED,
    AttackInTraining,
    BatchTraining,
    Objective,
    PixelLength,
    climb_cross_entropy,
    learn,
    score_attacked,
)
from medrobust.defences.defence import Change, Defence, LearnsFrom
from medrobust.defences.zero_shot import zero_shot
from medrobust.learning.loop import SILENT, Session
from medrobust.models.prompting import frame_pixels
from medrobust.types import Classifier, Images, Labels, Logits, State, VisionLanguageModel

_PROMPT_LR = 40.0  # the paper's, for visual prompts


class RobustVision(BaseModel):
    """A vision tower made robust, its text side untouched: weights or visual prompts.

    `blocks`: fine-tune that number of last layers only. `interpolation`: the share of the robust weights, the rest the
    model's own; it may be changed when a state is applied. `border` is a frame's width at 224 pixels, scaled to the
    model's; 0 tokens or a border of 0 leave that prompt out. Without an `lr`, fine-tuning has 1e-4 and prompts have 40.
    """

    mode: Literal["fine-tune", "visual-prompts"] = "fine-tune"
    blocks: int | None = Field(None, ge=1)
    interpolation: float = Field(1.0, ge=0, le=1)
    border: int = Field(30, ge=0)
    tokens: int = Field(10, ge=0)


class Tecoa(RobustVision, AttackInTraining, BatchTraining):
    """The paper's training; `unlabelled`: the frozen model's answer to the clean image in place of the label."""

    lr: float | None = Field(None, gt=0)  # type: ignore[assignment]
    unlabelled: bool = False


class Fare(RobustVision, AttackInTraining, BatchTraining):
    """The paper's training at its smaller radius."""

    optimiser: Literal["sgd", "adamw"] = "adamw"
    lr: float | None = Field(1e-5, gt=0)  # type: ignore[assignment]
    weight_decay: float = Field(1e-4, ge=0)
    eps: PixelLength = 2 / 255
    attack_steps: int = Field(10, ge=1)


class PmgAft(RobustVision, AttackInTraining, BatchTraining):
    """The paper's losses with equal weights; its other numbers as TeCoA's."""

    lr: float | None = Field(None, gt=0)  # type: ignore[assignment]


RobustSettings = Tecoa | Fare | PmgAft


def tecoa(settings: Tecoa | None = None) -> Defence:
    """min CE(softmax z(x_adv), y): attacked images are pulled to the text of their class."""
    chosen = settings or Tecoa()

    def objective(frozen: Classifier) -> Objective:
        if not chosen.unlabelled:
            return ON_ATTACKED
        return Objective(
            lambda student, images, _labels: climb_cross_entropy(student, images, answered(frozen, images)),
            lambda student, images, attacked, _labels: score_attacked(
                student, images, attacked, answered(frozen, images)
            ),
        )

    reads_labels = not chosen.unlabelled or chosen.shots is not None
    return robust_vision(chosen, objective, "labels" if reads_labels else "images")


def fare(settings: Fare | None = None) -> Defence:
    """min max_e |I(x + e) - I_frozen(x)|^2: no labels, no text, features not scaled to unit length."""

    def objective(frozen: Classifier) -> Objective:
        def distance(student: Classifier, target: torch.Tensor, points: Images) -> PerImage:
            return (student.encode(points) - target).square().sum(dim=1)

        def climb(student: Classifier, images: Images, labels: Labels) -> Callable[[Images], PerImage]:  # noqa: ARG001
            return partial(distance, student, features(frozen, images))

        def score(student: Classifier, images: Images, attacked: Images, labels: Labels) -> PerImage:  # noqa: ARG001
            return distance(student, features(frozen, images), attacked)

        return Objective(climb, score)

    chosen = settings or Fare()
    return robust_vision(chosen, objective, "images" if chosen.shots is None else "labels")


def pmg_aft(settings: PmgAft | None = None) -> Defence:
    """min CE(q_adv, y) + KL(q_frozen_adv || q_adv) + KL(q_clean || q_adv).

    q: answers of the student, q_frozen of the model as it was. The frozen teacher has no gradient; the student's own
    clean answer keeps it (ours).
    """

    def objective(frozen: Classifier) -> Objective:
        def score(student: Classifier, images: Images, attacked: Images, labels: Labels) -> PerImage:
            with torch.no_grad():
                guide = log_chances(frozen(attacked))
            here, clean = log_chances(student(attacked)), log_chances(student(images))
            return F.nll_loss(here, labels, reduction="none") + divergence(guide, here) + divergence(clean, here)

        return Objective(climb_cross_entropy, score)

    return robust_vision(settings or PmgAft(), objective, "labels")


def robust_vision(
    chosen: RobustSettings, objective: Callable[[Classifier], Objective], learns_from: LearnsFrom
) -> Defence:
    """The defence of any objective; state: `weight.NAME`, or `prompt.border` and `prompt.tokens`."""
    prompted = chosen.mode == "visual-prompts"

    def fit(
        model: VisionLanguageModel, data: Dataset, *, generator: torch.Generator, session: Session = SILENT
    ) -> State:
        frozen = zero_shot().apply(model, data.task, {})
        lr = chosen.lr if chosen.lr is not None else (_PROMPT_LR if prompted else 1e-4)
        start = _prompts(model, chosen, generator) if prompted else _weights(model, chosen, generator)
        tower = merged(model, start).vision if prompted else model.vision
        return learn(
            start, partial(_student, tower, frozen), objective(frozen), data, chosen.model_copy(update={"lr": lr}),
            chosen.attack, device=model.device, generator=generator, session=session,
        )  # fmt: skip

    def apply(model: VisionLanguageModel, task: Task, state: State) -> Classifier:
        own = state if prompted else interpolated_weights(model.vision, state, chosen.interpolation)
        return zero_shot().apply(model, task, own)

    changes: Change = "vision prompts" if prompted else "vision"
    return Defence(chosen, fit, apply, learns_from=learns_from, changes=frozenset({changes}))


def _weights(model: VisionLanguageModel, chosen: RobustSettings, generator: torch.Generator) -> State:
    if chosen.blocks is None:
        return starting_state(model.vision, "all", generator=generator)
    return starting_state(model.vision, "blocks", blocks=chosen.blocks, generator=generator)


def _prompts(model: VisionLanguageModel, chosen: RobustSettings, generator: torch.Generator) -> State:
    size, state = model.preprocess.size, {}
    if chosen.border:
        pixels = frame_pixels(size, max(1, round(chosen.border * size / 224)))
        state["prompt.border"] = torch.randn(3, pixels, generator=generator)
    if chosen.tokens:
        state["prompt.tokens"] = torch.randn(chosen.tokens, model.prompt_shape().vision_width, generator=generator)
    return state


def _student(tower: nn.Module, frozen: Classifier, state: State) -> Classifier:
    """The tower with the state's weights or prompts in place of its own, under the frozen head."""
    values = visual_prompts(state) or changed_weights(tower, state)
    return Classifier(lambda images: functional_call(tower, values, (images,)), frozen.head)


@torch.no_grad()
def answered(classifier: Classifier, images: Images) -> Labels:
    """The classes it names."""
    return classifier(images).argmax(dim=1)


@torch.no_grad()
def features(classifier: Classifier, images: Images) -> torch.Tensor:
    """The encoder's features of the images, without a gradient."""
    return classifier.encode(images)


def log_chances(logits: Logits) -> Logits:
    """Log-probabilities, in float32."""
    return logits.float().log_softmax(dim=1)


def divergence(teacher: Logits, student: Logits) -> PerImage:
    """KL(teacher || student) of log-probabilities."""
    return (teacher.exp() * (teacher - student)).sum(dim=1)
