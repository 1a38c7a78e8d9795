"""A vision transformer under Gaussian noise on its pixels, computed without forming a noisy picture.

The first layer is linear, so tokens of a noisy picture are tokens of the picture plus a linear map of the noise: the
picture goes through it once. With more pixels in a patch than numbers in a token, the map's output N(0, W W^T) is
drawn straight from as few numbers as a token has. Only the class token leaves the last block, so only it is computed.

Valid for real-valued noise that is not clipped, with nothing before the first layer but normalisation.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medrobust.errors import SmoothingError
from medrobust.smoothing.blocks import Parts, packing_works, pooled_features, prepared
from medrobust.types import Features, Image, Images
from medrobust.types.vit import ViT

Draws = Float[Tensor, "batch *shape"]  # standard normal, float32
Forward = Callable[[Draws, Tensor, Tensor, Tensor, Parts], Features]


@dataclass(frozen=True, eq=False)
class LeanEncoder:
    """The encoder of one tower, as a function of standard normal draws of `shape` (for one noisy copy).

    `shape` is (patches, 3 side^2), or (patches, width) where the noise is drawn behind the first layer.
    """

    shape: tuple[int, ...]
    kernel: str  # for a run's record
    latent: bool
    _vit: ViT
    _map: Float[Tensor, "numbers width"]  # of the draws into tokens, for sigma = 1
    _patch: Float[Tensor, "pixels width"]  # W' = W / std, transposed
    _parts: Parts
    _forward: Forward

    def at(self, image: Image, sigma: float) -> Callable[[Draws], Features]:
        """The features (not normalised) of the image plus noise of standard deviation `sigma`, from its draws.

        Raises SmoothingError where the image is not of the tower's size.
        """
        size = self._vit.size
        if image.shape != (3, size, size):
            raise SmoothingError(f"the tower takes 3 x {size} x {size} pixels, the image has {tuple(image.shape)}")
        with torch.inference_mode():
            clean, first = self._clean_tokens(image.to(self._map.device, torch.float32))
            scaled = sigma * self._map

        def features(noise: Draws) -> Features:
            with torch.inference_mode():
                return self._forward(noise.to(scaled.device), clean, first, scaled, self._parts)

        return features

    def _clean_tokens(self, image: Image) -> tuple[Float[Tensor, "patches width"], Float[Tensor, " width"]]:
        vit = self._vit
        normalised = image - vit.mean.float()[:, None, None]
        clean = unfold(normalised[None], vit.patch.shape[-1])[0] @ self._patch + vit.positions[1:].float()
        if vit.patch_bias is not None:
            clean = clean + vit.patch_bias.float()
        return clean, vit.class_token.float() + vit.positions[0].float()


@torch.no_grad()
def lean_encoder(
    vit: ViT, *, dtype: torch.dtype = torch.float32, compile: bool = False, latent: bool | None = None
) -> LeanEncoder:
    """The lean path through a tower; its weights are copied or shared, never changed.

    Noise and tokens are formed in float32, the rest runs in `dtype`. `latent` draws the noise as it is behind the
    first layer: by default where that is fewer numbers, never where those tokens have no density (W W^T singular).
    `compile` through torch.compile: once for each shape of tower and batch, not for each image or sigma; see
    `compiling_pays`.
    """
    width, side = vit.patch.shape[0], vit.patch.shape[-1]
    patch = (vit.patch.cpu().double() / vit.std.cpu().double()[:, None, None]).flatten(1)  # W'
    factor = _cholesky(patch) if (3 * side * side > width if latent is None else latent) else None
    device = vit.patch.device
    first = patch.T.float().contiguous().to(device)
    mixing = first if factor is None else factor.T.float().contiguous().to(device)
    parts, kernel = prepared(vit, dtype, pack=not compile and packing_works(device, dtype))
    layout = "patch noise" if factor is None else "latent noise"
    return LeanEncoder(
        shape=((vit.size // side) ** 2, len(mixing)),
        kernel=f"lean ViT, {layout}, {kernel}, {'inductor' if compile else 'eager'}",
        latent=factor is not None,
        _vit=vit,
        _map=mixing,
        _patch=first,
        _parts=parts,
        _forward=_compiled(_noisy_features) if compile else _noisy_features,
    )


@torch.inference_mode()
def difference(
    lean: LeanEncoder,
    encode: Callable[[Images], Features],
    image: Image,
    sigma: float,
    generator: torch.Generator,
    *,
    batch: int = 4,
) -> float:
    """The largest relative difference between the lean path and the full encoder under the same noise on the pixels.

    Relative to the largest number of each feature vector; NaN where either has NaN. Where the noise is drawn behind
    the first layer, also that of its covariance from the one that noise on the pixels has.
    """
    pixels = torch.randn(batch, *image.shape, generator=generator).to(image.device)
    full = encode(image + sigma * pixels).cpu().double()
    draws = unfold(pixels, lean._vit.patch.shape[-1]).to(lean._map.device)
    if lean.latent:  # L z = W' n has one solution, which is standard normal like n
        factor, patch = lean._map.T.cpu().double(), lean._patch.T.cpu().double()
        behind = patch @ draws.cpu().double().mT
        draws = torch.linalg.solve_triangular(factor, behind, upper=False).mT.float().to(lean._map.device)
        wanted = patch @ patch.T
        law = (factor @ factor.T - wanted).abs().max() / wanted.abs().max()
    found = lean.at(image, sigma)(draws).to(full)
    relative = (found - full).abs().amax(dim=1) / full.abs().amax(dim=1)
    return float(torch.maximum(relative.max(), law) if lean.latent else relative.max())


def compiling_pays(vit: ViT, dtype: torch.dtype = torch.float32) -> bool:
    """True where compiling can make this tower faster.

    It cannot where oneDNN packs the layers: inductor cannot trace those, and its code with MKL's is slower than the
    packed layers uncompiled.
    """
    return not packing_works(vit.patch.device, dtype)


def compiler_missing() -> str | None:
    """The reason that torch.compile cannot be used, in one sentence; None where it can.

    Compiles a trivial function, which takes seconds the first time; the compiler's error is the reason.
    """
    try:
        ones = _compiled(_doubled)(torch.ones(8))
    except Exception as error:  # noqa: BLE001  (inductor's failures have no common root)
        return f"torch.compile fails here: {type(error).__name__} {str(error).strip().splitlines()[0]}"
    return None if bool((ones == 2).all()) else "torch.compile gives wrong numbers here"


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # inductor uses what torch itself has deprecated
        return torch.compile(function, dynamic=False)


def unfold(images: Images, side: int) -> Float[Tensor, "batch patches pixels"]:
    """Square patches row by row, each as colour, row, column; pixels beyond the last whole patch are left out."""
    batch, _, height, width = images.shape
    rows, columns = height // side, width // side
    whole = images[:, :, : rows * side, : columns * side]
    return whole.reshape(batch, 3, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _cholesky(patch: Float[Tensor, "width pixels"]) -> Float[Tensor, "width width"] | None:
    """L with L L^T = W' W'^T; None where there is none."""
    factor, failed = torch.linalg.cholesky_ex(patch @ patch.T)
    return None if bool(failed) else factor


def _noisy_features(
    noise: Draws,
    clean: Float[Tensor, "patches width"],
    first: Float[Tensor, " width"],
    mixing: Float[Tensor, "numbers width"],
    parts: Parts,
) -> Features:
    noisy = (noise.flatten(0, 1) @ mixing).view(len(noise), *clean.shape) + clean
    return pooled_features(torch.cat([first.expand(len(noise), 1, -1), noisy], dim=1), parts)


def _doubled(numbers: Tensor) -> Tensor:
    return numbers + numbers
