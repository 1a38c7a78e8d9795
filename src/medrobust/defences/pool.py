"""`pool`: PromptSmooth's unlabelled idea made sound. The prompt is tuned on a pool of images, then frozen (ours)."""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from medrobust.data.task import Dataset, Task
from medrobust.defences.adaptation import merged
from medrobust.defences.context import add_noise
from medrobust.defences.defence import Defence
from medrobust.defences.heads import (
    CosineHead,
    context_names,
    prompt_head,
    start_context,
    start_template,
    text_prototypes,
)
from medrobust.defences.promptsmooth import entropy_of_mean
from medrobust.learning.loop import SILENT, Schedule, Session, descend
from medrobust.types import Classifier, State, VisionLanguageModel


class Pool(BaseModel):
    """Settings; all of them ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(500, ge=2)  # size of the unlabelled pool
    steps: int = Field(100, ge=1)
    batch: int = Field(32, ge=2)  # images a step
    draws: int = Field(8, ge=1)  # noisy copies of each
    sigmas: tuple[float, ...] = (0.25, 0.5)
    lr: float = Field(2e-3, gt=0)
    balance: float = Field(1.0, ge=0)  # weight of the pool's own entropy; 0 collapses onto a few classes


def pool(settings: Pool | None = None) -> Defence:
    """min_P mean_x H(pbar_x) - balance * H(mean_x pbar_x): sure about each image, undecided about the pool.

    Labels are never read. References: information maximisation, Krause, Perona and Gomes, NeurIPS 2010; entropy of
    the mean prediction, PromptSmooth (see `promptsmooth`).
    """
    chosen = settings or Pool()

    def fit(
        model: VisionLanguageModel, data: Dataset, *, generator: torch.Generator, session: Session = SILENT
    ) -> State:
        held = session.alone("pool").keeping(generator)
        order = torch.randperm(len(data), generator=generator)[: chosen.images].tolist()
        images = data.images(order)
        context = start_context(model, start_template(data.task)).requires_grad_(True)
        names = context_names(data.task)

        def loss(_step: int) -> Tensor:
            rows = torch.randperm(len(images), generator=generator)[: chosen.batch]
            level = chosen.sigmas[int(torch.randint(len(chosen.sigmas), (1,), generator=generator))]
            copies = images[rows].repeat_interleave(chosen.draws, dim=0)
            with torch.no_grad():
                features = model.encode_image(add_noise(copies, (level,), generator).to(model.device))
            logits = CosineHead(text_prototypes(model, names, context), model.logit_scale)(features)
            each = logits.log_softmax(dim=-1).unflatten(0, (len(rows), chosen.draws))
            return entropy_of_mean(each).mean() - chosen.balance * entropy_of_mean(each.flatten(0, 1))

        optimiser = torch.optim.AdamW([context], lr=chosen.lr)
        descend(loss, optimiser, Schedule(chosen.lr, chosen.steps), session=held)
        return {"context": context.detach().cpu()}

    def apply(model: VisionLanguageModel, task: Task, state: State) -> Classifier:
        base = merged(model, state)
        return Classifier(base.encode_image, prompt_head(base, task, state["context"].to(base.device)))

    return Defence(chosen, fit, apply, learns_from="images", changes=frozenset({"text prompts"}))
