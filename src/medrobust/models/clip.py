"""CLIP-shaped checkpoints (OpenAI CLIP, PLIP, the built-in model) through transformers, strictly loaded.

What the checkpoint says is what happens: activation and end-of-text rule from its config.json, resize, crop, mean and
std from its preprocessor_config.json. Images enter in [0, 1] and are normalised inside.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medrobust.errors import ModelError, PromptError
from medrobust.models.parts import read_vit
from medrobust.models.prompting import HasTokens, deepened, inserted, token_rows
from medrobust.models.weights import Weights
from medrobust.types import Context, DeepContext, Features, Images, Interpolation, Preprocess, PromptShape
from medrobust.vit import NotAViT, ViT

# PIL's numbers for resampling filters, as preprocessor_config.json writes them
_FILTERS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


class VisionTower(nn.Module):
    """Pixels in [0, 1] to joint-space features: normalisation, the ViT, the projection."""

    mean: Tensor
    std: Tensor

    def __init__(self, tower: nn.Module, projection: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.tower = tower
        self.projection = projection
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Images) -> Features:
        """Features in float32, not normalised to unit length."""
        dtype = next(self.projection.parameters()).dtype
        pixels = ((images - self.mean) / self.std).to(dtype)
        return self.projection(self.tower(pixel_values=pixels).pooler_output).float()

    @property
    def _tower(self) -> Any:  # CLIPVisionModel of transformers
        return self.tower

    @property
    def embeddings(self) -> nn.Module:
        """What makes tokens of pixels."""
        return self._tower.embeddings

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The blocks, in order."""
        return list(self._tower.encoder.layers)


@dataclass(frozen=True, eq=False)
class Clip:
    """A frozen CLIP: see `medrobust.types.VisionLanguageModel`."""

    name: str
    sha256: str
    licence: str
    preprocess: Preprocess
    logit_scale: float
    context_length: int
    vision: nn.Module
    text: Any  # CLIPTextModel of transformers
    text_projection: nn.Module
    tokenize: Callable[[str], list[int]]  # begin marker, words, end marker

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.vision.parameters()).device

    def with_vision(self, vision: nn.Module) -> "Clip":
        """The same text tower beside another image encoder."""
        return replace(self, vision=vision.requires_grad_(False).eval())

    def encode_image(self, images: Images) -> Features:
        """Image features, not normalised.

        Raises ModelError where the images do not have the model's size.
        """
        size = self.preprocess.size
        if images.shape[-2:] != (size, size):
            raise ModelError(f"{self.name} takes {size} x {size} pixels, got {images.shape[-2]} x {images.shape[-1]}")
        return self.vision(images.to(self.device))

    def prompt_shape(self) -> PromptShape:
        """Where learned prompts fit in. Raises NotAViT where the image encoder has no tokens."""
        vision = self.vision
        if not isinstance(vision, HasTokens):
            raise NotAViT(f"the image encoder is a {type(vision).__name__}, which takes no learned tokens")
        text_width = self.text.get_input_embeddings().weight.shape[1]
        vision_width = cast(nn.Linear, vision.projection).in_features
        return PromptShape(vision_width, len(vision.layers), text_width, len(self.text.encoder.layers))

    def encode_text(
        self, texts: Sequence[str], context: Context | None = None, deep: DeepContext | None = None
    ) -> Float[Tensor, "texts dim"]:
        """Text features, not normalised, of prompts cropped to the longest of them.

        Raises PromptError where one does not fit, or where `deep` does not go with `context` or the tower.
        """
        words = 0 if context is None else context.shape[0]
        tokens = [self.tokenize(text) for text in texts]
        try:
            rows = token_rows(tokens, words=words, limit=self.context_length).to(self.device)
        except PromptError as error:
            raise PromptError(f"{texts[error.index]!r}: {error}", error.index) from None
        if context is None:
            return self._pooled(rows)
        with ExitStack() as prompts:
            prompts.enter_context(inserted(self._embedding(), context))
            if deep is not None:
                prompts.enter_context(deepened(list(self.text.encoder.layers), deep, words=words))
            return self._pooled(rows)

    def embed_words(self, text: str) -> Context:
        """Token embeddings of a text without its markers; a text of no words gives no vectors."""
        ids = torch.tensor(self.tokenize(text)[1:-1], dtype=torch.int64, device=self.device)
        return self._embedding()(ids).detach().float().clone()

    def vit(self) -> ViT:
        """The parts of the image encoder, to run it without this class; the tensors are the model's own.

        Raises NotAViT, saying why, where `vision` is anything else than a plain CLIP tower of transformers.
        """
        if type(self.vision) is not VisionTower:
            raise NotAViT(f"the image encoder is a {type(self.vision).__name__}, not a CLIP tower as it was loaded")
        return read_vit(self.vision, self.vision.tower, self.vision.projection, self.vision.mean, self.vision.std)

    def _embedding(self) -> nn.Module:
        embedding: nn.Module = self.text.get_input_embeddings()
        return embedding

    def _pooled(self, rows: Tensor) -> Float[Tensor, "texts dim"]:
        return self.text_projection(self.text(input_ids=rows).pooler_output).float()


