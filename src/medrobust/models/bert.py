"""BERT as a text tower: its sizes read off its weights, so that no second download is needed for a configuration."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medrobust.models.clip import ModelSource
from medrobust.models.fill import configured, depth, filled, shape_of

_HEAD = 64  # numbers a head in every BERT of the base and large kind
PAD = 0


def read_bert(source: ModelSource, tensors: Mapping[str, Tensor], *, prefix: str, what: str, pooler: bool) -> Any:
    """A frozen `BertModel` with these weights; `prefix` stands before their keys in the file, `pooler`: it has one.

    Sizes that weights do not show are BERT's own: 64 numbers a head, gelu, LayerNorm eps 1e-12, padding 0. Raises
    ModelError for weights of another network.
    """
    from transformers import BertConfig, BertModel

    words, positions, first = (f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type"))
    inner = "encoder.layer.0.intermediate.dense.weight"
    shapes = {
        key: shape_of(tensors, key, 2, name=source.name, what=what, prefix=prefix)
        for key in (words, positions, first, inner)
    }
    vocabulary, width = shapes[words]
    config = configured(
        BertConfig,
        name=source.name,
        what=what,
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=depth(tensors, "encoder.layer."),
        num_attention_heads=max(1, width // _HEAD),
        intermediate_size=shapes[inner][0],
        max_position_embeddings=shapes[positions][0],
        type_vocab_size=shapes[first][0],
        layer_norm_eps=1e-12,
        hidden_act="gelu",
        pad_token_id=PAD,
    )
    network = filled(
        BertModel, config, tensors, name=source.name, what=what, dtype=source.dtype, prefix=prefix,
        add_pooling_layer=pooler,
    )  # fmt: skip
    return network.to(source.device)
