"""The three networks that are timed, of random weights (weights change no speed); needs torch and transformers only."""

from dataclasses import dataclass
from typing import Any

import torch

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CLASSES, TOKENS = 9, 77


@dataclass(frozen=True)
class Architecture:
    """A CLIP: its image tower is what costs, its text tower what the literature's loop runs beside it."""

    title: str
    vision: dict[str, Any]
    text: dict[str, Any]
    dim: int

    @property
    def flops(self) -> float:
        """Nominal operations an image: two for each multiplication of the whole tower, every token in every block."""
        size, patch, width = (int(self.vision[key]) for key in ("image_size", "patch_size", "hidden_size"))
        inner, layers = (int(self.vision[key]) for key in ("intermediate_size", "num_hidden_layers"))
        patches = (size // patch) ** 2
        tokens = patches + 1
        embedding = patches * 3 * patch * patch * width
        block = tokens * (4 * width * width + 2 * width * inner) + 2 * tokens * tokens * width
        return 2.0 * (embedding + layers * block + width * self.dim)


def _vision(size: int, patch: int, width: int, heads: int, layers: int, act: str) -> dict[str, Any]:
    return {
        "image_size": size, "patch_size": patch, "hidden_size": width, "num_attention_heads": heads,
        "intermediate_size": 4 * width, "num_hidden_layers": layers, "hidden_act": act,
    }  # fmt: skip


def _text(width: int, heads: int, layers: int, words: int, act: str) -> dict[str, Any]:
    return {
        "hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width, "hidden_act": act,
        "num_hidden_layers": layers, "vocab_size": words, "bos_token_id": words - 2, "eos_token_id": words - 1,
        "pad_token_id": words - 1, "max_position_embeddings": TOKENS,
    }  # fmt: skip


ARCHITECTURES = {
    "vit-b32": Architecture(
        "ViT-B/32, 224 px",
        _vision(224, 32, 768, 12, 12, "quick_gelu"), _text(512, 8, 12, 49408, "quick_gelu"), 512,
    ),
    "tiny": Architecture(
        "tiny: 64 px, patch 8, width 192, 6 layers",
        _vision(64, 8, 192, 3, 6, "quick_gelu"), _text(192, 3, 6, 49408, "quick_gelu"), 128,
    ),
    "builtin": Architecture(
        "built-in: 56 px, patch 14, width 192, 4 layers",
        _vision(56, 14, 192, 3, 4, "gelu"), _text(128, 4, 3, 1062, "gelu"), 128,
    ),
}  # fmt: skip


def network(name: str) -> Any:
    """A CLIPModel of transformers with the architecture's shape, frozen; the same weights in every process."""
    from transformers import CLIPConfig, CLIPModel

    found = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = CLIPConfig(vision_config=found.vision, text_config=found.text, projection_dim=found.dim)
    return CLIPModel(config).requires_grad_(False).eval()


def picture(name: str) -> torch.Tensor:
    """An image in [0, 1] of the architecture's size."""
    size = ARCHITECTURES[name].vision["image_size"]
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(1))


def texts(name: str) -> torch.Tensor:
    """Token numbers of one prompt a class, padded to 77 as CLIP's tokenizer does."""
    words = ARCHITECTURES[name].text["vocab_size"]
    rows = torch.randint(0, words - 3, (CLASSES, TOKENS), generator=torch.Generator().manual_seed(2))
    rows[:, 0], rows[:, 20:] = words - 2, words - 1
    return rows
