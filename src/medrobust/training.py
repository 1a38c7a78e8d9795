"""The one training loop."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medrobust.errors import TrainingError

Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the steps of a run: `warmup` steps, then constant or half a cosine down to zero.

    The warm-up is linear, or constant at `warmup_lr` (CoOp's first epoch).
    """

    lr: float
    steps: int
    warmup: int = 0
    warmup_lr: float | None = None
    decay: Literal["cosine", "none"] = "cosine"

    def at(self, step: int) -> float:
        """Learning rate of that step (from 0)."""
        if step < self.warmup:
            return self.warmup_lr if self.warmup_lr is not None else self.lr * (step + 1) / self.warmup
        if self.decay == "none":
            return self.lr
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * share))


def descend(
    loss: Callable[[int], Tensor],
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    progress: Progress | None = None,
    clip_norm: float | None = None,
    after: Callable[[int], None] | None = None,
) -> list[float]:
    """Minimise `loss(step)` and return its history.

    Raises TrainingError at the first loss that is not finite.
    """
    history: list[float] = []
    for step in range(schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.at(step) * group.get("lr_factor", 1.0)
        optimiser.zero_grad(set_to_none=True)
        value = loss(step)
        history.append(float(value.detach()))
        if not math.isfinite(history[-1]):
            raise TrainingError(f"the loss became {history[-1]} at step {step + 1}; lower the learning rate")
        value.backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(_parameters(optimiser), clip_norm)
        optimiser.step()
        if after is not None:
            after(step)
        if progress is not None:
            progress(step + 1, schedule.steps)
    return history


def _parameters(optimiser: torch.optim.Optimizer) -> Iterable[Tensor]:
    return (parameter for group in optimiser.param_groups for parameter in group["params"])
