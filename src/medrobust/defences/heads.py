"""From texts to a classifier's head: unit text features, and the cosine that compares them with an image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medrobust.data.task import Task
from medrobust.errors import PromptError
from medrobust.types import Context, DeepContext, Features, Logits, VisionLanguageModel

Prototypes = Float[Tensor, "classes dim"]


@dataclass(frozen=True)
class CosineHead:
    """logits = scale * cos(image feature, prototype of the class)."""

    prototypes: Prototypes
    scale: float

    @property
    def directions(self) -> Prototypes:
        """See `DirectionHead`."""
        return self.prototypes

    def __call__(self, features: Features) -> Logits:
        return self.scale * F.normalize(features, dim=-1) @ self.prototypes.T


@dataclass(frozen=True)
class PromptHead:
    """A cosine head that remembers the prompt it was made from, so that the prompt can be tuned further."""

    model: VisionLanguageModel
    names: tuple[str, ...]  # what follows the context, one text a class
    context: Context
    prototypes: Prototypes

    @property
    def directions(self) -> Prototypes:
        """See `DirectionHead`."""
        return self.prototypes

    def __call__(self, features: Features) -> Logits:
        return CosineHead(self.prototypes, self.model.logit_scale)(features)

    def with_context(self, context: Context) -> "PromptHead":
        """The same head under another learned context."""
        with torch.no_grad():
            return replace(self, context=context, prototypes=text_prototypes(self.model, self.names, context))


def text_prototypes(
    model: VisionLanguageModel, texts: Sequence[str], context: Context | None = None, deep: DeepContext | None = None
) -> Prototypes:
    """Unit text features, one a class.

    Raises PromptError naming the class whose prompt does not fit.
    """
    try:
        return F.normalize(model.encode_text(texts, context, deep), dim=-1)
    except PromptError as error:
        raise PromptError(f"class {error.index} of {len(texts)}, {error}", error.index) from None


def template_prototypes(model: VisionLanguageModel, task: Task) -> Prototypes:
    """The mean of the unit text features over the task's templates, again of unit length (zero-shot ensembling)."""
    with torch.no_grad():
        each = [text_prototypes(model, prompts(task, template)) for template in task.templates]
        return F.normalize(torch.stack(each).mean(dim=0), dim=-1)


def prompts(task: Task, template: str) -> tuple[str, ...]:
    """One sentence a class.

    >>> from medrobust.data.task import Task
    >>> prompts(Task("t", "", ("a", "b"), ((), ()), ("see {}.",), "", "", "", ""), "see {}.")
    ('see a.', 'see b.')
    """
    return tuple(template.format(name) for name in task.classes)


def prompt_head(model: VisionLanguageModel, task: Task, context: Context) -> PromptHead:
    """The head of a learned context: it stands before the class name and a full stop."""
    names = context_names(task)
    with torch.no_grad():
        return PromptHead(model, names, context, text_prototypes(model, names, context))


def context_names(task: Task) -> tuple[str, ...]:
    """The text after a learned context, class by class."""
    return tuple(f"{name}." for name in task.classes)


def start_template(task: Task) -> str:
    """The first template with words before the class name; CoOp's own start where a task has none, e.g. only `{}`.

    References: Zhou et al., IJCV 2022, section 3.2 ("a photo of a").
    """
    return next((one for one in task.templates if one.split("{}")[0].strip()), "a photo of a {}")


def start_context(model: VisionLanguageModel, template: str) -> Context:
    """The word embeddings of a template's words before the class name (paper: "An H&E image patch of").

    Raises PromptError for a template that begins with the class name, which leaves nothing to learn.
    """
    words = template.split("{}")[0].strip()
    context = model.embed_words(words)
    if len(context) == 0:
        raise PromptError(f"template {template!r} has no words before the class name: no context to start from")
    return context
