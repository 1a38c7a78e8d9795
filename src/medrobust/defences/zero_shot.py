"""The frozen model with hand-written prompts: the baseline that every defence is compared with."""

import torch
from pydantic import BaseModel, ConfigDict

from medrobust.data.task import Dataset, Task
from medrobust.defences.adaptation import merged
from medrobust.defences.defence import Defence
from medrobust.defences.heads import CosineHead, template_prototypes
from medrobust.learning.loop import SILENT, Session
from medrobust.types import Classifier, State, VisionLanguageModel


class ZeroShot(BaseModel):
    """No settings: the prompts are the task's templates."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def zero_shot(settings: ZeroShot | None = None) -> Defence:
    """Mean of unit text features over the task's templates; nothing is learned.

    References: Radford et al., ICML 2021, section 3.1.4 (prompt ensembling).
    """

    def apply(model: VisionLanguageModel, task: Task, state: State) -> Classifier:
        base = merged(model, state)
        return Classifier(base.encode_image, CosineHead(template_prototypes(base, task), base.logit_scale))

    return Defence(settings or ZeroShot(), learn_nothing, apply)


def learn_nothing(
    model: VisionLanguageModel,  # noqa: ARG001 - the signature of every fit
    data: Dataset,  # noqa: ARG001
    *,
    generator: torch.Generator,  # noqa: ARG001
    session: Session = SILENT,  # noqa: ARG001
) -> State:
    """The fit of a defence that is complete as it stands."""
    return {}
