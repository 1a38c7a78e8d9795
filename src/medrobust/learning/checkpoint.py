"""An interrupted training on disk: safetensors, because this package never unpickles."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medrobust.errors import RunError
from medrobust.files import replace_bytes


@dataclass(frozen=True)
class Checkpoint:
    """A file from which a training goes on where it was cut off, with the same result.

    `about` describes the training; a checkpoint of any other is refused. It is written every `seconds` of training.
    `beside`: tensors that change with the training and are not parameters of it. `generator`: the source of its
    random numbers, where they do not follow from the step.
    """

    path: Path
    about: Mapping[str, Any]
    seconds: float = 30.0
    beside: Sequence[Tensor] = ()
    generator: torch.Generator | None = None

    def keep(self, optimiser: torch.optim.Optimizer, history: list[float]) -> None:
        """Parameters, the optimiser's own numbers and the losses so far, in one safetensors file, whole or not at all.

        Raises RunError where it cannot be written.
        """
        from safetensors.torch import save

        tensors = {"history": torch.tensor(history, dtype=torch.float64)}
        for number, parameter in enumerate(parameters_of(optimiser)):
            tensors[f"{number}.value"] = parameter.detach()
            for key, value in optimiser.state[parameter].items():
                if value is not None:
                    tensors[f"{number}.optimiser.{key}"] = torch.as_tensor(value)
        tensors |= {f"beside.{number}": tensor.detach() for number, tensor in enumerate(self.beside)}
        if self.generator is not None:
            tensors["generator"] = self.generator.get_state()
        held = {key: value.cpu().contiguous() for key, value in tensors.items()}
        replace_bytes(self.path, save(held, {"about": json.dumps(dict(self.about), sort_keys=True)}))

    def restore(self, optimiser: torch.optim.Optimizer) -> list[float]:
        """Restore parameters and optimiser, if a checkpoint exists, and return the losses so far.

        Raises RunError where the file is broken or of another training.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return []
        try:
            with safe_open(self.path, framework="pt") as file:
                before = json.loads((file.metadata() or {}).get("about", "null"))
                self._check(before)
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError, ValueError) as error:
            raise RunError(f"{self.path} is not a complete checkpoint ({error}); delete it to begin anew") from error
        with torch.no_grad():
            for number, parameter in enumerate(parameters_of(optimiser)):
                parameter.copy_(tensors[f"{number}.value"])
                start = f"{number}.optimiser."
                for key in (key for key in tensors if key.startswith(start)):
                    place = "cpu" if key == f"{start}step" else parameter.device
                    optimiser.state[parameter][key.removeprefix(start)] = tensors[key].to(place)
            for number, tensor in enumerate(self.beside):
                tensor.copy_(tensors[f"beside.{number}"])
        if self.generator is not None:
            self.generator.set_state(tensors["generator"])
        return [float(value) for value in tensors["history"]]

    def drop(self) -> None:
        """Remove the file, once the result is written elsewhere."""
        self.path.unlink(missing_ok=True)

    def _check(self, before: Any) -> None:
        differs = first_difference(json.loads(json.dumps(dict(self.about))), before)
        if differs:
            raise RunError(
                f"{self.path} is a training cut off, with {differs}; finish it with its own settings, delete it, or "
                "use another --out"
            )


def first_difference(asked: Any, before: Any, name: str = "") -> str:
    """The first setting in which two descriptions differ, in words; empty where there is none."""
    if isinstance(asked, dict) and isinstance(before, dict):
        told = (first_difference(value, before.get(key), key) for key, value in asked.items())
        return next((text for text in told if text), "")
    return "" if asked == before else f"{name} = {before}, asked for {asked}"


def parameters_of(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """All parameters that an optimiser changes, in its order."""
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
