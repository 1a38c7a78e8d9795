"""Checkpoints of open_clip (QuiltNet and other CLIPs with a ViT, BiomedCLIP) by their open_clip_config.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.errors import ModelError
from medrobust.models.biomedclip import ModelConfig, load_biomedclip
from medrobust.models.clip import Clip, ModelSource, clip_of
from medrobust.models.fill import LARGEST_ENDS, configured, sizes_of
from medrobust.models.inputs import CLIP_MEAN, CLIP_STD, Pixels, read_json, said_in
from medrobust.models.rename import Table, clip_table, renamed
from medrobust.types import Interpolation, Preprocess

CONFIG = "open_clip_config.json"


# what the towers may say, with open_clip's own defaults; everything else would make another network of them
class _Vision(NamedTuple):
    image_size: Any = 224
    layers: Any = 12
    width: Any = 768
    patch_size: Any = 16
    head_width: Any = 64
    mlp_ratio: Any = 4.0


class _Text(NamedTuple):
    context_length: Any = 77
    vocab_size: Any = 49408
    width: Any = 512
    heads: Any = 8
    layers: Any = 12
    mlp_ratio: Any = 4.0


class _Pictures(NamedTuple):
    """Of preprocess_cfg; open_clip resizes the shorter side and cuts out the centre, unless it says otherwise."""

    resize_mode: str = "shortest"
    interpolation: Interpolation = "bicubic"
    mean: Sequence[float] = CLIP_MEAN
    std: Sequence[float] = CLIP_STD


_NEUTRAL = {"hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode", "output_tokens", "patch_dropout"}
_USUAL: dict[str, tuple] = {
    "pool_type": ("tok", "argmax"), "pos_embed_type": ("learnable",), "proj_type": ("linear",), "pad_id": (0,),
    "eos_id": (2,), "attn_pooler_queries": (256,), "attn_pooler_heads": (8,),
}  # fmt: skip


def load_open_clip(source: ModelSource) -> Clip:
    """A model from a folder of open_clip's: open_clip_config.json, weights, Hugging Face tokenizer files.

    The activation is the config's `quick_gelu` where it is said there, else the registry's, else open_clip's default,
    gelu. Raises ModelError for architectures that are not read, naming them, and for weights that do not fit.
    """
    path = source.folder / CONFIG
    said = read_json(path)
    model, pictures = said.get("model_cfg"), said.get("preprocess_cfg", {})
    parts = ("vision_cfg", "text_cfg")
    if not isinstance(model, dict) or not all(isinstance(model.get(key), dict) for key in parts):
        raise ModelError(f"{path} has no model_cfg with vision_cfg and text_cfg, which open_clip writes")
    vision, text = (model[key] for key in parts)
    timm = "timm_model_name" in vision or "hf_model_name" in text
    try:
        known = said_in(ModelConfig, model)
        pixels = _pixels(pictures, int(said_in(_Vision, vision).image_size), path)
        int(known.embed_dim), int(said_in(_Text, text).context_length)
        clip = None if timm else _clip(source, known, path)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{path} cannot be understood: {type(error).__name__} {error}") from error
    if clip is None:
        return load_biomedclip(source, known, pixels)
    tensors = renamed(source.weights.tensors, clip[1], name=source.name, what="CLIP of open_clip")
    return clip_of(source, clip[0], tensors, pixels)


def _clip(source: ModelSource, model: ModelConfig, path: Path) -> tuple[Any, Table]:
    """A `CLIPConfig` and where the weights go; raises ModelError where a tower is not a plain transformer."""
    from transformers import CLIPConfig

    vision, text = said_in(_Vision, model.vision_cfg), said_in(_Text, model.text_cfg)
    for which, found, known in (("vision_cfg", model.vision_cfg, vision), ("text_cfg", model.text_cfg, text)):
        own = {key: value for key, value in found.items() if key not in {*known._fields, *_NEUTRAL} and value}
        others = sorted(key for key, value in own.items() if value not in _USUAL.get(key, ()))
        if others or not isinstance(known.layers, int):
            told = ", ".join(others) or "the layers of a ResNet"
            raise ModelError(f"{path}: {which} has {told}; of open_clip's models, plain CLIPs with a ViT are read")
    quick = source.activation == "quick_gelu" if model.quick_gelu is None else model.quick_gelu
    shared = {"hidden_act": "quick_gelu" if quick else "gelu"}
    config = configured(
        CLIPConfig,
        name=source.name,
        what="CLIP",
        projection_dim=model.embed_dim,
        vision_config=shared | _sizes(vision, vision.width // vision.head_width)
        | {"image_size": vision.image_size, "patch_size": vision.patch_size},
        text_config=shared | _sizes(text, text.heads)
        | {"max_position_embeddings": text.context_length, "vocab_size": text.vocab_size}
        | LARGEST_ENDS,
    )  # fmt: skip
    prefix = "text." if "text.token_embedding.weight" in source.weights.tensors else ""
    return config, clip_table(vision.layers, text.layers, text=prefix)


def _sizes(tower: _Vision | _Text, heads: int) -> dict[str, int]:
    return sizes_of(tower.width, tower.layers, heads=heads, inner=int(tower.width * tower.mlp_ratio))


def _pixels(said: dict[str, Any], size: int, path: Path) -> Pixels:
    known = said_in(_Pictures, said)
    three = len(known.mean) == 3 and len(known.std) == 3 and min(known.std) > 0
    plain = known.resize_mode in ("shortest", "squash") and known.interpolation in ("bilinear", "bicubic")
    if not (plain and three):
        raise ModelError(
            f"{path}: a preprocess_cfg of {said} is not read; expected shortest or squash, three means, positive stds"
        )
    preprocess = Preprocess(size, size, known.interpolation, known.resize_mode == "shortest")
    return Pixels(preprocess, list(known.mean), list(known.std))
