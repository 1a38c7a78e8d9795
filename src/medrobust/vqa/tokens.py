"""The last hidden states of both towers before pooling: of image patches and of words.

The states are those of transformers' `last_hidden_state`, whatever the family; the projections come after them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medrobust.errors import ModelError
from medrobust.models.clip import Clip
from medrobust.models.hooks import changed_output
from medrobust.types import Images

ImageTokens = Float[Tensor, "batch tokens width"]


class Words(NamedTuple):
    """The tokens of some texts, with their markers; `there` is false where a shorter text was filled up."""

    states: Float[Tensor, "texts words text_width"]
    ids: Int[Tensor, "texts words"]
    there: Bool[Tensor, "texts words"]

    def of(self, rows: Tensor) -> "Words":
        """Some of the texts, in that order."""
        return Words(*(part[rows] for part in self))


def image_tokens(model: Clip, images: Images) -> ImageTokens:
    """All last hidden states of the vision tower in float32, class token included; differentiable by the pixels.

    Raises ModelError for images of another size, or for a tower that gives no states.
    """
    with _last_states(getattr(model.vision, "tower", model.vision), "image") as found:
        model.encode_image(images)
    return found[0].float()


@torch.no_grad()
def text_tokens(model: Clip, texts: Sequence[str]) -> Words:
    """All last hidden states of the text tower in float32, and which of them are words of the text.

    Raises PromptError, naming it, for a text that is longer than the context.
    """
    ids = [model.tokenize(text) for text in texts]
    with _last_states(model.text, "text") as found:
        model.encode_text(texts)
    states = found[0].float()
    rows = torch.zeros(states.shape[:2], dtype=torch.int64)
    there = torch.zeros(states.shape[:2], dtype=torch.bool)
    for row, numbers in enumerate(ids):
        rows[row, : len(numbers)] = torch.tensor(numbers)
        there[row, : len(numbers)] = True
    return Words(states, rows.to(states.device), there.to(states.device))


@contextmanager
def _last_states(tower: nn.Module, which: str) -> Iterator[list[Tensor]]:
    """Collect a tower's output while the model encodes, so that sizes, masks and limits stay the model's own."""
    found: list[Tensor] = []

    def keep(output: Any) -> Any:
        states = getattr(output, "last_hidden_state", None)
        if not isinstance(states, Tensor) or states.ndim != 3:
            raise ModelError(
                f"the {which} encoder is a {type(tower).__name__}, which gives no states of its tokens; questions need "
                "a model whose towers do, such as builtin"
            )
        found.append(states)
        return output

    with changed_output(tower, keep):
        yield found
