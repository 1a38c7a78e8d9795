"""Model, images and questions of `medrobust vqa`, loaded and checked."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from medrobust.errors import ConfigError
from medrobust.machine import checked_device
from medrobust.models import load
from medrobust.models.clip import Clip
from medrobust.vqa.images import Gallery, home_of, is_archive, open_gallery
from medrobust.vqa.questions import Question, QuestionSet, Vocabulary, read_questions
from medrobust.vqa.settings import VqaSettings


class QuestionBench(NamedTuple):
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
        """Places of questions that were left out because they, or their images, are broken."""
        return [*self.read.skipped, *self.fit.skipped, *self.test.skipped]


def open_questions(asking: VqaSettings) -> QuestionBench:
    """Load model, images and questions. Raises MedrobustError."""
    device = checked_device(asking.device)
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
    return QuestionBench(model, Vocabulary.of(fit.questions), found, fit, test)


def vqa_announcement(asking: VqaSettings, bench: QuestionBench) -> list[str]:
    """Sentences about the questions, their cost, and those left out."""
    rows, names = len(bench.test.questions), ", ".join(asking.recipes)
    passes = 3 * asking.attack_steps * len(asking.eps) * rows * len(asking.recipes)
    balls = ", ".join(map(str, asking.balls))
    lines = [
        f"ask {rows} questions about {len(bench.test.images)} images of {asking.data} ({asking.split}) with "
        f"{bench.model.name} under {names}, learned from {len(bench.fit.questions)} about {len(bench.fit.images)} "
        f"images ({asking.fit_split}); attacked by PGD in {balls}, at most {passes:,} encoder passes"
    ]
    other, guessed, broken = bench.read.other_language, bench.read.guessed, bench.skipped
    notes = [
        (other, f"{other} questions are not in the language {asking.language} and are left out"),
        (guessed, f"{guessed} questions do not say their kind: closed where the answer is yes or no, else open"),
        (len(broken), f"{len(broken)} broken questions are left out: {', '.join(broken[:5])}"),
        (bench.shared, f"{bench.shared} of the images asked about were learned from too, with other questions"),
    ]
    return lines + [note for count, note in notes if count]


def _first_images(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """The questions of the first `limit` images, those of an image together."""
    names = list(dict.fromkeys(question.image for question in questions))[:limit]
    place = {name: number for number, name in enumerate(names)}
    return sorted((one for one in questions if one.image in place), key=lambda one: place[one.image])
