"""The only place that seeds: one stream of random numbers for each (seed, use, item, sigma)."""

import hashlib

import numpy as np
import torch


def _entropy(seed: int, use: str, item: str | int, sigma: float) -> int:
    text = f"{seed}\x1f{use}\x1f{item}\x1f{float(sigma)!r}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def stream(seed: int, use: str, item: str | int = 0, sigma: float = 0.0) -> torch.Generator:
    """A torch generator (CPU) whose numbers depend on its four arguments alone, not on order or sharding.

    >>> import torch
    >>> a, b = stream(0, "selection", "cell-7", 0.25), stream(0, "selection", "cell-7", 0.25)
    >>> bool(torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b)))
    True
    """
    return torch.Generator().manual_seed(_entropy(seed, use, item, sigma) & (2**63 - 1))


def numpy_stream(seed: int, use: str, item: str | int = 0, sigma: float = 0.0) -> np.random.Generator:
    """The same for NumPy, whose ziggurat reaches the tail that torch's float32 normals never see."""
    return np.random.Generator(np.random.SFC64(_entropy(seed, use, item, sigma)))
