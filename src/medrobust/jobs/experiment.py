"""An experiment as one frozen value, read from YAML; unknown keys are refused with a suggestion. No torch here."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medrobust.errors import ConfigError, nearest
from medrobust.smoothing.bounds import RADII


class Choice(BaseModel):
    """One defence of an experiment: its name, its settings, and where its state comes from.

    `state` is a file, or the label of an earlier choice of the same experiment whose state is used; without it the
    defence is fitted first. `base` names, likewise, a state whose vision tower the defence is learned on top of. With
    `transfer` these states may have been learned on another task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    label: str = ""
    settings: dict[str, Any] = {}
    state: str | None = None
    base: str | None = None
    transfer: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return parse_choice(value) if isinstance(value, str) else value

    @property
    def called(self) -> str:
        """What tables and rows call it."""
        mode = self.settings.get("mode")
        return self.label or (f"{self.name}:{mode}" if mode else self.name)


def parse_choice(text: str) -> dict[str, Any]:
    """`NAME[:MODE][=STATE]`, as the command line writes it.

    >>> parse_choice("promptsmooth:combined=run/state.safetensors")
    {'name': 'promptsmooth', 'settings': {'mode': 'combined'}, 'state': 'run/state.safetensors'}
    """
    head, _, state = text.partition("=")
    name, _, mode = head.partition(":")
    return {"name": name, "settings": {"mode": mode} if mode else {}, "state": state or None}


class Experiment(BaseModel):
    """Model, images, defences and how they are certified. Everything that can change a number stands here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    model: str = "builtin"
    revision: str | None = None
    data: str = "phantom"
    task: str | None = None
    split: str = "test"
    limit: int | None = Field(None, ge=1)
    fit_data: str | None = None  # where defences learn; the same source as `data` unless named
    fit_split: str = "train"
    defences: tuple[Choice, ...] = (Choice(name="zero-shot"),)
    sigmas: tuple[float, ...] = Field((0.25,), min_length=1)
    alpha: float = 0.001
    selection: int = 100
    n: int = 10_000  # draws that are counted, at most
    stopping: Literal["fixed", "spending", "anytime"] = "spending"
    look: int = 32  # draws between two looks at a count
    radii: tuple[float, ...] = RADII
    seed: int = 0
    device: str = "cpu"
    batch: int | None = Field(None, ge=1)  # None: measured when the run begins, and kept
    lean: bool = True  # the lean ViT path where the model has one
    compile: bool | None = None  # None: where a compiler is there and the run is long enough
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the encoder's forward pass; noise is float32
    threads: int | None = Field(None, ge=1)
    skip_broken: bool = False

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Experiment":
        labels = [choice.called for choice in self.defences]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice:
            raise ValueError(f"two defences are called {twice!r}; give one a label of its own")
        if not self.lean and (self.dtype != "float32" or self.compile):
            raise ValueError("only the lean path knows other number formats and compiling; leave out lean: false")
        if len(set(self.sigmas)) < len(self.sigmas):
            raise ValueError("a sigma is named twice")
        return self


def load_experiment(path: Path) -> Experiment:
    """An experiment from a YAML file.

    Raises ConfigError naming the file, the key and what would be right.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no experiment file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} must hold keys and values, one of them `defences`")
    return checked(found, str(path))


def checked(values: dict[str, Any], where: str) -> Experiment:
    """An experiment from plain values; `where` names their origin in errors.

    Raises ConfigError.
    """
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = Choice.model_fields if "defences" in first["loc"] else Experiment.model_fields
            last = str(first["loc"][-1])
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(last, known)}") from error
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{where}: {key + ': ' if key else ''}{reason}") from error


def to_yaml(experiment: Experiment) -> str:
    """The resolved experiment, as a run folder keeps it."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
