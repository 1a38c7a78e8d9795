"""A user's own network as an image encoder of pixels in [0, 1]; grey and normalisation are applied inside."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medrobust.errors import ModelError
from medrobust.types import Preprocess

Channels = Literal["colour", "grey"]
Read = Callable[[Any], Tensor]  # from what a network returns to one row of numbers an image
Rows = Float[Tensor, "batch numbers"]


class OwnPixels(NamedTuple):
    """The input of a user's network: three channels or their mean, less `mean`, divided by `std`."""

    name: str  # of the model, for sentences
    channels: Channels
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Images in [0, 1], or noisy ones, as the network was trained to see them.

        Raises ModelError for another shape or for integers.
        """
        wanted = (3,) if self.channels == "colour" else (1, 3)
        if images.ndim != 4 or images.shape[1] not in wanted or not images.is_floating_point():
            raise ModelError(
                f"{self.name} got images of {images.dtype} and shape {tuple(images.shape)}, expected floats in [0, 1] "
                f"of shape (batch, {' or '.join(map(str, wanted))}, height, width); " + self._advice(images)
            )
        if self.channels == "grey" and images.shape[1] == 3:
            images = images.mean(dim=1, keepdim=True)
        mean, std = (images.new_tensor(numbers).view(-1, 1, 1) for numbers in (self.mean, self.std))
        return ((images - mean) / std).to(dtype)

    def _advice(self, images: Tensor) -> str:
        if not images.is_floating_point():
            return "divide grey levels by 255"
        if images.ndim == 4 and images.shape[1] == 1:
            return 'repeat the channel three times, or wrap the network with input="grey" where it takes one channel'
        if images.ndim == 3:
            return "put a single image into a batch: image[None]"
        return "put the channels first: images.permute(0, 3, 1, 2)"


def own_pixels(
    name: str, channels: str, mean: float | Sequence[float] | None, std: float | Sequence[float] | None
) -> OwnPixels:
    """The channels and statistics that the user gave, checked; without `mean` and `std` pixels stay in [0, 1].

    Raises ModelError for another word, for one of the two alone, and for numbers that are not one a channel.
    """
    if channels not in ("colour", "grey"):
        raise ModelError(f'{name}: input is {channels!r}, expected "colour" (three channels) or "grey" (one channel)')
    if (mean is None) != (std is None):
        raise ModelError(f"{name}: mean is {mean} and std is {std}; give both, or neither where the network normalises")
    count = 3 if channels == "colour" else 1
    found = []
    for key, given, default in (("mean", mean, 0.0), ("std", std, 1.0)):
        numbers = _numbers(default if given is None else given)
        numbers = numbers * count if len(numbers) == 1 else numbers
        if len(numbers) != count or not all(math.isfinite(one) and (key == "mean" or one > 0) for one in numbers):
            raise ModelError(
                f"{name}: {key} is {given}, expected one number, or one for each of {count} channel"
                f"{'s' * (count > 1)}{', above 0' * (key == 'std')}, for pixels in [0, 1]"
            )
        if max(map(abs, numbers)) > 2:  # of pixels in [0, 1], no mean and no deviation is larger than 1
            raise ModelError(f"{name}: {key} is {given}, which speaks of grey levels up to 255; divide it by 255")
        found.append(numbers)
    return OwnPixels(name, "grey" if channels == "grey" else "colour", found[0], found[1])


def preprocess_of(name: str, given: object) -> Preprocess:
    """The size that pictures are brought to; a number stands for the shorter side and the square cut out of it.

    Raises ModelError for anything else, such as a transform of torchvision.
    """
    if isinstance(given, Preprocess):
        return given
    if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
        return Preprocess(given, given)
    raise ModelError(
        f"{name}: preprocess is {type(given).__name__} {str(given)[:60]!r}, expected the side of its images in pixels "
        "(224) or medrobust.Preprocess(size=.., resize=..); of a transform, mean and std go into mean= and std="
    )


class WrappedTower(nn.Module):
    """Calls the user's own network, or one of its methods, on images in [0, 1]; the network is not changed."""

    def __init__(self, network: nn.Module, method: str, pixels: OwnPixels, read: Read) -> None:
        super().__init__()
        self.network = network
        self.training = False  # of this module alone: the network's own flag is the user's
        self.method = method
        self.pixels = pixels
        self.read = read

    def forward(self, images: Tensor) -> Rows:
        """One row of numbers an image, in float32. Raises ModelError where the network is in training mode."""
        if self.network.training:
            raise ModelError(f"{self.pixels.name} is in training mode; call .eval() before it is used here")
        return self.read(getattr(self.network, self.method)(self.pixels(images, dtype_of(self.network)))).float()


class FunctionTower(nn.Module):
    """Calls a function that encodes images; there are no weights to change."""

    def __init__(self, function: Callable[[Tensor], Any], pixels: OwnPixels, read: Read, dtype: torch.dtype) -> None:
        super().__init__()
        self.training = False
        self.function = function
        self.pixels = pixels
        self.read = read
        self.dtype = dtype

    def forward(self, images: Tensor) -> Rows:
        """One row of numbers an image, in float32."""
        return self.read(self.function(self.pixels(images, self.dtype))).float()

    def named_parameters(self, *_: Any, **__: Any) -> Any:
        """Raises ModelError: weights inside of a function cannot be reached."""
        raise ModelError(
            f"{self.pixels.name} encodes images by a function, whose weights cannot be changed; pass encode_image as a "
            "module or as a method of one, or take a defence that leaves the image encoder alone (linear-probe)"
        )


def dtype_of(network: nn.Module) -> torch.dtype:
    """The number format of its weights; float32 where it has none."""
    return next((weight.dtype for weight in network.parameters() if weight.is_floating_point()), torch.float32)


def device_of(network: nn.Module) -> torch.device:
    """The device of its first weight; the CPU where it has none."""
    return next((held.device for held in chain(network.parameters(), network.buffers())), torch.device("cpu"))


def numbers_of(found: Any, names: Sequence[str], *, name: str, advice: str) -> Rows:
    """The tensor in a network's return value: the value itself, or its entry under one of `names`.

    Raises ModelError where it is none, or not one row of numbers an image.
    """
    for key in names:
        inside = found.get(key) if isinstance(found, Mapping) else getattr(found, key, None)
        if isinstance(inside, Tensor):
            found = inside
            break
    if not isinstance(found, Tensor):
        raise ModelError(
            f"{name} returned a {type(found).__name__}, expected a tensor or an object with {' or '.join(names)}; "
            + advice
        )
    if found.ndim != 2 or not found.is_floating_point():
        raise ModelError(
            f"{name} returned {found.dtype} of shape {tuple(found.shape)}, expected one row of floats an image; "
            + advice
        )
    return found


def _numbers(given: float | Sequence[float]) -> tuple[float, ...]:
    try:
        return tuple(float(one) for one in torch.as_tensor(given).flatten().tolist())
    except (TypeError, ValueError, RuntimeError):
        return ()
