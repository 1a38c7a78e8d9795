"""The towers once more, in a few lines of plain torch over the original names, written from the papers."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]
Act = Callable[[Tensor], Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()))


def norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scale = centred.square().mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(scale + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, seen: Tensor | None = None) -> Tensor:
    """`seen`: added to the scores, 0 or minus infinity, of a shape that goes with (batch, heads, asking, asked)."""
    parts = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
    scores = parts[0] @ parts[1].mT / math.sqrt(parts[0].shape[-1])
    weights = torch.softmax(scores if seen is None else scores + seen, dim=-1)
    return (weights @ parts[2]).transpose(1, 2).flatten(2)


def patches(images: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(images, weight, stride=weight.shape[-1]).flatten(2).mT


def resblocks(x: Tensor, w: Weights, name: str, act: Act, *, seen: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """OpenAI's blocks, 64 numbers a head."""
    number = 0
    while f"{name}.{number}.ln_1.weight" in w:
        block = f"{name}.{number}"
        normed = norm(x, w, f"{block}.ln_1", eps)
        fused = normed @ w[f"{block}.attn.in_proj_weight"].T + w[f"{block}.attn.in_proj_bias"]
        attended = attend(*fused.chunk(3, dim=-1), x.shape[-1] // 64, seen)
        x = x + linear(attended, w, f"{block}.attn.out_proj")
        hidden = act(linear(norm(x, w, f"{block}.ln_2", eps), w, f"{block}.mlp.c_fc"))
        x, number = x + linear(hidden, w, f"{block}.mlp.c_proj"), number + 1
    return x


def clip_image(w: Weights, pixels: Tensor, act: Act) -> Tensor:
    found = patches(pixels, w["visual.conv1.weight"])
    found = torch.cat([w["visual.class_embedding"].expand(len(found), 1, -1), found], dim=1)
    found = norm(found + w["visual.positional_embedding"], w, "visual.ln_pre", 1e-5)
    found = resblocks(found, w, "visual.transformer.resblocks", act)
    return norm(found[:, 0], w, "visual.ln_post", 1e-5) @ w["visual.proj"]


def clip_text(w: Weights, rows: Tensor, act: Act) -> Tensor:
    """Rows of token ids; pooled where the id is largest."""
    length = rows.shape[1]
    causal = torch.full((length, length), -math.inf).triu(1)
    found = w["token_embedding.weight"][rows] + w["positional_embedding"][:length]
    found = norm(resblocks(found, w, "transformer.resblocks", act, seen=causal), w, "ln_final", 1e-5)
    return found[torch.arange(len(rows)), rows.argmax(dim=1)] @ w["text_projection"]


def timm_vit(w: Weights, pixels: Tensor, name: str = "visual.trunk") -> Tensor:
    """The class token after the last norm; LayerNorm eps 1e-6, gelu, 64 numbers a head."""
    found = patches(pixels, w[f"{name}.patch_embed.proj.weight"]) + w[f"{name}.patch_embed.proj.bias"]
    found = torch.cat([w[f"{name}.cls_token"].expand(len(found), -1, -1), found], dim=1) + w[f"{name}.pos_embed"]
    number = 0
    while f"{name}.blocks.{number}.norm1.weight" in w:
        block = f"{name}.blocks.{number}"
        fused = linear(norm(found, w, f"{block}.norm1", 1e-6), w, f"{block}.attn.qkv")
        attended = attend(*fused.chunk(3, dim=-1), found.shape[-1] // 64)
        found = found + linear(attended, w, f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(found, w, f"{block}.norm2", 1e-6), w, f"{block}.mlp.fc1"))
        found, number = found + linear(hidden, w, f"{block}.mlp.fc2"), number + 1
    return norm(found, w, f"{name}.norm", 1e-6)[:, 0]


def bert(w: Weights, rows: Tensor, name: str, *, pad: int = 0) -> list[Tensor]:
    """The embeddings and what comes out of every layer; post-norm, LayerNorm eps 1e-12, 64 numbers a head."""
    words, places, kinds = (
        w[f"{name}.embeddings.{one}_embeddings.weight"] for one in ("word", "position", "token_type")
    )
    found = norm(words[rows] + places[: rows.shape[1]] + kinds[0], w, f"{name}.embeddings.LayerNorm", 1e-12)
    seen = torch.zeros(rows.shape).masked_fill(rows == pad, -math.inf)[:, None, None]
    every, number = [found], 0
    while f"{name}.encoder.layer.{number}.output.dense.weight" in w:
        layer = f"{name}.encoder.layer.{number}"
        three = [linear(found, w, f"{layer}.attention.self.{one}") for one in ("query", "key", "value")]
        attended = linear(attend(*three, found.shape[-1] // 64, seen), w, f"{layer}.attention.output.dense")
        found = norm(found + attended, w, f"{layer}.attention.output.LayerNorm", 1e-12)
        hidden = F.gelu(linear(found, w, f"{layer}.intermediate.dense"))
        found = norm(found + linear(hidden, w, f"{layer}.output.dense"), w, f"{layer}.output.LayerNorm", 1e-12)
        every.append(found)
        number += 1
    return every


def swin(w: Weights, pixels: Tensor, name: str = "vision_model.model", *, window: int = 7) -> Tensor:
    """The mean over the last tokens; 32 numbers a head; every other block looks through shifted windows."""
    found = patches(pixels, w[f"{name}.embeddings.patch_embeddings.projection.weight"])
    found = norm(found + w[f"{name}.embeddings.patch_embeddings.projection.bias"], w, f"{name}.embeddings.norm", 1e-5)
    side, stage = math.isqrt(found.shape[1]), 0
    while f"{name}.encoder.layers.{stage}.blocks.0.layernorm_before.weight" in w:
        number = 0
        while f"{name}.encoder.layers.{stage}.blocks.{number}.layernorm_before.weight" in w:
            shift = window // 2 if number % 2 and side > window else 0
            found = _swin_block(found, w, f"{name}.encoder.layers.{stage}.blocks.{number}", side, window, shift)
            number += 1
        merging = f"{name}.encoder.layers.{stage}.downsample"
        if f"{merging}.reduction.weight" in w:
            grid = found.unflatten(1, (side, side))
            four = torch.cat([grid[:, row::2, column::2] for column in range(2) for row in range(2)], dim=-1)
            found = linear(norm(four, w, f"{merging}.norm", 1e-5), w, f"{merging}.reduction").flatten(1, 2)
            side //= 2
        stage += 1
    return norm(found, w, f"{name}.layernorm", 1e-5).mean(dim=1)


def _swin_block(x: Tensor, w: Weights, block: str, side: int, window: int, shift: int) -> Tensor:
    normed = norm(x, w, f"{block}.layernorm_before", 1e-5)
    three = [linear(normed, w, f"{block}.attention.self.{one}") for one in ("query", "key", "value")]
    heads = x.shape[-1] // 32
    attended = attend(
        *three, heads, _seen(w[f"{block}.attention.self.relative_position_bias_table"], side, window, shift)
    )
    x = x + linear(attended, w, f"{block}.attention.output.dense")
    hidden = F.gelu(linear(norm(x, w, f"{block}.layernorm_after", 1e-5), w, f"{block}.intermediate.dense"))
    return x + linear(hidden, w, f"{block}.output.dense")


def _seen(table: Tensor, side: int, window: int, shift: int) -> Tensor:
    """(heads, tokens, tokens): the learned bias of two tokens' offset; minus infinity for tokens of other windows.

    Windows as they lie in the picture: shifted ones are cut by its border and do not go around it.
    """
    rows = torch.arange(side).repeat_interleave(side)
    columns = torch.arange(side).repeat(side)
    down, right = rows[:, None] - rows[None], columns[:, None] - columns[None]
    place = lambda lines: (lines + window - shift) // window  # noqa: E731
    together = (place(rows)[:, None] == place(rows)[None]) & (place(columns)[:, None] == place(columns)[None])
    number = (down + window - 1) * (2 * window - 1) + right + window - 1
    bias = table[number.clamp(0, len(table) - 1)].permute(2, 0, 1)
    return bias.masked_fill(~together, -math.inf)
