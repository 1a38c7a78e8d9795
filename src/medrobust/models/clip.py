"""A frozen dual encoder, and CLIP checkpoints (OpenAI CLIP, PLIP, the built-in model) in the format of transformers.

The checkpoint decides: activation and end-of-text rule come from its config.json; resize, crop, mean and std from its
preprocessor_config.json. Images are in [0, 1] and are normalised inside.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medrobust.errors import ModelError, PromptError
from medrobust.models.fill import configured, filled
from medrobust.models.fill import silent as silent
from medrobust.models.inputs import Pixels, clip_tokenizer
from medrobust.models.inputs import read_preprocess as read_preprocess
from medrobust.models.prompting import HasTokens, deepened, inserted, token_rows
from medrobust.models.read_vit import parts_of
from medrobust.models.texts import CAUSAL, Reading, layers_of, pooled_text
from medrobust.models.towers import TokenTower
from medrobust.models.weights import Weights
from medrobust.types import Context, DeepContext, ModuleEncoder, Preprocess, PromptShape
from medrobust.types.vit import Activation, NotAViT


class ModelSource(NamedTuple):
    """A checkpoint that was found and read; every family is built from one."""

    folder: Path  # of the weights; tokenizer and configuration lie there too
    weights: Weights
    name: str
    licence: str
    device: torch.device
    dtype: torch.dtype
    revision: str | None = None
    activation: Activation | None = None  # where the registry knows what the files do not say


def clip_tower(tower: nn.Module, projection: nn.Module, mean: Sequence[float], std: Sequence[float]) -> TokenTower:
    """The vision tower of CLIP's own ViT (`CLIPVisionModel` of transformers); mean and std of its channels."""
    return TokenTower(tower, projection, mean, std, pooled="own")


@dataclass(frozen=True, eq=False)
class Clip:
    """A frozen dual encoder of any family: see `medrobust.types.VisionLanguageModel`."""

    name: str
    sha256: str
    licence: str
    preprocess: Preprocess
    logit_scale: float
    context_length: int
    vision: nn.Module
    text: Any  # CLIPTextModel of transformers, BertModel, SiglipTextModel
    text_projection: nn.Module
    tokenize: Callable[[str], list[int]]  # begin marker, words, end marker
    reading: Reading = CAUSAL
    revision: str | None = None  # of the hub, where it is known

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return next(self.vision.parameters()).device

    def with_vision(self, vision: nn.Module) -> "Clip":
        """The same text tower beside another image encoder."""
        return replace(self, vision=vision.requires_grad_(False).eval())

    @property
    def encode_image(self) -> ModuleEncoder:
        """The image encoder, a value; its features are not normalised to unit length.

        It raises ModelError where images do not have the model's size.
        """
        return ModuleEncoder(self.vision, parts_of, self.preprocess.size, self.name)

    def prompt_shape(self) -> PromptShape:
        """Widths and depths for learned prompts. Raises NotAViT where the image encoder has no tokens."""
        vision = self.vision
        if not isinstance(vision, HasTokens):
            raise NotAViT(f"the image encoder is a {type(vision).__name__}, which takes no learned tokens")
        text_width = self._embedding().weight.shape[1]
        return PromptShape(vision.width, len(vision.layers), text_width, len(layers_of(self.text)))

    def encode_text(
        self, texts: Sequence[str], context: Context | None = None, deep: DeepContext | None = None
    ) -> Float[Tensor, "texts dim"]:
        """Text features, not normalised, of prompts cropped to the longest of them (SigLIP: as long as the context).

        Raises PromptError where one does not fit, or where `deep` does not go with `context` or the tower.
        """
        words = 0 if context is None else context.shape[0]
        tokens = [self.tokenize(text) for text in texts]
        try:
            rows = token_rows(
                tokens, words=words, limit=self.context_length,
                start=self.reading.start, fill=self.reading.fill, whole=self.reading.whole,
            ).to(self.device)  # fmt: skip
        except PromptError as error:
            raise PromptError(f"{texts[error.index]!r}: {error}", error.index) from None
        if context is None:
            return self._pooled(rows)
        with ExitStack() as prompts:
            prompts.enter_context(inserted(self._embedding(), context, start=self.reading.start))
            if deep is not None:
                prompts.enter_context(deepened(layers_of(self.text), deep, words=words, start=self.reading.start))
            return self._pooled(rows)

    def embed_words(self, text: str) -> Context:
        """Token embeddings of a text without its markers; a text of no words gives no vectors."""
        words = self.tokenize(text)[self.reading.start : -1]
        ids = torch.tensor(words, dtype=torch.int64, device=self.device)
        return self._embedding()(ids).detach().float().clone()

    def _embedding(self) -> nn.Embedding:
        embedding: nn.Embedding = self.text.get_input_embeddings()
        return embedding

    def _pooled(self, rows: Tensor) -> Float[Tensor, "texts dim"]:
        return self.text_projection(pooled_text(self.text, rows, self.reading)).float()


def load_clip(source: ModelSource) -> Clip:
    """A CLIP from a folder in the format of transformers: config, weights, tokenizer, preprocessor_config.

    Raises ModelError for missing, unexpected, misshapen or non-finite weights, naming them.
    """
    from transformers import CLIPConfig

    config = configured(CLIPConfig.from_pretrained, source.folder, name=source.name, what="CLIP")
    pixels = read_preprocess(source.folder)
    if pixels.preprocess.size != config.vision_config.image_size:
        raise ModelError(
            f"{source.name}: preprocessor_config.json crops to {pixels.preprocess.size} px, the vision tower takes "
            f"{config.vision_config.image_size} px"
        )
    return clip_of(source, config, source.weights.tensors, pixels)


def clip_of(source: ModelSource, config: Any, tensors: dict[str, Tensor], pixels: Pixels) -> Clip:
    """A CLIP of a `CLIPConfig` and weights by transformers' names; words from the folder's tokenizer."""
    from transformers import CLIPModel

    network = filled(CLIPModel, config, tensors, name=source.name, what="CLIP", dtype=source.dtype).to(source.device)
    vision = clip_tower(network.vision_model, network.visual_projection, pixels.mean, pixels.std)
    return Clip(
        name=source.name,
        sha256=source.weights.sha256,
        licence=source.licence,
        preprocess=pixels.preprocess,
        logit_scale=float(network.logit_scale.exp()),
        context_length=config.text_config.max_position_embeddings,
        vision=vision.eval().to(source.device),
        text=network.text_model,
        text_projection=network.text_projection,
        tokenize=clip_tokenizer(source.folder, source.name, config.text_config.eos_token_id),
        revision=source.revision,
    )
