"""A CLIP-shaped vision transformer as plain values: read from a model by `models`, run by `smoothing.fast_vit`.

Legend: `width` of a token; `hidden` of the MLP; `tokens` = 1 class token + patches; `side` of a square patch in pixels.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from medrobust.errors import MedrobustError

Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]  # erf; x * sigmoid(1.702 x); the approximation by tanh


class NotAViT(MedrobustError):  # noqa: N818  (its name is the sentence)
    """An image encoder is not a transformer of the known shape; the message says why, in one sentence."""


class NormParts(NamedTuple):
    """A layer norm."""

    weight: Float[Tensor, " width"]
    bias: Float[Tensor, " width"]
    eps: float


class LinearParts(NamedTuple):
    """x -> x @ weight.T + bias."""

    weight: Float[Tensor, "outputs inputs"]
    bias: Float[Tensor, " outputs"] | None = None


class BlockParts(NamedTuple):
    """A pre-norm block: x + out(attention(norm1(x))), then x + fc2(activation(fc1(norm2(x))))."""

    norm1: NormParts
    query: LinearParts
    key: LinearParts
    value: LinearParts
    out: LinearParts
    norm2: NormParts
    fc1: LinearParts
    fc2: LinearParts


@dataclass(frozen=True, eq=False)
class ViT:
    """From an image in [0, 1] to joint-space features; the tensors may be the model's own and must not be changed.

    The picture is cut into (size // side)^2 patches from the top left, row by row; pixels left over are not used.
    The patches' weights act on normalised pixels: (image - mean) / std.
    """

    patch: Float[Tensor, "width 3 side side"]
    patch_bias: Float[Tensor, " width"] | None
    class_token: Float[Tensor, " width"]
    positions: Float[Tensor, "tokens width"]
    pre_norm: NormParts | None
    blocks: tuple[BlockParts, ...]
    post_norm: NormParts
    projection: LinearParts
    mean: Float[Tensor, "3"]
    std: Float[Tensor, "3"]
    heads: int
    activation: Activation
    size: int  # of the square image, in pixels
