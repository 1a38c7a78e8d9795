"""Standard normal numbers whose tail is the Gaussian's own.

torch's float32 normals on a CPU stop at 5.77 standard deviations, which a certificate's theorem does not know. Here
they come from NumPy's ziggurat (CPU) or from 53-bit uniforms (elsewhere), so no correction of the bound is needed.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medrobust.seeds import numpy_stream, stream

Noise = Callable[[int], Float[Tensor, "draws *shape"]]  # the next so many draws


def noise(shape: tuple[int, ...], device: torch.device, *, seed: int, use: str, item: str, sigma: float) -> Noise:
    """Draws of N(0, I) in float32 for one (seed, use, item, sigma), the same however they are split into batches."""
    if device.type == "cpu":
        generator = numpy_stream(seed, use, item, sigma)

        def ziggurat(count: int) -> Float[Tensor, "draws *shape"]:
            return torch.from_numpy(generator.standard_normal((count, *shape), dtype=np.float32))

        return ziggurat
    start = stream(seed, use, item, sigma).initial_seed()
    on_device = torch.Generator(device).manual_seed(start)

    def wide(count: int) -> Float[Tensor, "draws *shape"]:
        one_by_one = [
            torch.randn(shape, generator=on_device, device=device, dtype=torch.float64).float() for _ in range(count)
        ]
        return torch.stack(one_by_one)

    return wide


def kernel(device: torch.device) -> str:
    """The name of the source of noise, for a run's record."""
    return "numpy ziggurat float32 (SFC64)" if device.type == "cpu" else f"torch {device.type} float64 -> float32"
