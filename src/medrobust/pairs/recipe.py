"""A recipe for contrastive pre-training: architecture, image-caption sources and training settings in one value."""

import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medrobust.errors import ConfigError

RECIPES = ("builtin",)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Architecture(_Frozen):
    """Sizes of both towers; the MLPs are four times as wide as the tokens."""

    image_size: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    vision_width: int = Field(gt=0)
    vision_layers: int = Field(gt=0)
    vision_heads: int = Field(gt=0)
    text_width: int = Field(gt=0)
    text_layers: int = Field(gt=0)
    text_heads: int = Field(gt=0)
    projection: int = Field(gt=0)
    context_length: int = Field(gt=4)
    vocabulary: int = Field(ge=515)  # 512 byte-level symbols and two markers


class PairSource(_Frozen):
    """One data set, its training split turned into pairs; `share` of every batch comes from it.

    `labels`: labelled images, captions drawn anew at every step. `captions`: a caption an image, as `medrobust poison`
    writes or reads them; `captions` names their file where it does not lie in the folder.
    """

    data: str
    task: str = ""
    share: float = Field(gt=0, le=1)
    any_rotation: bool = False  # no way is up, as under a microscope
    format: Literal["labels", "captions"] = "labels"
    captions: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "PairSource":
        if self.format == "labels" and not self.task:
            raise ValueError("labelled images need their task; write `format: captions` where images have captions")
        if self.format == "labels" and self.captions:
            raise ValueError("captions are read with `format: captions` only")
        return self


class Training(_Frozen):
    """AdamW with warm-up and cosine decay; the saved weights are an exponential moving average.

    `masked`: the share of an image's patches that is left out, drawn anew at every step, which saves about that share
    of the computation; the last `unmasked` steps see whole images.
    """

    steps: int = Field(gt=0)
    batch: int = Field(gt=1)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup: int = Field(ge=0)
    average: float = Field(ge=0, lt=1)
    masked: float = Field(default=0.0, ge=0, lt=1)
    unmasked: int = Field(default=0, ge=0)
    seed: int = 0


class Recipe(_Frozen):
    """Settings of `medrobust pretrain`."""

    name: str
    architecture: Architecture
    sources: tuple[PairSource, ...] = Field(min_length=1)
    training: Training

    def timed(self, *, steps: int | None = None, seed: int | None = None) -> "Recipe":
        """The same recipe with other steps and another seed.

        Warm-up takes half of the steps at most, and those without masking their share of the recipe's.
        """
        changes = {} if seed is None else {"seed": seed}
        if steps is not None:
            unmasked = math.ceil(self.training.unmasked * steps / self.training.steps)
            changes |= {"steps": steps, "warmup": min(self.training.warmup, steps // 2), "unmasked": unmasked}
        return self.model_copy(update={"training": self.training.model_copy(update=changes)})


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by name (`builtin`) or from a YAML file of the user.

    Raises ConfigError naming the file and the fault.
    """
    packaged = files("medrobust.pairs") / f"{name_or_path}.yaml"
    path = Path(name_or_path)
    if name_or_path in RECIPES:
        text = packaged.read_text(encoding="utf-8")
    elif path.is_file():
        text = _read(path)
    else:
        raise ConfigError(f"no recipe {name_or_path!r}: neither a file nor one of {', '.join(RECIPES)}")
    try:
        return Recipe.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"{name_or_path} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{name_or_path}: {where}: {first['msg']}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def caption_book() -> Mapping[str, Any]:
    """Frames and synonyms of every task that has captions of its own."""
    text = (files("medrobust.pairs") / "captions.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)
