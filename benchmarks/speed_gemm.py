"""How fast this processor multiplies matrices at this moment: what every timing of these benchmarks is divided by."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

SIDE = 1024


class Paired(NamedTuple):
    """A piece of work between two probes; shares are of nominal operations, so skipped ones may lift them above 1."""

    samples: int
    seconds: float
    mm_gflops: float  # torch.mm, float32: what the targets are stated in
    packed_gflops: float  # oneDNN with the weight laid out beforehand: the fastest here; 0 where there is none

    @property
    def samples_per_second(self) -> float:
        """As the clock says, whoever else was computing."""
        return self.samples / self.seconds

    def share(self, flops: float) -> float:
        """Nominal operations a second, over those of torch.mm just before and after."""
        return self.samples_per_second * flops / self.mm_gflops / 1e9

    def share_of_packed(self, flops: float) -> float:
        """The same over the fastest product of matrices known here; NaN where there is none."""
        return self.samples_per_second * flops / self.packed_gflops / 1e9 if self.packed_gflops else float("nan")


def paired(work: Callable[[], int], *, probe_seconds: float = 0.4) -> Paired:
    """Time `work`, which says how many samples it took, with a probe before and one after it."""
    before = _probe(probe_seconds)
    began = time.perf_counter()
    samples = work()
    seconds = time.perf_counter() - began
    after = _probe(probe_seconds)
    return Paired(samples, seconds, *((a + b) / 2 for a, b in zip(before, after, strict=True)))


def _probe(seconds: float) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
    out = torch.empty(SIDE, SIDE)
    plain = _gflops(lambda: torch.mm(left, right, out=out), seconds)
    packed = _packed(right)
    return plain, 0.0 if packed is None else _gflops(lambda: packed(left), seconds)


def _packed(weight: Tensor) -> Callable[[Tensor], Tensor] | None:
    try:
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    except (AttributeError, NotImplementedError, RuntimeError):
        return None
    product: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise
    return lambda rows: product(rows, laid_out, None, "none", [], "none")


@torch.inference_mode()
def _gflops(product: Callable[[], Tensor], seconds: float) -> float:
    product()
    began, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds or done == 0:
        product()
        done += 1
    passed = time.perf_counter() - began
    return 2 * SIDE**3 * done / passed / 1e9
