"""CoOp: a text context learned from few clean labelled images; the baseline trained without noise."""

import torch

from medrobust.data.task import Dataset, Task
from medrobust.defences.adaptation import merged
from medrobust.defences.context import ContextSettings, learn_context
from medrobust.defences.defence import Defence
from medrobust.defences.heads import prompt_head
from medrobust.learning.loop import SILENT, Session
from medrobust.types import Classifier, State, VisionLanguageModel


class Coop(ContextSettings):
    """CoOp's own settings."""


def coop(settings: Coop | None = None) -> Defence:
    """Few-shot context, shared by all classes, learned on clean images.

    References: Zhou et al., "Learning to prompt for vision-language models", IJCV 2022.
    """
    chosen = settings or Coop()

    def fit(
        model: VisionLanguageModel, data: Dataset, *, generator: torch.Generator, session: Session = SILENT
    ) -> State:
        alone = session.alone("coop")
        return {"context": learn_context(model, data, chosen, sigmas=(), generator=generator, session=alone)}

    def apply(model: VisionLanguageModel, task: Task, state: State) -> Classifier:
        base = merged(model, state)
        return Classifier(base.encode_image, prompt_head(base, task, state["context"].to(base.device)))

    return Defence(chosen, fit, apply, learns_from="labels", changes=frozenset({"text prompts"}))
