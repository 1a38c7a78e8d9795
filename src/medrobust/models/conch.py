"""CONCH through its authors' own package, which the user installs: its licence forbids commercial use and changes.

Reference: Lu et al., "A visual-language foundation model for computational pathology", Nature Medicine 2024.
"""

from importlib import import_module
from typing import Any, NamedTuple

from torch import Tensor, nn

from medrobust.errors import ModelError
from medrobust.models.clip import Clip, ModelSource
from medrobust.models.fill import refuse_keys
from medrobust.models.inputs import CLIP_MEAN, CLIP_STD, Tokenize, calling
from medrobust.models.texts import Reading
from medrobust.models.towers import keep_statistics, normalised_images
from medrobust.types import Features, Images, Preprocess


class ConchVision(nn.Module):
    """CONCH's image encoder, for matching with texts; it takes no learned tokens."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        keep_statistics(self, CLIP_MEAN, CLIP_STD)

    def forward(self, images: Images) -> Features:
        """Features in float32, not normalised to unit length."""
        return self.tower(normalised_images(self, images))[0].float()


class Pooled(NamedTuple):
    """A text tower's output, under the name that transformers gives it."""

    pooler_output: Tensor


class ConchText(nn.Module):
    """CONCH's text encoder under the names of transformers; rows leave out the place of its own class token."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, input_ids: Tensor) -> Pooled:
        """Features of texts, projected, not normalised."""
        return Pooled(self.tower(input_ids)[0])

    def get_input_embeddings(self) -> nn.Embedding:
        """The module that maps tokens to vectors."""
        embedding: nn.Embedding = self.tower.token_embedding
        return embedding


def load_conch(source: ModelSource) -> Clip:
    """CONCH from a local file of weights; no commercial use.

    Learned context works, deep prompts do not: its layers take tokens in another order. Raises ModelError where the
    package `conch` cannot be imported or gives another network.
    """
    try:
        package: Any = import_module("conch.open_clip_custom")
    except Exception as error:  # torchvision, which it needs, fails with other errors too
        told = str(error).partition("\n")[0]
        raise ModelError(
            f"{source.name} needs its authors' package conch, which cannot be imported ({told}); install it from the "
            "page of mahmoodlab/CONCH on GitHub"
        ) from error
    (file,) = source.weights.files
    network = package.create_model_from_pretrained("conch_ViT-B-16", str(file), return_transform=False)
    missing = [key for key in network.state_dict() if key not in source.weights.tensors]  # which the package lets pass
    refuse_keys("missing_keys", missing, name=source.name, what="CONCH")
    network = network.requires_grad_(False).eval().to(device=source.device, dtype=source.dtype)
    tokenizer = package.get_tokenizer()
    size = int(network.visual.image_size[0])
    return Clip(
        name=source.name,
        sha256=source.weights.sha256,
        licence=source.licence,
        preprocess=Preprocess(size, size),
        logit_scale=float(network.logit_scale.exp()),
        context_length=int(network.context_length) - 1,
        vision=ConchVision(network.visual).eval().to(source.device),
        text=ConchText(network.text).eval(),
        text_projection=nn.Identity(),
        tokenize=_tokenizer(tokenizer, source.name),
        reading=Reading(fill=int(tokenizer.pad_token_id), whole=True),
        revision=source.revision,
    )


def _tokenizer(tokenizer: Any, name: str) -> Tokenize:
    tokenize = calling(tokenizer)
    if [tokenize("a")[0], tokenize("a")[-1]] != [tokenizer.bos_token_id, tokenizer.eos_token_id]:
        raise ModelError(f"{name}: the package's tokenizer puts no markers around a text; another version is installed")
    return tokenize
