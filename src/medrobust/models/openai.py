"""Checkpoints that are one state dict of OpenAI's CLIP: CheXzero.

Reference: Tiu et al., "Expert-level detection of pathologies from unannotated chest X-ray images via self-supervised
learning", Nature Biomedical Engineering 2022.
"""

from typing import Any

from medrobust.errors import ModelError
from medrobust.models.clip import Clip, ModelSource, clip_of
from medrobust.models.fill import LARGEST_ENDS, configured, depth, shape_of, sizes_of
from medrobust.models.inputs import Pixels
from medrobust.models.rename import clip_table, renamed
from medrobust.types import Canvas, Preprocess

_WHAT = "state dict of OpenAI's CLIP with a ViT"
_NUMBERS = ("input_resolution", "context_length", "vocab_size")  # OpenAI's own files keep these beside the weights
_HEAD = 64  # numbers a head, in every CLIP with a ViT
_BLACK_TO_WHITE = 255.0
MEAN, STD = 101.48761 / _BLACK_TO_WHITE, 83.43944 / _BLACK_TO_WHITE


def load_chexzero(source: ModelSource) -> Clip:
    """A CLIP from a state dict, with CheXzero's pictures: grey, on a black square of 320 pixels, then resized.

    CheXzero takes mean and std before that last resize; both are linear, so the order only matters where
    interpolation overshoots black or white, which is clipped here. Sizes are read off the weights. Raises
    ModelError for weights that do not fit, naming them, and without CLIP's tokenizer files beside the file.
    """
    tensors = {key: value for key, value in source.weights.tensors.items() if key not in _NUMBERS}
    if any(key.startswith("visual.layer") for key in tensors):
        raise ModelError(f"{source.name}: its image encoder is a ResNet; of OpenAI's CLIPs, those with a ViT are read")
    config = _config(source, tensors)
    table = clip_table(config.vision_config.num_hidden_layers, config.text_config.num_hidden_layers)
    size = config.vision_config.image_size
    preprocess = Preprocess(size, size, "bicubic", crop=False, canvas=Canvas(320, fit=True), antialias=False)
    weights = renamed(tensors, table, name=source.name, what=_WHAT)
    return clip_of(source, config, weights, Pixels(preprocess, [MEAN] * 3, [STD] * 3))


def _config(source: ModelSource, tensors: dict[str, Any]) -> Any:
    from transformers import CLIPConfig

    shown = {
        "visual.conv1.weight": 4, "visual.positional_embedding": 2, "token_embedding.weight": 2,
        "visual.transformer.resblocks.0.mlp.c_fc.weight": 2, "transformer.resblocks.0.mlp.c_fc.weight": 2,
        "positional_embedding": 2, "text_projection": 2,
    }  # fmt: skip
    patch, positions, words, inner, text_inner, places, projection = (
        shape_of(tensors, key, sides, name=source.name, what=_WHAT) for key, sides in shown.items()
    )
    shared = {"hidden_act": source.activation or "quick_gelu"}
    return configured(
        CLIPConfig,
        name=source.name,
        what=_WHAT,
        projection_dim=projection[-1],
        vision_config=shared | _sizes(patch[0], inner[0], depth(tensors, "visual.transformer.resblocks."))
        | {"patch_size": patch[-1], "image_size": patch[-1] * round((positions[0] - 1) ** 0.5)},
        text_config=shared | _sizes(words[-1], text_inner[0], depth(tensors, "transformer.resblocks."))
        | {"vocab_size": words[0], "max_position_embeddings": places[0]}
        | LARGEST_ENDS,
    )  # fmt: skip


def _sizes(width: int, inner: int, layers: int) -> dict[str, int]:
    return sizes_of(width, layers, heads=max(1, width // _HEAD), inner=inner)
