"""The start of further pre-training: a model as `models.load` reads it, made trainable again."""

from typing import Any, NamedTuple

import torch

from medrobust.errors import ModelError
from medrobust.models import load, locate
from medrobust.models.towers import TokenTower
from medrobust.pairs.pretrain import MEAN, STD
from medrobust.pairs.recipe import Recipe


class Start(NamedTuple):
    """A network (`transformers.CLIPModel`), its tokenizer, and the recipe with the sizes that the network has."""

    network: Any
    tokenizer: Any
    recipe: Recipe


def start_from(spec: str, recipe: Recipe) -> Start:
    """A model to train further; of the recipe's architecture, image size and context length become the model's.

    Raises ModelError where it cannot be loaded or does not normalise images as CLIP does.
    """
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    model = load(spec)
    vision = model.vision
    if not isinstance(vision, TokenTower) or vision._tower.config.model_type != "clip_vision_model":
        raise ModelError(f"{spec} has no CLIP tower; continue from a model in the format of transformers")
    if not (torch.allclose(vision.mean.flatten(), torch.tensor(MEAN)) and torch.allclose(
        vision.std.flatten(), torch.tensor(STD)
    )):  # fmt: skip
        raise ModelError(f"{spec} does not normalise images as CLIP does, so training cannot go on from it")
    sides = {"vision_config": vision._tower.config.to_dict(), "text_config": model.text.config.to_dict()}
    network: Any = CLIPModel(CLIPConfig(**sides, projection_dim=vision.projection.out_features))
    network.vision_model, network.visual_projection = vision.tower, vision.projection
    network.text_model, network.text_projection = model.text, model.text_projection
    with torch.no_grad():
        network.logit_scale.fill_(model.logit_scale).log_()
    sizes = {"image_size": model.preprocess.size, "context_length": model.context_length}
    fitting = recipe.model_copy(update={"architecture": recipe.architecture.model_copy(update=sizes)})
    return Start(network.requires_grad_(True), CLIPTokenizer.from_pretrained(locate(spec)), fitting)
