"""Checkpoints of open_clip (QuiltNet and other CLIPs with a ViT, BiomedCLIP) by their open_clip_config.json."""

from pathlib import Path
from typing import Any

from medrobust.errors import ModelError
from medrobust.models.biomedclip import load_biomedclip
from medrobust.models.clip import Clip, ModelSource, clip_of
from medrobust.models.fill import LARGEST_ENDS, configured, sizes_of
from medrobust.models.inputs import CLIP_MEAN, CLIP_STD, Pixels, read_json
from medrobust.models.rename import Table, clip_table, renamed
from medrobust.types import Interpolation, Preprocess

CONFIG = "open_clip_config.json"
# what the towers may say, with open_clip's own defaults; everything else would make another network of them
_VISION = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16, "head_width": 64, "mlp_ratio": 4.0}
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
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
    if not isinstance(model, dict) or not all(isinstance(model.get(key), dict) for key in ("vision_cfg", "text_cfg")):
        raise ModelError(f"{path} has no model_cfg with vision_cfg and text_cfg, which open_clip writes")
    timm = "timm_model_name" in model["vision_cfg"] or "hf_model_name" in model["text_cfg"]
    try:
        pixels = _pixels(pictures, int(model["vision_cfg"].get("image_size", 224)), path)
        int(model["embed_dim"]), int(model["text_cfg"].get("context_length", 77))
        clip = None if timm else _clip(source, model, path)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{path} cannot be understood: {type(error).__name__} {error}") from error
    if clip is None:
        return load_biomedclip(source, model, pixels)
    tensors = renamed(source.weights.tensors, clip[1], name=source.name, what="CLIP of open_clip")
    return clip_of(source, clip[0], tensors, pixels)


def _clip(source: ModelSource, model: dict[str, Any], path: Path) -> tuple[Any, Table]:
    """A `CLIPConfig` and the table of its weights; raises ModelError where a tower is not a plain transformer."""
    from transformers import CLIPConfig

    vision, text = _VISION | model["vision_cfg"], _TEXT | model["text_cfg"]
    for which, found, known in (("vision_cfg", vision, _VISION), ("text_cfg", text, _TEXT)):
        own = {key: value for key, value in found.items() if key not in known and key not in _NEUTRAL and value}
        others = sorted(key for key, value in own.items() if value not in _USUAL.get(key, ()))
        if others or not isinstance(found["layers"], int):
            told = ", ".join(others) or "the layers of a ResNet"
            raise ModelError(f"{path}: {which} has {told}; of open_clip's models, plain CLIPs with a ViT are read")
    quick = model.get("quick_gelu", source.activation == "quick_gelu")
    shared = {"hidden_act": "quick_gelu" if quick else "gelu"}
    config = configured(
        CLIPConfig,
        name=source.name,
        what="CLIP",
        projection_dim=model["embed_dim"],
        vision_config=shared | _sizes(vision, vision["width"] // vision["head_width"])
        | {"image_size": vision["image_size"], "patch_size": vision["patch_size"]},
        text_config=shared | _sizes(text, text["heads"])
        | {"max_position_embeddings": text["context_length"], "vocab_size": text["vocab_size"]}
        | LARGEST_ENDS,
    )  # fmt: skip
    prefix = "text." if "text.token_embedding.weight" in source.weights.tensors else ""
    return config, clip_table(vision["layers"], text["layers"], text=prefix)


def _sizes(tower: dict[str, Any], heads: int) -> dict[str, int]:
    width = tower["width"]
    return sizes_of(width, tower["layers"], heads=heads, inner=int(width * tower["mlp_ratio"]))


def _pixels(said: dict[str, Any], size: int, path: Path) -> Pixels:
    """open_clip resizes the shorter side and cuts out the centre, unless its preprocess_cfg says otherwise."""
    mode, filters = said.get("resize_mode", "shortest"), ("bilinear", "bicubic")
    interpolation: Interpolation = said.get("interpolation", "bicubic")
    mean, std = said.get("mean", CLIP_MEAN), said.get("std", CLIP_STD)
    three = len(mean) == 3 and len(std) == 3 and min(std) > 0
    if mode not in ("shortest", "squash") or interpolation not in filters or not three:
        raise ModelError(
            f"{path}: a preprocess_cfg of {said} is not read; expected shortest or squash, three means, positive stds"
        )
    return Pixels(Preprocess(size, size, interpolation, mode == "shortest"), list(mean), list(std))
