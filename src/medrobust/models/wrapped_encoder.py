"""The image encoder of a wrapped model, as a value that certificates, attacks and defences call."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch
from torch import Tensor, nn

from medrobust.errors import ModelError
from medrobust.types import Encoder, ModuleEncoder
from medrobust.types.axes import Features
from medrobust.types.vit import NotAViT


@dataclass(frozen=True)
class WrappedEncoder:
    """See `medrobust.types.Encoder`; equal where the module is the same.

    The weights of a user's network may ask for gradients, so a graph is made only where the pixels need one.
    """

    module: nn.Module
    size: int = field(compare=False)
    device: torch.device = field(compare=False)
    name: str = field(compare=False)
    like: Encoder | None = field(default=None, compare=False)

    def __call__(self, images: Tensor, /) -> Features:
        """Features of images in [0, 1]; noisy ones may leave that range.

        Raises ModelError for images of another size or form.
        """
        if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[2:] != (self.size, self.size):
            raise ModelError(
                f"{self.name} takes {self.size} x {self.size} pixels, got {images.shape[2]} x {images.shape[3]}; bring "
                "images to its size by preprocess=model.preprocess"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
            return self.module(images.to(self.device))

    def tower(self) -> nn.Module:
        """The module; where it calls a function, asking for its weights raises ModelError."""
        return self.module

    def parts(self) -> NoReturn:
        """Raises NotAViT: the user's network is run whole."""
        raise NotAViT(f"{self.name} was wrapped from Python, where its parts are not known")

    def adapted(self, changes: Mapping[str, Tensor]) -> "WrappedEncoder":
        """A copy with other weights. Raises ModelError for names that it does not have."""
        other = ModuleEncoder(self.module, name=self.name).adapted(changes).module
        return replace(self, module=other, like=self.like or self)
