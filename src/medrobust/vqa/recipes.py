"""The recipes that learn to answer questions about images: their settings, and the layers before the last one."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from medrobust.defences.adversarial import AttackInTraining, BatchTraining
from medrobust.defences.probe import Before, Head, as_it_is, hidden_layer
from medrobust.defences.ran import Rectification, rectified
from medrobust.errors import ConfigError, nearest
from medrobust.settings import spread
from medrobust.vqa.fusion import Fusion


class LinearAnswer(Head, Fusion, BatchTraining):
    """Fewer epochs than the heads on single images have, because a fusion learns a question by heart (ours)."""

    epochs: int = Field(10, ge=1)
    augment: bool = False


class MlpAnswer(Head, Fusion, BatchTraining):
    """The same with a hidden layer."""

    epochs: int = Field(10, ge=1)
    augment: bool = False
    hidden: int = Field(512, ge=1)


class NmTuneAnswer(Rectification, Head, AttackInTraining, Fusion, BatchTraining):
    """Terms and attack as in `ran.NmTune`, sizes as in `fusion.Fusion`."""

    epochs: int = Field(10, ge=1)
    adversarial: float = Field(0.0, ge=0)
    ce_on: Literal["clean", "adversarial", "both"] = "clean"


class RanAnswer(Rectification, Head, AttackInTraining, Fusion, BatchTraining):
    """The same with attacked images."""

    epochs: int = Field(10, ge=1)


Settings = LinearAnswer | MlpAnswer | NmTuneAnswer | RanAnswer  # of any recipe


class AnswerRecipe(NamedTuple):
    """The head on top of the fusion: its title, its settings, and the layers before the last one."""

    title: str
    settings: type[LinearAnswer] | type[MlpAnswer] | type[NmTuneAnswer] | type[RanAnswer]
    before: Before


RECIPES: dict[str, AnswerRecipe] = {
    "linear": AnswerRecipe("co-attention and a linear layer", LinearAnswer, as_it_is),
    "mlp": AnswerRecipe("co-attention and a hidden layer", MlpAnswer, hidden_layer),
    "nmtune": AnswerRecipe("co-attention and a rectifier, clean images", NmTuneAnswer, rectified),
    "ran": AnswerRecipe("co-attention and a rectifier, clean and attacked images", RanAnswer, rectified),
}


def make_recipe(name: str, settings: Mapping[str, Any]) -> Settings:
    """Checked settings of a recipe. Raises ConfigError naming the setting that is unknown or out of its range."""
    if name not in RECIPES:
        raise ConfigError(f"no recipe {name!r}{nearest(name, RECIPES)}; there are {', '.join(RECIPES)}")
    kind = RECIPES[name].settings
    unknown = next((key for key in settings if key not in kind.model_fields), None)
    if unknown is not None:
        known = ", ".join(kind.model_fields)
        raise ConfigError(f"{name} has no setting {unknown!r}{nearest(unknown, kind.model_fields)}; there are {known}")
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        raise ConfigError(f"{name}: {where}: {first['msg']}") from error


def make_recipes(names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Settings]:
    """Recipes by name; a setting `KEY` goes to all of them that have it, `NAME.KEY` to one, and wins.

    Raises ConfigError for an unknown name or setting, or a name given twice.
    """
    plain = {name: make_recipe(name, {}) for name in names}
    if len(plain) < len(names):
        raise ConfigError(f"a recipe is named twice in {', '.join(names)}; name each once")
    chosen = spread({name: type(one).model_fields for name, one in plain.items()}, settings)
    return {name: make_recipe(name, values) for name, values in chosen.items()}
