"""The one training loop: a schedule, a checkpoint, several processes."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from medrobust.errors import ConfigError, TrainingError
from medrobust.learning.checkpoint import Checkpoint, parameters_of
from medrobust.learning.workers import ALONE, Workers

StepProgress = Callable[[int, int], None]  # steps done, steps in all


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


@dataclass(frozen=True)
class Session:
    """Progress, checkpoint and processes of a training. The result is the same up to floating-point rounding."""

    progress: StepProgress | None = None
    say: Callable[[str], None] = lambda _text: None
    checkpoint: Checkpoint | None = None
    workers: Workers = ALONE

    def keeping(self, generator: torch.Generator, *tensors: Tensor) -> "Session":
        """The same session, whose checkpoint holds the state of the generator and these tensors too.

        For a loss that draws from the generator step by step, so that a training cut off draws the same numbers.
        """
        kept = self.checkpoint and replace(self.checkpoint, generator=generator, beside=tensors)
        return replace(self, checkpoint=kept)

    def alone(self, name: str) -> "Session":
        """The same session, for a training of one process. Raises ConfigError where there are several."""
        if self.workers.count > 1:
            raise ConfigError(f"{name} is learned by one process; run the command without torchrun")
        return self


SILENT = Session()


def descend(
    loss: Callable[[int], Tensor | float],
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    clip_norm: float | None = None,
    after: Callable[[int], None] | None = None,
    session: Session = SILENT,
) -> list[float]:
    """Minimise `loss(step)` and return its history.

    A loss that has called `backward` itself gives its value as a float. With several workers each gives its part of
    the sum. With a checkpoint, steps already done are not done again. Raises TrainingError at the first loss that is
    not finite.
    """
    history = session.checkpoint.restore(optimiser) if session.checkpoint else []
    saved = time.monotonic()
    for step in range(len(history), schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.at(step) * group.get("lr_factor", 1.0)
        optimiser.zero_grad(set_to_none=True)
        value = loss(step)
        history.append(_total(value, optimiser, session.workers))
        if not math.isfinite(history[-1]):
            raise TrainingError(f"the loss became {history[-1]} at step {step + 1}; lower the learning rate")
        if isinstance(value, Tensor):
            value.backward()
        if session.workers.count > 1:
            session.workers.add_up(_gradients(optimiser))
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters_of(optimiser), clip_norm)
        optimiser.step()
        if after is not None:
            after(step)
        if session.progress is not None:
            session.progress(step + 1, schedule.steps)
        if session.checkpoint and session.workers.first and time.monotonic() - saved >= session.checkpoint.seconds:
            session.checkpoint.keep(optimiser, history)
            saved = time.monotonic()
    return history


def _total(value: Tensor | float, optimiser: torch.optim.Optimizer, workers: Workers) -> float:
    device = parameters_of(optimiser)[0].device
    total = torch.tensor([float(value.detach() if isinstance(value, Tensor) else value)], device=device)
    workers.add_up([total])
    return float(total)


def _gradients(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """Gradients of all tensors; zero where this process has no part."""
    for parameter in parameters_of(optimiser):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters_of(optimiser) if parameter.grad is not None]
