"""An image encoder as a value: its features, its parts, and the same encoder with other weights."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from medrobust.errors import ModelError
from medrobust.types.axes import Features, Images
from medrobust.types.vit import NotAViT, ViT


@runtime_checkable
class Encoder(Protocol):
    """A function from images to features. Encoders are compared with `==`, by the weights they compute with.

    Equal encoders share one pass over the noise.
    """

    def __call__(self, images: Images, /) -> Features:
        """Features of the images, differentiable with respect to the pixels."""

    def __hash__(self) -> int:
        """Equal for equal encoders."""

    @property
    def like(self) -> "Encoder | None":
        """The encoder that `adapted` made this one from; None for any other.

        Decisions about that one (batch, fast path) hold for this one too, and are not measured again.
        """

    def tower(self) -> nn.Module:
        """The module that encodes: its named parameters are the weights that `adapted` can change.

        Raises ModelError where there is none.
        """

    def parts(self) -> ViT:
        """The encoder's weights and shape, as they are now; the tensors may be its own and must not be changed.

        Raises NotAViT, saying why, where it is not a vision transformer of the known shape.
        """

    def adapted(self, changes: Mapping[str, Tensor]) -> "Encoder":
        """The same encoder with other weights, by the names they have in `tower()`; this one stays as it is.

        Raises ModelError for a name that it does not have.
        """


@dataclass(frozen=True)
class ModuleEncoder:
    """A torch module from images in [0, 1] to features; two are equal where they hold the very same module.

    `read` tells the parts of the module, where it is a vision transformer. With `size`, images of any other size are
    refused in the name of the model. Images are moved to the module's device.
    """

    module: nn.Module
    read: Callable[[nn.Module], ViT] | None = None
    size: int | None = field(default=None, compare=False)
    name: str = field(default="the encoder", compare=False)
    like: Encoder | None = field(default=None, compare=False)

    def __call__(self, images: Images, /) -> Features:
        """See `Encoder`. Raises ModelError where the images do not have the model's size."""
        size = self.size
        if size is not None and images.shape[-2:] != (size, size):
            raise ModelError(f"{self.name} takes {size} x {size} pixels, got {images.shape[-2]} x {images.shape[-1]}")
        weight = next(self.module.parameters(), None)
        return self.module(images if weight is None else images.to(weight.device))

    def tower(self) -> nn.Module:
        """See `Encoder`."""
        return self.module

    def parts(self) -> ViT:
        """See `Encoder`."""
        if self.read is None:
            raise NotAViT(f"the encoder is a {type(self.module).__name__}, whose parts are not known")
        return self.read(self.module)

    @torch.no_grad()
    def adapted(self, changes: Mapping[str, Tensor]) -> "ModuleEncoder":
        """See `Encoder`."""
        module = copy.deepcopy(self.module).requires_grad_(False).eval()
        own = dict(module.named_parameters())
        for name, value in changes.items():
            if name not in own or own[name].shape != value.shape:
                held = list(own[name].shape) if name in own else "no such weight"
                raise ModelError(
                    f"{self.name} cannot be adapted: got {name} of shape {list(value.shape)}, it has {held}; the names "
                    "and shapes are those of tower().named_parameters()"
                )
            own[name].copy_(value)
        return replace(self, module=module, like=self.like or self)


@dataclass(frozen=True)
class FunctionEncoder:
    """Any function from images to features. It has no weights and tells no parts.

    Two are equal where their functions are, which for a plain function means the very same one.
    """

    function: Callable[[Images], Features]

    def __call__(self, images: Images, /) -> Features:
        """See `Encoder`."""
        return self.function(images)

    @property
    def like(self) -> None:
        """See `Encoder`."""
        return

    def tower(self) -> NoReturn:
        """See `Encoder`; a function has none."""
        raise ModelError(
            f"the encoder is a {type(self.function).__name__}, whose weights cannot be changed; take the encoder of a "
            "model (`model.encode_image`), or a torch module"
        )

    def parts(self) -> NoReturn:
        """See `Encoder`; a function tells none."""
        raise NotAViT("the encoder is no vision transformer that tells its parts")

    def adapted(self, changes: Mapping[str, Tensor]) -> NoReturn:  # noqa: ARG002 - there is nothing to change
        """See `Encoder`; a function has no weights to change."""
        self.tower()


def as_encoder(encode: Encoder | Callable[[Images], Features]) -> Encoder:
    """An encoder as it is, a torch module as a `ModuleEncoder`, any other function as a `FunctionEncoder`."""
    if isinstance(encode, Encoder):
        return encode
    return ModuleEncoder(encode) if isinstance(encode, nn.Module) else FunctionEncoder(encode)
