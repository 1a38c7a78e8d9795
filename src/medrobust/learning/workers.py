"""Several processes that learn one thing together, as torchrun starts them; one process is the plain case."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """This process among all that share a batch."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """True for the one process that writes files and says sentences."""
        return self.rank == 0

    def share(self, rows: Int[Tensor, " rows"]) -> Int[Tensor, " share"]:
        """Every `count`-th row, so that shares differ by one at most and together are all rows."""
        return rows[self.rank :: self.count]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over the processes, in place, in one message."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


ALONE = Workers()


@contextmanager
def joined(device: str) -> Iterator[tuple[Workers, str]]:
    """The processes that torchrun has started with this one, and the device that is this one's own.

    Without torchrun it is alone, on the device it asked for. With it, `cuda` means the GPU of its local rank.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE, device
        return
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
    torch.distributed.init_process_group("nccl" if own.startswith("cuda") else "gloo")
    try:
        yield Workers(torch.distributed.get_rank(), count), own
    finally:
        torch.distributed.destroy_process_group()
