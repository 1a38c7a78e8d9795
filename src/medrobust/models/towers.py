"""Vision towers: pixels in [0, 1] to joint-space features, normalisation inside."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medrobust.types import Features, Images


class TokenTower(nn.Module):
    """A transformer over patches: CLIP's, timm's ViT as transformers' `ViTModel`, or SigLIP's.

    `pooled`: the first token of the last layer, or the tower's own pooling.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, tower: nn.Module, projection: nn.Module, mean: Sequence[float], std: Sequence[float], *,
        pooled: Literal["first", "own"],
    ) -> None:  # fmt: skip
        super().__init__()
        self.tower = tower
        self.projection = projection
        self.pooled = pooled
        keep_statistics(self, mean, std)

    def forward(self, images: Images) -> Features:
        """Features in float32, not normalised to unit length."""
        found = self._tower(pixel_values=normalised_images(self, images))
        pooled = found.last_hidden_state[:, 0] if self.pooled == "first" else found.pooler_output
        return self.projection(pooled).float()

    @property
    def _tower(self) -> Any:  # CLIPVisionModel, ViTModel or SiglipVisionModel of transformers
        return self.tower

    @property
    def embeddings(self) -> nn.Module:
        """The module that maps pixels to tokens."""
        return self._tower.embeddings

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The blocks, in order."""
        return list(getattr(self._tower, "encoder", self._tower).layers)

    @property
    def width(self) -> int:
        """Of a token."""
        return int(self._tower.config.hidden_size)


class SwinTower(nn.Module):
    """A Swin transformer: its tokens are merged on the way, and there is no token for the whole image."""

    def __init__(self, tower: nn.Module, projection: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.tower = tower
        self.projection = projection
        keep_statistics(self, mean, std)

    def forward(self, images: Images) -> Features:
        """Features in float32, not normalised to unit length."""
        return self.projection(
            self.tower(pixel_values=normalised_images(self, images)).pooler_output.flatten(1)
        ).float()


def keep_statistics(tower: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """Give a tower the mean and std of its channels, which are buffers, not weights."""
    tower.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
    tower.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)


def normalised_images(tower: Any, images: Images) -> Images:
    """Images minus the tower's mean, divided by its std, in the dtype of its weights."""
    return ((images - tower.mean) / tower.std).to(next(tower.tower.parameters()).dtype)
