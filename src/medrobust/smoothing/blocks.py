"""The blocks of a vision transformer, from tokens to the class token's features, for one run of many equal batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from medrobust.types import Features
from medrobust.types.vit import BlockParts, LinearParts, NormParts, ViT

# what oneDNN calls the activations; the 1.702 of quick_gelu is in the weights
_POINTWISE = {
    "none": ("none", "none"),
    "quick_gelu": ("swish", "none"),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
}
Tokens = Float[Tensor, "rows width"]  # rows: batch x tokens


class Layer(NamedTuple):
    """A linear layer; `packed` where its weight is laid out for oneDNN and is opaque to everything else."""

    weight: Tensor
    bias: Tensor | None
    packed: bool


class Whole(NamedTuple):
    """A block that computes every token."""

    norm1: NormParts
    qkv: Layer
    out: Layer
    norm2: NormParts
    fc1: Layer
    fc2: Layer


class Last(NamedTuple):
    """The last block, for the class token: keys and values are never formed, their weights move to its side.

    Scores q.(K y + b) = (K^T q).y + a constant that softmax cancels; sum_t a_t (V y_t) = V sum_t a_t y_t.
    """

    norm1: NormParts
    query: Layer
    key: Float[Tensor, "heads head width"]
    value: Float[Tensor, "heads width head"]
    out: Layer  # the bias of the values is in its bias: the weights of attention add up to one
    norm2: NormParts
    fc1: Layer
    fc2: Layer


class Parts(NamedTuple):
    """Every layer after the tokens, in the dtype it runs in."""

    pre_norm: NormParts | None
    whole: tuple[Whole, ...]
    last: Last
    post_norm: NormParts
    projection: Layer
    heads: int
    activation: str


def prepared(vit: ViT, dtype: torch.dtype, *, pack: bool) -> tuple[Parts, str]:
    """The parts of a tower made ready to run in `dtype`, and the name of the library that multiplies its matrices."""
    layer = _packed if pack else _plain

    def norm(found: NormParts) -> NormParts:
        return NormParts(found.weight.detach().to(dtype), found.bias.detach().to(dtype), found.eps)

    def linear(weight: Tensor, bias: Tensor | None) -> Layer:
        return layer(weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype))

    parts = Parts(
        pre_norm=None if vit.pre_norm is None else norm(vit.pre_norm),
        whole=tuple(_whole(block, vit.activation, norm, linear) for block in vit.blocks[:-1]),
        last=_last(vit.blocks[-1], vit, dtype, norm, linear),
        post_norm=norm(vit.post_norm),
        projection=linear(*vit.projection),
        heads=vit.heads,
        activation=vit.activation,
    )
    name = "oneDNN" if pack else "torch"
    return parts, f"{name} {str(dtype).removeprefix('torch.')}"


def pooled_features(tokens: Float[Tensor, "batch tokens width"], parts: Parts) -> Features:
    """Features in float32, not normalised, of tokens in float32."""
    batch, count, width = tokens.shape
    rows = tokens.to(parts.post_norm.weight.dtype).view(-1, width)
    if parts.pre_norm is not None:
        rows = _norm(rows, parts.pre_norm)
    for block in parts.whole:
        rows = _plus_mlp(_plus_attention(rows, block, batch, parts.heads), block, parts.activation)
    seen = _norm(rows, parts.last.norm1).view(batch, count, width)
    first = rows.view(batch, count, width)[:, 0].contiguous()
    first = _linear(_class_attention(seen, parts.last, parts.heads), parts.last.out, plus=first)
    return _linear(_norm(_plus_mlp(first, parts.last, parts.activation), parts.post_norm), parts.projection).float()


def _plus_attention(rows: Tokens, block: Whole, batch: int, heads: int) -> Tokens:
    width = rows.shape[-1]
    qkv = _linear(_norm(rows, block.norm1), block.qkv).view(batch, -1, 3, heads, width // heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(-1, width)
    return _linear(attended, block.out, plus=rows)


def _class_attention(seen: Float[Tensor, "batch tokens width"], last: Last, heads: int) -> Float[Tensor, "batch width"]:
    batch, _, width = seen.shape
    query = _linear(seen[:, 0], last.query).view(batch, heads, -1).transpose(0, 1)  # heads first
    asked = (query @ last.key).transpose(0, 1)
    scores = asked @ seen.mT * (width // heads) ** -0.5
    mean = scores.softmax(dim=-1, dtype=torch.float32).to(seen.dtype) @ seen
    return (mean.transpose(0, 1) @ last.value).transpose(0, 1).reshape(batch, width)


def _plus_mlp(rows: Tokens, block: Whole | Last, activation: str) -> Tokens:
    hidden = _linear(_norm(rows, block.norm2), block.fc1, activation)
    return _linear(hidden, block.fc2, plus=rows)


def _norm(rows: Tokens, norm: NormParts) -> Tokens:
    return F.layer_norm(rows, norm.weight.shape, norm.weight, norm.bias, norm.eps)


def _linear(
    rows: Float[Tensor, "rows inputs"],
    layer: Layer,
    activation: str = "none",
    plus: Float[Tensor, "rows outputs"] | None = None,
) -> Float[Tensor, "rows outputs"]:
    """A linear layer, then either its activation or the sum with `plus`.

    oneDNN does all in one pass: every large tensor in between costs fresh pages, a fifth of the time on a busy machine.
    """
    if layer.packed:
        call = torch.ops.mkldnn._linear_pointwise
        if plus is not None:
            return call.binary(rows, plus, layer.weight, layer.bias, "add")
        kind, algorithm = _POINTWISE[activation]
        return call(rows, layer.weight, layer.bias, kind, [], algorithm)
    found = F.linear(rows, layer.weight, layer.bias)
    if plus is not None:
        return found.add_(plus)
    if activation == "none":
        return found
    if activation == "quick_gelu":  # its 1.702 is in the weights
        return F.silu(found, inplace=True)
    return F.gelu(found, approximate="tanh" if activation == "gelu_tanh" else "none")


def packing_works(device: torch.device, dtype: torch.dtype) -> bool:
    """True where oneDNN's packed layers exist and agree with torch's own on a small example.

    Inductor itself emits them on processors without MKL. They are a tenth faster than MKL, but not a public function.
    """
    if device.type != "cpu" or dtype != torch.float32:
        return False
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    rows, weight, bias = torch.linspace(-1, 1, 48).view(3, 16), torch.linspace(-1, 1, 128).view(8, 16), torch.ones(8)
    plus = torch.arange(24.0).view(3, 8)
    how: list[dict[str, Any]] = [{"plus": plus}, *({"activation": name} for name in _POINTWISE)]
    try:
        packed, plain = _packed(weight, bias), _plain(weight, bias)
        return all(torch.allclose(_linear(rows, packed, **one), _linear(rows, plain, **one), atol=1e-5) for one in how)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


def _plain(weight: Tensor, bias: Tensor | None) -> Layer:
    return Layer(weight.contiguous(), bias, packed=False)


def _packed(weight: Tensor, bias: Tensor | None) -> Layer:
    return Layer(torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None), bias, packed=True)


def _whole(
    block: BlockParts, activation: str, norm: Callable[[NormParts], NormParts], linear: Callable[..., Layer]
) -> Whole:
    projections = (block.query, block.key, block.value)
    weight = torch.cat([projection.weight for projection in projections])
    bias = torch.cat([_bias(projection) for projection in projections])
    fc1, fc2 = _mlp_layers(block, activation)
    return Whole(
        norm1=norm(block.norm1),
        qkv=linear(weight, bias),
        out=linear(*block.out),
        norm2=norm(block.norm2),
        fc1=linear(*fc1),
        fc2=linear(*fc2),
    )


def _last(
    block: BlockParts,
    vit: ViT,
    dtype: torch.dtype,
    norm: Callable[[NormParts], NormParts],
    linear: Callable[..., Layer],
) -> Last:
    fc1, fc2 = _mlp_layers(block, vit.activation)
    heads = (vit.heads, block.key.weight.shape[0] // vit.heads, -1)
    return Last(
        norm1=norm(block.norm1),
        query=linear(*block.query),
        key=block.key.weight.detach().to(dtype).view(heads),
        value=block.value.weight.detach().to(dtype).view(heads).mT.contiguous(),
        out=linear(block.out.weight, _bias(block.out) + block.out.weight @ _bias(block.value)),
        norm2=norm(block.norm2),
        fc1=linear(*fc1),
        fc2=linear(*fc2),
    )


def _mlp_layers(block: BlockParts, activation: str) -> tuple[LinearParts, LinearParts]:
    """x sigmoid(1.702 x) = silu(1.702 x) / 1.702, and silu is one kernel: the numbers go into the weights."""
    scale = 1.702 if activation == "quick_gelu" else 1.0
    fc1, fc2 = block.fc1, block.fc2
    return LinearParts(fc1.weight * scale, _bias(fc1) * scale), LinearParts(fc2.weight / scale, fc2.bias)


def _bias(layer: LinearParts) -> Tensor:
    return layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
