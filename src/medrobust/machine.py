"""The origin of a run's numbers: versions, threads, device. A run is only resumed where these are the same."""

import math
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from medrobust.errors import ConfigError
from medrobust.version import __version__


def available_threads() -> int:
    """Cores this process may use: its affinity, and the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, math.floor(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


def use_threads(count: int | None = None) -> None:
    """Compute on `count` CPU threads in the whole process, on all that it may use unless given.

    For the program that drives, before its work: a library call never changes what the process is set to.
    """
    torch.set_num_threads(count or available_threads())


def describe(device: torch.device, *, threads: int) -> dict[str, Any]:
    """Everything that decides the rounding of a forward pass; goes into environment.json."""
    return {
        "medrobust": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "numpy": version("numpy"),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "tf32": _tf32() if device.type == "cuda" else "no",
        "threads": threads,
    }


def _tf32() -> str:
    """The operations for which a GPU rounds float32 to 10 bits before it multiplies."""
    places = {
        "matrix products": torch.backends.cuda.matmul.allow_tf32,
        "convolutions": torch.backends.cudnn.allow_tf32,
    }
    return ", ".join(name for name, used in places.items() if used) or "no"


def checked_device(name: str) -> torch.device:
    """The device, checked to exist; raises ConfigError otherwise."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
