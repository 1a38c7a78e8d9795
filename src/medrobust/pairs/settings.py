"""Settings of `medrobust poison`: the pairs, the share that is attacked, and the attack. No torch here."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, field_validator

from medrobust.settings import option

if TYPE_CHECKING:
    from medrobust.pairs.captioned import CaptionSource
    from medrobust.pairs.poison import Poison


class PoisonSettings(BaseModel):
    """Image-caption pairs, and how a share of them is attacked. `eps` and `step` in pixels of [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    data: str = option(..., "A folder of images and captions, or labelled images.", names=("--data", "-d"))
    share: float = option(..., "Of the pairs that are attacked: 10% or 0.1.", takes="text")
    captions: str | None = option(None, "The captions, csv or jsonl; else captions.jsonl or .csv in the folder.")
    id_column: str | None = option(None, "The column that names the image.")
    caption_column: str | None = option(None, "The column that holds the caption.")
    task: str | None = option(None, "A name from `medrobust tasks`, or a YAML file.", names=("--task", "-t"))
    split: str = option("train", "Images that are copied, where there are several splits.")
    limit: int | None = option(None, "Number of images, balanced over the classes.", ge=1)
    target: str | None = option(None, "Images to move to: a folder, or labelled data; else others of the same data.")
    target_task: str | None = option(None, "The task of --target, where its data do not say.")
    model: str = option(
        "builtin", "A name from `medrobust models`, a hub id, a folder, or NAME=PATH.", names=("--model", "-m")
    )
    revision: str | None = option(None, "Revision of a hub id: a branch, tag or commit.")
    norm: str = option("linf", "Norm of the attack's ball: linf or l2.")
    eps: float = option(8 / 255, "Size of the ball in pixels of [0, 1]: 8/255 or 0.03.", takes="text", unit="pixels")
    steps: int = option(100, "Of the attack on images.", ge=1)
    step: float | None = option(None, "Length of one; 1/255 in linf, an eighth of eps in l2.", takes="text")
    decay: bool = option(False, "Let these steps shrink to 0.")
    keep_grey: bool = option(False, "Give grey images no colour.")
    images_only: bool = option(False, "Leave captions as they are.")
    captions_only: bool = option(False, "Leave images as they are.")
    threads: int | None = option(
        None, "CPU threads; all that the process may use unless given.", resume="recorded", ge=1
    )
    seed: int = option(0, "Every random number follows from it.")
    device: str = option("cpu", "cpu, cuda, cuda:1, ...", resume="recorded")
    skip_broken: bool = option(False, "Leave out images that cannot be decoded.")

    @field_validator("share", mode="before")
    @classmethod
    def _part(cls, value: Any) -> Any:
        from medrobust.pairs.poison import parse_share

        return parse_share(value) if isinstance(value, str) else value

    @field_validator("norm", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        from medrobust.attacks.ball import Ball

        return Ball.parse(value, 0.01).norm if isinstance(value, str) else value

    @field_validator("eps", "step", mode="before")
    @classmethod
    def _distance(cls, value: Any) -> Any:
        from medrobust.attacks.ball import pixels_of

        return pixels_of(value) if isinstance(value, str) else value

    @property
    def poison(self) -> "Poison":
        """The attack. Raises AttackError or ConfigError for one that cannot be meant."""
        from medrobust.attacks.ball import Ball
        from medrobust.pairs.image_attack import EmbeddingAttack
        from medrobust.pairs.poison import BLOCK, Poison

        attack = EmbeddingAttack(
            steps=self.steps, step=self.step, batch=BLOCK, decay=self.decay, keep_grey=self.keep_grey
        )
        images, captions = not self.captions_only, not self.images_only
        return Poison(self.share, Ball.parse(self.norm, self.eps), attack, images, captions, self.seed)

    @property
    def source(self) -> "CaptionSource":
        """The captioned data."""
        from medrobust.pairs.captioned import CaptionSource

        return CaptionSource(
            data=self.data, captions=self.captions, task=self.task, split=self.split, id_column=self.id_column,
            caption_column=self.caption_column, skip_broken=self.skip_broken, limit=self.limit, seed=self.seed,
        )  # fmt: skip