def load_clip(
    folder: Path, weights: Weights, *, name: str, licence: str, device: torch.device, dtype: torch.dtype
) -> Clip:
    """A CLIP from a folder in the format of transformers: config, weights, tokenizer, preprocessor_config.

    Raises ModelError for missing, unexpected, misshapen or non-finite weights, naming them.
    """
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig.from_pretrained(folder)
    with silent():
        network, report = CLIPModel.from_pretrained(
            None,
            config=config,
            state_dict=dict(weights.tensors),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below
            dtype=dtype,
        )
    _check_complete(name, report)
    network = network.requires_grad_(False).eval().to(device)
    preprocess, mean, std = read_preprocess(folder)
    if preprocess.size != config.vision_config.image_size:
        raise ModelError(
            f"{name}: preprocessor_config.json crops to {preprocess.size} px, the vision tower takes "
            f"{config.vision_config.image_size} px"
        )
    return Clip(
        name=name,
        sha256=weights.sha256,
        licence=licence,
        preprocess=preprocess,
        logit_scale=float(network.logit_scale.exp()),
        context_length=config.text_config.max_position_embeddings,
        vision=VisionTower(network.vision_model, network.visual_projection, mean, std).eval().to(device),
        text=network.text_model,
        text_projection=network.text_projection,
        tokenize=_tokenizer(folder, name, config.text_config.eos_token_id),
    )


def read_preprocess(folder: Path) -> tuple[Preprocess, list[float], list[float]]:
    """Size, crop, interpolation, mean and std from a checkpoint's preprocessor_config.json."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no preprocessor_config.json, so its resize and normalisation are unknown")
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        crop = bool(said.get("do_center_crop", True))
        resize = _side(said["size"], "shortest_edge")
        size = _side(said["crop_size"], "height") if crop else resize
        interpolation = _FILTERS[int(said.get("resample", 3))]
        mean, std = [float(v) for v in said["image_mean"]], [float(v) for v in said["image_std"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is no CLIP preprocessing: {type(error).__name__} {error}") from error
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ModelError(f"{path}: image_mean and image_std must be three numbers each, std positive")
    return Preprocess(size, resize, interpolation, crop), mean, std


@contextmanager
def silent() -> Iterator[None]:
    """transformers without its progress bars and warnings: what it finds out is checked and told by us."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _side(size: Any, key: str) -> int:
    if isinstance(size, dict):
        return int(size[key] if key in size else size["height"])
    return int(size)


def _check_complete(name: str, report: dict[str, Any]) -> None:
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(_told(key) for key in report[what])
        if keys:
            shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise ModelError(f"{name}: {what.replace('_', ' ')} in its weights: {shown}; the checkpoint is not a CLIP")


def _told(key: str | tuple[str, torch.Size, torch.Size]) -> str:
    return key if isinstance(key, str) else f"{key[0]} has shape {list(key[1])}, not {list(key[2])}"


def _tokenizer(folder: Path, name: str, eos: int | list[int]) -> Callable[[str], list[int]]:
    from transformers import CLIPTokenizer

    if not ((folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()):
        raise ModelError(f"{folder} has no tokenizer.json and no vocab.json with merges.txt")
    tokenizer = CLIPTokenizer.from_pretrained(folder)

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, truncation=False, verbose=False)["input_ids"])

    end = tokenize("a")[-1]
    if eos not in (2, end):  # 2 stands for the rule of old configs: the largest id ends the text
        raise ModelError(f"{name}: its tokenizer ends a text with token {end}, its config expects {eos}")
    return tokenize
