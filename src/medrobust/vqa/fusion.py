"""Co-attention: question tokens look at image tokens and the other way round, and one feature comes out of both.

References: Han et al., Findings of EMNLP 2024, arXiv 2407.02716 (RAN: co-attention over the states of frozen encoders);
Vaswani et al., "Attention is all you need", NeurIPS 2017 (the block). Sizes, pooling and combination are ours.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from medrobust.defences.probe import dense
from medrobust.types import Features, State
from medrobust.vqa.tokens import ImageTokens, Words

Tokens = Float[Tensor, "batch tokens width"]
_SIDES = ("question", "image")


class Fusion(BaseModel):
    """Of tokens after their projection: width, attention heads, and blocks in which each side looks at the other."""

    width: int = Field(64, ge=1)
    heads: int = Field(4, ge=1)
    blocks: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "Fusion":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


def start_fusion(words: Words, vocabulary: int, image_width: int, chosen: Fusion, generator: torch.Generator) -> State:
    """Projections and blocks as torch starts linear layers; state: `bag`, `SIDE.*` and `BLOCK.SIDE.*`.

    `bag` holds a vector for each of the text tower's tokens, N(0, 1) where `words`, which it learns from, have the
    token and 0 elsewhere, so that an unknown token says nothing.
    """
    width = chosen.width
    known = torch.zeros(vocabulary, 1)
    known[words.ids[words.there].cpu()] = 1
    state = State(bag=known * torch.randn(vocabulary, width, generator=generator))
    for side, inputs in zip(_SIDES, (words.states.shape[-1], image_width), strict=True):
        state |= dense(f"{side}.in", inputs, width, generator) | _norm(f"{side}.norm", width)
        for block in range(chosen.blocks):
            name = f"{block}.{side}"
            for part in ("query", "key", "value", "joined"):
                state |= dense(f"{name}.{part}", width, width, generator)
            state |= dense(f"{name}.up", width, 2 * width, generator) | dense(
                f"{name}.down", 2 * width, width, generator
            )
            state |= _norm(f"{name}.seen", width) | _norm(f"{name}.thought", width)
    return state


def fused(images: ImageTokens, words: Words, state: State, chosen: Fusion) -> Features:
    """[q, i, q * i, b]: q and i are the means of the question's and of the image's tokens after the blocks.

    b is the sum of the learned vectors of the question's tokens over the root of their number, a bag of words. Frozen
    states are scaled to mean 0 and variance 1 a token. Both sides of a block attend to the other's input to that block.
    Padding of a question is neither attended to nor counted.
    """
    question = _project(words.states, state, "question")
    image = _project(images, state, "image")
    for block in range(chosen.blocks):
        question, image = (
            _look(question, image, state, f"{block}.question", chosen.heads),
            _look(image, question, state, f"{block}.image", chosen.heads, words.there),
        )
    there = words.there.unsqueeze(-1).to(question.dtype)
    q, i = (question * there).sum(dim=1) / there.sum(dim=1), image.mean(dim=1)
    bag = (state["bag"][words.ids] * there).sum(dim=1) / there.sum(dim=1).sqrt()
    return torch.cat([q, i, q * i, bag], dim=1)


def fused_width(chosen: Fusion) -> int:
    """The width of a fused feature."""
    return 4 * chosen.width


def attend(
    queries: Float[Tensor, "batch queries width"],
    keys: Float[Tensor, "batch keys width"],
    state: State,
    name: str,
    heads: int,
    there: Bool[Tensor, "batch keys"] | None = None,
) -> Float[Tensor, "batch queries width"]:
    """softmax(Q K^T / sqrt(width of a head)) V in several heads, joined by a linear layer; over keys that are there.

    Reference: Vaswani et al. 2017, section 3.2.
    """
    mask = None if there is None else there[:, None, None, :]
    parts = ((queries, "query"), (keys, "key"), (keys, "value"))
    q, k, v = (linear(x, state, f"{name}.{part}").unflatten(-1, (heads, -1)).transpose(1, 2) for x, part in parts)
    seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return linear(seen.transpose(1, 2).flatten(2), state, f"{name}.joined")


def linear(inputs: Tensor, state: State, name: str) -> Tensor:
    """A linear layer of the state."""
    return F.linear(inputs, state[f"{name}.weight"], state[f"{name}.bias"])


def _look(
    queries: Float[Tensor, "batch queries width"],
    keys: Float[Tensor, "batch keys width"],
    state: State,
    name: str,
    heads: int,
    there: Bool[Tensor, "batch keys"] | None = None,
) -> Float[Tensor, "batch queries width"]:
    """Attention and a hidden layer, each added to its input and normalised."""
    seen = _normed(queries + attend(queries, keys, state, name, heads, there), state, f"{name}.seen")
    thought = linear(linear(seen, state, f"{name}.up").relu(), state, f"{name}.down")
    return _normed(seen + thought, state, f"{name}.thought")


def _project(tokens: Tokens, state: State, side: str) -> Float[Tensor, "batch tokens common"]:
    projected = linear(F.layer_norm(tokens, tokens.shape[-1:]), state, f"{side}.in")
    return _normed(projected, state, f"{side}.norm")


def _normed(tokens: Tokens, state: State, name: str) -> Tokens:
    return F.layer_norm(tokens, tokens.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _norm(name: str, width: int) -> State:
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
