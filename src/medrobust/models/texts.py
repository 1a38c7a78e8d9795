"""One interface to the text towers of transformers: their padding, and the pooling of their output."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Rows = Int[Tensor, "texts tokens"]


@dataclass(frozen=True)
class Reading:
    """The layout of a tower's rows: first word, padding after the end, and pooling.

    `start`: markers before the first word. `fill`: the token behind the end of a text; None: its end marker again,
    for causal towers, which do not see it. `whole`: rows are always as long as the context. `masked`: the tower is
    told not to look at `fill`. `pooled`: the tower's own pooling, its first token, or MedCLIP's mean over the tokens
    of the outputs of its layers 1, 2 and last (of the text's own tokens, so that its neighbours do not change it).
    """

    start: int = 1
    fill: int | None = None
    whole: bool = False
    masked: bool = False
    pooled: Literal["own", "first", "mean"] = "own"


CAUSAL = Reading()


def layers_of(tower: Any) -> list[nn.Module]:
    """The blocks of a text tower, in order; none where it keeps them to itself."""
    encoder = getattr(tower, "encoder", None)
    found: list[nn.Module] = list(getattr(encoder, "layer", getattr(encoder, "layers", ())))
    return found


def pooled_text(tower: Any, rows: Rows, reading: Reading) -> Float[Tensor, "texts width"]:
    """Pooled output of a tower for rows of tokens, before the projection."""
    if not reading.masked:
        found: Tensor = tower(input_ids=rows).pooler_output
        return found
    mask = torch.ne(rows, -1 if reading.fill is None else reading.fill).long()
    if reading.pooled == "first":
        states: Tensor = tower(input_ids=rows, attention_mask=mask).last_hidden_state
        return states[:, 0]
    every = tower(input_ids=rows, attention_mask=mask, output_hidden_states=True).hidden_states
    mean = torch.stack([every[1], every[2], every[-1]]).mean(dim=0)
    return (mean * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
