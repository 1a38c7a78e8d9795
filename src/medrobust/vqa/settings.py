"""Settings of `medrobust vqa`: questions, recipes and the attack on their images. No torch here."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from medrobust.errors import ConfigError
from medrobust.settings import option
from medrobust.words import eps_text

if TYPE_CHECKING:
    from medrobust.attacks.ball import Ball


class VqaSettings(BaseModel):
    """Questions, recipes and attack; kept as vqa.yaml. `recipes` have all their settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    model: str = option(
        "builtin", "A name from `medrobust models`, a hub id, a folder, or NAME=PATH.", names=("--model", "-m")
    )
    data: str = option(..., "The images: a folder, or an .npz.", names=("--data", "-d"))
    questions: tuple[str, ...] = option(
        ..., "A .json, .jsonl or .csv file; repeat.", names=("--questions", "-q"), min_length=1
    )
    recipes: dict[str, dict[str, Any]]
    split: str = option("test", "The split whose questions are asked.")
    fit_split: str = option("train", "The split whose questions are learned from.")
    official: bool = option(False, "VQA-RAD's own split by phrase_type; images are shared.")
    language: str = option("en", "Language of the questions, where the files say it; others are left out.")
    limit: int | None = option(None, "Number of images; all questions about them are asked.", resume="extend", ge=1)
    norm: Literal["linf", "l2"] = option("linf", "Norm of the attack's ball: linf or l2.")
    eps: tuple[float, ...] = option(
        (1 / 255,),
        "Size of the ball in pixels of [0, 1]: 8/255 or 0.03; repeat for several.",
        takes="texts",
        unit="pixels",
    )
    attack_steps: int = option(20, "Steps of PGD.", ge=1)
    batch: int = option(64, "Questions attacked at once; it decides how floating-point sums are rounded.", ge=1)
    threads: int | None = option(
        None, "CPU threads; all that the process may use unless given.", resume="recorded", ge=1
    )
    seed: int = option(0, "Every random number follows from it.")
    device: str = option("cpu", "cpu, cuda, cuda:1, ...")
    skip_broken: bool = option(False, "Leave out images and questions that cannot be read.")

    @field_validator("norm", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        from medrobust.attacks.ball import Ball

        return Ball.parse(value, 0.01).norm if isinstance(value, str) else value

    @field_validator("eps", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        from medrobust.attacks.ball import parse_sizes

        return parse_sizes(value)

    @property
    def balls(self) -> "tuple[Ball, ...]":
        """The smallest first. Raises AttackError for an eps that cannot be meant, ConfigError for one given twice."""
        from medrobust.attacks.ball import Ball

        if len(set(self.eps)) < len(self.eps):
            raise ConfigError(f"an eps is given twice in {', '.join(map(eps_text, self.eps))}; give each once")
        return tuple(Ball(self.norm, eps) for eps in sorted(self.eps))
