"""Standard normal numbers whose tail is the Gaussian's own.

torch's float32 normals on a CPU stop at 5.77 standard deviations; a certificate's theorem assumes the full tail. Here
they come from NumPy's ziggurat (CPU) or from 53-bit uniforms (elsewhere), so no correction of the bound is needed.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medrobust.seeds import numpy_stream, stream

BLOCK = 64  # draws that a device makes at a time

Noise = Callable[[int], Float[Tensor, "draws *shape"]]  # the next draws, of the number asked for


def noise(shape: tuple[int, ...], device: torch.device, *, seed: int, use: str, item: str, sigma: float) -> Noise:
    """Draws of N(0, I) in float32 for one (seed, use, item, sigma), the same however they are split into batches."""
    if device.type == "cpu":
        generator = numpy_stream(seed, use, item, sigma)

        def ziggurat(count: int) -> Float[Tensor, "draws *shape"]:
            return torch.from_numpy(generator.standard_normal((count, *shape), dtype=np.float32))

        return ziggurat
    return blocks(shape, torch.Generator(device).manual_seed(stream(seed, use, item, sigma).initial_seed()))


def blocks(shape: tuple[int, ...], generator: torch.Generator) -> Noise:
    """Draws on the generator's device, made in float64 and in blocks of one size, so that no batch size changes them.

    The numbers that a GPU draws depend on the size of each request.
    """
    waiting = torch.empty(0, *shape, device=generator.device)

    def wide(count: int) -> Float[Tensor, "draws *shape"]:
        nonlocal waiting
        parts, there = [waiting], len(waiting)
        while there < count:
            fresh = torch.randn(
                (BLOCK, *shape), generator=generator, device=generator.device, dtype=torch.float64
            ).float()
            parts.append(fresh)
            there += BLOCK
        found = torch.cat(parts) if len(parts) > 1 else waiting
        waiting = found[count:]
        return found[:count]

    return wide


def kernel(device: torch.device) -> str:
    """Name of the generator of the noise, for a run's record."""
    if device.type == "cpu":
        return "numpy ziggurat float32 (SFC64)"
    return f"torch {device.type} float64 -> float32, blocks of {BLOCK}"
