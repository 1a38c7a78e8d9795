"""What `medrobust vqa` is asked to do, and the room in which it happens: model, images and questions, checked."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field

from medrobust.attacks.ball import Ball, Norm
from medrobust.errors import ConfigError, RunError
from medrobust.files import replace_text
from medrobust.learning.checkpoint import first_difference
from medrobust.machine import available_threads, checked_device
from medrobust.models import load
from medrobust.models.clip import Clip
from medrobust.vqa.images import Gallery, home_of, is_archive, open_gallery
from medrobust.vqa.questions import Question, QuestionSet, Vocabulary, read_questions
from medrobust.words import eps_text


class Asking(BaseModel):
    """What is asked, learned and attacked; kept as vqa.yaml. `recipes` have all their settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "builtin"
    data: str
    questions: tuple[str, ...] = Field(min_length=1)
    recipes: dict[str, dict[str, Any]]
    split: str = "test"
    fit_split: str = "train"
    official: bool = False  # the split that phrase_type tells
    language: str = "en"
    limit: int | None = Field(None, ge=1)  # images of the split
    norm: Norm = "linf"
    eps: tuple[float, ...] = (1 / 255,)  # in pixels of [0, 1]
    attack_steps: int = Field(20, ge=1)
    batch: int = Field(64, ge=1)  # questions answered and attacked at once; it decides the last bits
    threads: int | None = Field(None, ge=1)
    seed: int = 0
    device: str = "cpu"
    skip_broken: bool = False

    @property
    def balls(self) -> tuple[Ball, ...]:
        """The smallest first. Raises AttackError for an eps that cannot be meant, ConfigError for one given twice."""
        if len(set(self.eps)) < len(self.eps):
            raise ConfigError(f"an eps is given twice in {', '.join(map(eps_text, self.eps))}; give each once")
        return tuple(Ball(self.norm, eps) for eps in sorted(self.eps))


class Room(NamedTuple):
    """Model, images and questions, loaded and checked."""

    model: Clip
    vocabulary: Vocabulary
    read: QuestionSet
    fit: Gallery
    test: Gallery

    @property
    def shared(self) -> int:
        """Images that are both learned from and asked about, with other questions."""
        return len(self.fit.images.keys() & self.test.images.keys())

    @property
    def skipped(self) -> list[str]:
        """Where questions stand that were left out because they, or their images, are broken."""
        return [*self.read.skipped, *self.fit.skipped, *self.test.skipped]


def enter(asking: Asking) -> Room:
    """Load what is asked about. Raises MedrobustError."""
    device = checked_device(asking.device)
    torch.set_num_threads(asking.threads or available_threads())
    home = home_of(asking.data)
    paths = [
        home / path if path == Path(path.name) and not path.exists() else path for path in map(Path, asking.questions)
    ]
    found = read_questions(
        paths, language=asking.language, in_archive=is_archive(asking.data), official=asking.official,
        skip_broken=asking.skip_broken,
    )  # fmt: skip
    asked, taught = _first_images(found.of(asking.split), asking.limit), found.of(asking.fit_split)
    if asking.split == asking.fit_split:
        raise ConfigError(f"the questions of split {asking.split} would be learned and asked; name another --split")
    model = load(asking.model, device=device)
    opened = partial(open_gallery, asking.data, preprocess=model.preprocess, skip_broken=asking.skip_broken)
    fit, test = opened(taught), opened(asked)
    return Room(model, Vocabulary.of(fit.questions), found, fit, test)


def announcement(asking: Asking, room: Room) -> list[str]:
    """What will be done, what it costs, and what was found."""
    rows, names = len(room.test.questions), ", ".join(asking.recipes)
    passes = 3 * asking.attack_steps * len(asking.eps) * rows * len(asking.recipes)
    balls = ", ".join(map(str, asking.balls))
    lines = [
        f"ask {rows} questions about {len(room.test.images)} images of {asking.data} ({asking.split}) with "
        f"{room.model.name} under {names}, learned from {len(room.fit.questions)} about {len(room.fit.images)} images "
        f"({asking.fit_split}); attacked by PGD in {balls}, at most {passes:,} encoder passes"
    ]
    other, guessed, broken = room.read.other_language, room.read.guessed, room.skipped
    notes = [
        (other, f"{other} questions are not in the language {asking.language} and are left out"),
        (guessed, f"{guessed} questions do not say their kind: closed where the answer is yes or no, else open"),
        (len(broken), f"{len(broken)} broken questions are left out: {', '.join(broken[:5])}"),
        (room.shared, f"{room.shared} of the images asked about were learned from too, with other questions"),
    ]
    return lines + [note for count, note in notes if count]


def claim(out: Path, asking: Asking) -> None:
    """Make the folder this run's own, or see that it is. Raises RunError where it is another's."""
    path, now = out / "vqa.yaml", asking.model_dump(mode="json")
    if not (path.exists() and ((out / "answered.jsonl").exists() or (out / "states").exists())):
        replace_text(path, yaml.safe_dump(now, sort_keys=False, allow_unicode=True))
        return
    try:
        before = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path} cannot be read ({' '.join(str(error).split())}); use another --out") from error
    differs = first_difference(
        {**now, "threads": None}, {**before, "threads": None}
    )  # environment.json holds it to those
    if differs:
        raise RunError(f"{out} holds answers with {differs}; use another --out")


def _first_images(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """The questions of the first so many images, those of an image together."""
    names = list(dict.fromkeys(question.image for question in questions))[:limit]
    place = {name: number for number, name in enumerate(names)}
    return sorted((one for one in questions if one.image in place), key=lambda one: place[one.image])
