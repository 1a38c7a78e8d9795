"""Pictures of an attacked image beside its original, for a reader of the report."""

import base64
import io

import torch
from jaxtyping import UInt8
from torch import Tensor

from medrobust.types import Image


def pictures(clean: Image, attacked: Image) -> dict[str, str]:
    """PNGs in base64: the image, the attacked one, and their difference, stretched so that grey is none of it."""
    shown = {
        "clean": clean,
        "attacked": attacked,
        "difference": 0.5 + magnification(clean, attacked) * (attacked - clean),
    }
    return {name: png(image) for name, image in shown.items()}


def magnification(clean: Image, attacked: Image) -> float:
    """The factor by which their difference is stretched, so that its largest pixel is black or white."""
    return 1 / (2 * float((attacked - clean).abs().max()) or 1.0)


def png(image: Image) -> str:
    """A PNG in base64; pixels outside of [0, 1] are cut."""
    return base64.b64encode(encoded((image.clamp(0, 1) * 255).round().to(torch.uint8))).decode()


def encoded(pixels: UInt8[Tensor, "3 h w"]) -> bytes:
    """The bytes of a PNG file."""
    from PIL import Image as Picture

    file = io.BytesIO()
    Picture.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy()).save(file, "PNG")
    return file.getvalue()
