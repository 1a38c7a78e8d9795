"""Weights of OpenAI, open_clip and timm renamed to the keys of transformers.

A table maps every key of a file, so that a missing or unexpected one is reported by the file's own name.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from medrobust.errors import ModelError
from medrobust.models.fill import refuse_keys


class To(NamedTuple):
    """The new keys of a weight; for several, it is cut into as many equal parts."""

    keys: tuple[str, ...]
    transposed: bool = False


Table = dict[str, To]
_KINDS = ("weight", "bias")


def renamed(tensors: Mapping[str, Tensor], table: Table, *, name: str, what: str) -> dict[str, Tensor]:
    """The weights by their new names. Raises ModelError for missing and unexpected keys, and for uneven cuts."""
    refuse_keys("missing_keys", [key for key in table if key not in tensors], name=name, what=what)
    refuse_keys("unexpected_keys", [key for key in tensors if key not in table], name=name, what=what)
    found: dict[str, Tensor] = {}
    for key, to in table.items():
        weight, parts = tensors[key], len(to.keys)
        if parts > 1 and (weight.ndim == 0 or len(weight) % parts):
            raise ModelError(f"{name}: {key} has shape {list(weight.shape)}, which cannot be cut into {parts} parts")
        pieces = weight.chunk(parts) if parts > 1 else (weight,)
        for new, piece in zip(to.keys, pieces, strict=True):
            found[new] = (piece.mT if to.transposed else piece).contiguous()
    return found


def clip_table(vision_layers: int, text_layers: int, *, text: str = "") -> Table:
    """OpenAI's and open_clip's CLIP to `CLIPModel`; `text`: what stands before the keys of the text tower."""
    table: Table = {
        "logit_scale": To(("logit_scale",)),
        "visual.proj": To(("visual_projection.weight",), transposed=True),
        "visual.class_embedding": To(("vision_model.embeddings.class_embedding",)),
        "visual.conv1.weight": To(("vision_model.embeddings.patch_embedding.weight",)),
        "visual.positional_embedding": To(("vision_model.embeddings.position_embedding.weight",)),
        f"{text}text_projection": To(("text_projection.weight",), transposed=True),
        f"{text}token_embedding.weight": To(("text_model.embeddings.token_embedding.weight",)),
        f"{text}positional_embedding": To(("text_model.embeddings.position_embedding.weight",)),
    }
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",  # transformers' own spelling
        "visual.ln_post": "vision_model.post_layernorm",
        f"{text}ln_final": "text_model.final_layer_norm",
    }
    table |= {f"{old}.{kind}": To((f"{new}.{kind}",)) for old, new in norms.items() for kind in _KINDS}
    for number in range(vision_layers):
        table |= _resblock(f"visual.transformer.resblocks.{number}", f"vision_model.encoder.layers.{number}")
    for number in range(text_layers):
        table |= _resblock(f"{text}transformer.resblocks.{number}", f"text_model.encoder.layers.{number}")
    return table


def vit_table(layers: int) -> Table:
    """timm's vision transformer, without its head, to `ViTModel` without a pooler."""
    table: Table = {
        "cls_token": To(("embeddings.cls_token",)),
        "pos_embed": To(("embeddings.position_embeddings",)),
    }
    for kind in _KINDS:
        table[f"patch_embed.proj.{kind}"] = To((f"embeddings.patch_embeddings.projection.{kind}",))
        table[f"norm.{kind}"] = To((f"layernorm.{kind}",))
    names = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    }  # fmt: skip
    for number in range(layers):
        table |= _block(f"blocks.{number}", f"layers.{number}", "attn.qkv.", "attention", names)
    return table


def _resblock(old: str, new: str) -> Table:
    names = {
        "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    }  # fmt: skip
    return _block(old, new, "attn.in_proj_", "self_attn", names)


def _block(old: str, new: str, fused: str, attention: str, names: Mapping[str, str]) -> Table:
    """One layer; `fused`: what queries, keys and values together are called."""
    table: Table = {}
    for kind in _KINDS:
        table[f"{old}.{fused}{kind}"] = _query_key_value(f"{new}.{attention}", kind)
        table |= {f"{old}.{one}.{kind}": To((f"{new}.{other}.{kind}",)) for one, other in names.items()}
    return table


def _query_key_value(attention: str, kind: str) -> To:
    return To(tuple(f"{attention}.{which}_proj.{kind}" for which in "qkv"))
