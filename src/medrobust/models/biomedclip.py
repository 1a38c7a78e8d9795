"""BiomedCLIP: timm's ViT beside BiomedBERT, as open_clip saves them, built from `ViTModel` and `BertModel`.

Reference: Zhang et al., "A multimodal biomedical foundation model trained from fifteen million image-text pairs",
NEJM AI 2025.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from medrobust.errors import ModelError
from medrobust.models.bert import PAD, read_bert
from medrobust.models.clip import Clip, ModelSource
from medrobust.models.fill import (
    configured,
    depth,
    filled,
    part_of,
    projection,
    refuse_keys,
    refuse_others,
    shape_of,
    taken,
)
from medrobust.models.inputs import Pixels, bert_tokenizer, said_in
from medrobust.models.rename import renamed, vit_table
from medrobust.models.texts import Reading
from medrobust.models.towers import TokenTower

_WHAT = "ViT with a BERT"
_VIT = re.compile(r"vit_(tiny|small|base|large)_patch\d+_\d+")  # timm's, with 64 numbers a head
_TRUNK, _HEAD, _BERT, _PROJECTION = "visual.trunk.", "visual.head.proj.weight", "text.transformer.", "text.proj."
_WORDS = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"


class ModelConfig(NamedTuple):
    """open_clip's model_cfg; what the towers are stands in their own configs."""

    embed_dim: Any
    vision_cfg: Mapping[str, Any]
    text_cfg: Mapping[str, Any]
    quick_gelu: Any = None


class _Vision(NamedTuple):
    timm_model_name: Any = None
    timm_pool: Any = "avg"
    timm_proj: Any = "linear"
    timm_proj_bias: Any = False


class _Text(NamedTuple):
    """`proj` and `pooler_type` are what old revisions call the two that begin with `hf`."""

    hf_model_name: Any = None
    hf_pooler_type: Any = None
    pooler_type: Any = None
    hf_proj_type: Any = None
    proj: Any = None
    hf_tokenizer_name: Any = _WORDS
    context_length: Any = 77

    @property
    def pooler(self) -> Any:
        """Pooling of the BERT."""
        return self.hf_pooler_type or self.pooler_type

    @property
    def projection(self) -> Any:
        """Projection of the pooled token."""
        return self.hf_proj_type or self.proj


def load_biomedclip(source: ModelSource, model: ModelConfig, pixels: Pixels) -> Clip:
    """A ViT with class token, a BERT read at its first token, and their projections.

    Raises ModelError for another architecture, and for weights that do not fit, naming them.
    """
    text = said_in(_Text, model.text_cfg)
    _check(source.name, said_in(_Vision, model.vision_cfg), text)
    tensors, name = source.weights.tensors, source.name
    refuse_others(tensors, (_TRUNK, _HEAD, _BERT, _PROJECTION, "logit_scale"), name=name, what=_WHAT)
    bert = read_bert(source, part_of(tensors, _BERT), prefix=_BERT, what=_WHAT, pooler=False)
    trunk = _trunk(source, part_of(tensors, _TRUNK), pixels)
    dim = int(model.embed_dim)
    head = _linear(tensors, _HEAD, (dim, trunk.config.hidden_size), source)
    tower = TokenTower(trunk, head, pixels.mean, pixels.std, pooled="first")
    return Clip(
        name=name,
        sha256=source.weights.sha256,
        licence=source.licence,
        preprocess=pixels.preprocess,
        logit_scale=float(taken(tensors, "logit_scale", (), name=name, what=_WHAT).exp()),
        context_length=min(int(text.context_length), bert.config.max_position_embeddings),
        vision=tower.eval().to(source.device),
        text=bert,
        text_projection=_text_projection(source, text.projection, bert.config.hidden_size, dim),
        tokenize=bert_tokenizer(source.folder, bert.config.vocab_size, str(text.hf_tokenizer_name)),
        reading=Reading(fill=PAD, masked=True, pooled="first"),
        revision=source.revision,
    )


def _check(name: str, vision: _Vision, text: _Text) -> None:
    """Raise ModelError for what the two towers could be and are not."""
    for key, value, right in (
        ("timm_model_name", vision.timm_model_name, _VIT.fullmatch(str(vision.timm_model_name))),
        ("timm_pool", vision.timm_pool, vision.timm_pool in ("", "token")),
        ("timm_proj", vision.timm_proj, vision.timm_proj == "linear"),
        ("timm_proj_bias", vision.timm_proj_bias, not vision.timm_proj_bias),
        ("hf_model_name", text.hf_model_name, "bert" in str(text.hf_model_name).lower()),
        ("hf_pooler_type", text.pooler, text.pooler == "cls_last_hidden_state_pooler"),
        ("hf_proj_type", text.projection, text.projection in ("mlp", "linear")),
    ):
        if not right:
            raise ModelError(
                f"{name}: open_clip_config.json says {key} {value!r}; read are timm's plain ViTs with a class token, "
                "beside a BERT that is pooled at its first token"
            )


def _trunk(source: ModelSource, tensors: Mapping[str, Tensor], pixels: Pixels) -> Any:
    from transformers import ViTConfig, ViTModel

    known = {"name": source.name, "what": _WHAT, "prefix": _TRUNK}
    patch = shape_of(tensors, "patch_embed.proj.weight", 4, **known)
    inner = shape_of(tensors, "blocks.0.mlp.fc1.weight", 2, **known)
    layers = depth(tensors, "blocks.")
    config = configured(
        ViTConfig,
        name=source.name,
        what=_WHAT,
        hidden_size=patch[0],
        num_hidden_layers=layers,
        num_attention_heads=max(1, patch[0] // 64),
        intermediate_size=inner[0],
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        image_size=pixels.preprocess.size,
        patch_size=patch[-1],
    )
    table = {_TRUNK + key: to for key, to in vit_table(layers).items()}
    weights = renamed({_TRUNK + key: value for key, value in tensors.items()}, table, name=source.name, what=_WHAT)
    return filled(ViTModel, config, weights, name=source.name, what=_WHAT, dtype=source.dtype, add_pooling_layer=False)


def _text_projection(source: ModelSource, kind: str, width: int, dim: int) -> nn.Module:
    tensors, hidden = source.weights.tensors, (width + dim) // 2
    known = [f"{_PROJECTION}0.weight", f"{_PROJECTION}2.weight"] if kind == "mlp" else [f"{_PROJECTION}weight"]
    others = [key for key in tensors if key.startswith(_PROJECTION) and key not in known]
    refuse_keys("unexpected_keys", others, name=source.name, what=_WHAT)
    if kind == "linear":
        return _linear(tensors, known[0], (dim, width), source)
    into, out = _linear(tensors, known[0], (hidden, width), source), _linear(tensors, known[1], (dim, hidden), source)
    return nn.Sequential(into, nn.GELU(), out).eval()


def _linear(tensors: Mapping[str, Tensor], key: str, shape: tuple[int, int], source: ModelSource) -> nn.Linear:
    layer = projection(tensors, key, shape, name=source.name, what=_WHAT, dtype=source.dtype)
    return layer.to(source.device)
