"""CoOp: a text context learned from few clean labelled images; the baseline that has never seen noise."""

import torch

from medrobust.data.task import Dataset, Task
from medrobust.defences.adaptation import merged
from medrobust.defences.context import ContextSettings, learn_context
from medrobust.defences.heads import prompt_head
from medrobust.learning.loop import Progress
from medrobust.types import Classifier, Defence, State, VisionLanguageModel


class Coop(ContextSettings):
    """CoOp's own settings."""


def coop(settings: Coop | None = None) -> Defence:
    """Few-shot context, shared by all classes, learned on clean images.

    References: Zhou et al., "Learning to prompt for vision-language models", IJCV 2022.
    """
    chosen = settings or Coop()

    def fit(
        model: VisionLanguageModel, data: Dataset, *, generator: torch.Generator, progress: Progress | None = None
    ) -> State:
        return {"context": learn_context(model, data, chosen, sigmas=(), generator=generator, progress=progress)}

    def apply(model: VisionLanguageModel, task: Task, state: State) -> Classifier:
        base = merged(model, state)
        return Classifier(base.encode_image, prompt_head(base, task, state["context"].to(base.device)))

    return Defence(fit, apply, settings=chosen)
