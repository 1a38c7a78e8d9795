"""Trials of a user's own network on two images, before a certificate or an attack relies on it."""

import hashlib
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from medrobust.errors import MedrobustError, ModelError
from medrobust.models.wrapped_tower import Rows
from medrobust.seeds import stream

T = TypeVar("T")
_SAME = 1e-3  # of 1 + the spread of a row: how far two calls may be apart
_ALONE = 1e-2  # the same for an image alone and beside another, where other kernels run


def check_evaluation(network: object, name: str) -> None:
    """Raise ModelError for what is not a torch module, and where a part of it is in training mode."""
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"expected a torch.nn.Module, got a {type(network).__name__}; put it into the forward of a module"
        )
    training = [path for path, part in network.named_modules() if part.training]
    if training:
        where = name if network.training else f"{training[0]} of {name}"
        raise ModelError(f"{where} is in training mode; call .eval() on the network before it is wrapped")


def fingerprint(described: str, networks: Iterable[nn.Module]) -> str:
    """A hash of a description and of all parameters and buffers by name; of the class's name where there are none.

    Raises ModelError for weights that are not initialised yet.
    """
    digest = hashlib.sha256(described.encode())
    for network in networks:
        digest.update(f"{type(network).__module__}.{type(network).__qualname__}".encode())
        for path, value in chain(network.named_parameters(), network.named_buffers()):
            if is_lazy(value) or value.is_meta:
                raise ModelError(
                    f"{path} of a {type(network).__name__} has no values yet; load its weights and run it once first"
                )
            held = value.detach().cpu().contiguous()
            digest.update(f"{path} {held.dtype} {tuple(held.shape)}".encode())
            digest.update(held.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def trial_images(size: int, device: torch.device) -> Float[Tensor, "2 3 height width"]:
    """A dark image of little contrast and a bright one, so that a network that mixes them up shows it."""
    grain = torch.rand(2, 3, size, size, generator=stream(0, "trial of a network"))
    return torch.stack([0.2 * grain[0], 0.5 + 0.5 * grain[1]]).to(device)


@torch.no_grad()
def check_answers(encode: Callable[[Tensor], Rows], images: Tensor, *, name: str, what: str) -> Rows:
    """The rows of two images, which must be finite, the same in two calls, and the same for an image alone.

    Raises ModelError saying which condition fails.
    """
    rows = attempted(lambda: encode(images), name=name, what=f"{len(images)} images of shape {tuple(images.shape[1:])}")
    if len(rows) != len(images):
        raise ModelError(f"{name} returned {len(rows)} rows for {len(images)} images, expected one {what} an image")
    if not bool(rows.isfinite().all()):
        raise ModelError(f"{name} returned NaN or infinite {what} for images in [0, 1]; check weights, mean and std")
    if not _close(rows, encode(images), _SAME):
        raise ModelError(
            f"{name} gives the same image other {what} each time: dropout or noise is active outside of evaluation "
            "mode; take it out, or pass functional dropout training=self.training"
        )
    alone = torch.cat([encode(image[None]) for image in images])
    if not _close(rows, alone, _ALONE):
        raise ModelError(
            f"{name} gives an image other {what} beside another image than alone: it normalises over the batch, so "
            "no certificate can speak of one image; use running statistics (track_running_stats=True) or another norm"
        )
    return rows


def attempted(call: Callable[[], T], *, name: str, what: str) -> T:
    """The result of a call; raises ModelError with the network's own message where it fails."""
    try:
        return call()
    except MedrobustError:
        raise
    except Exception as error:
        told = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{name} failed on {what} ({type(error).__name__}: {told}); check preprocess (the size), input and output"
        ) from error


def _close(one: Rows, other: Rows, share: float) -> bool:
    if one.shape != other.shape:
        return False
    spread = one.amax(dim=1, keepdim=True) - one.amin(dim=1, keepdim=True)
    return bool(((one - other).abs() <= share * (1 + spread)).all())
