"""`vote`: several fixed prompts, of which the surest answers each noisy sample (ours; sound)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from medrobust.data.task import Task
from medrobust.defences.adaptation import merged
from medrobust.defences.defence import Defence
from medrobust.defences.heads import prompts, text_prototypes
from medrobust.defences.zero_shot import learn_nothing
from medrobust.types import Classifier, Features, Logits, State, VisionLanguageModel


class Vote(BaseModel):
    """`entropy`: the surest prompt answers. `mean`: the mean of all prompts' probabilities."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["entropy", "mean"] = "entropy"


@dataclass(frozen=True)
class VoteHead:
    """K cosine heads and the rule that chooses among them, sample by sample."""

    prototypes: Float[Tensor, "prompts classes dim"]
    scale: float
    rule: Literal["entropy", "mean"]

    def __call__(self, features: Features) -> Logits:
        unit = F.normalize(features, dim=-1)
        each = (self.scale * torch.einsum("bd,kcd->bkc", unit, self.prototypes)).log_softmax(dim=-1)
        if self.rule == "mean":
            return each.logsumexp(dim=1) - torch.tensor(float(each.shape[1])).log()
        entropy = -(each.exp() * each).sum(dim=-1)
        return each[torch.arange(len(each), device=each.device), entropy.argmin(dim=1)]


def vote(settings: Vote | None = None) -> Defence:
    """The task's templates as K fixed prompts; nothing is learned.

    The answer depends on the noisy sample alone, so the vote is an ordinary base classifier and its certificate speaks
    of the model. Costs K small matrix products a sample, not K passes of the encoder.
    """
    chosen = settings or Vote()

    def apply(model: VisionLanguageModel, task: Task, state: State) -> Classifier:
        base = merged(model, state)
        with torch.no_grad():
            each = [text_prototypes(base, prompts(task, template)) for template in task.templates]
        return Classifier(base.encode_image, VoteHead(torch.stack(each), base.logit_scale, chosen.rule))

    return Defence(chosen, learn_nothing, apply)
