"""One recipe at work: learned or loaded, then asked a batch of questions, clean and attacked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from medrobust.attacks.attack import judge
from medrobust.attacks.ball import Ball, Norm
from medrobust.attacks.losses import wrong
from medrobust.attacks.search import answer
from medrobust.defences.adversarial import Rows
from medrobust.defences.state import Header, load_state, save_state
from medrobust.errors import RunError, StateError
from medrobust.learning.checkpoint import Checkpoint
from medrobust.learning.loop import Session
from medrobust.models.clip import Clip
from medrobust.seeds import stream
from medrobust.tell import Tell
from medrobust.types import Classifier, Images, Labels, Logits, State
from medrobust.vqa.attack import climb_together
from medrobust.vqa.learn import Asked, answering, learn_answers, start
from medrobust.vqa.questions import Question, Vocabulary
from medrobust.vqa.recipes import Settings
from medrobust.vqa.rows import AnsweredRow


@dataclass(frozen=True, eq=False)
class Learned:
    """A recipe with what it learned, and the questions it is asked."""

    name: str  # of its rows
    recipe: str
    settings: Settings
    asked: Asked
    state: State

    def classifier(self, model: Clip, rows: Rows) -> Classifier:
        """The answers to these questions, each about the image in its place; of one question, about every image."""
        return answering(model, self.asked.words.of(rows.to(model.device)), self.state, self.recipe, self.settings)


def learn_or_load_answers(
    model: Clip, blank: Learned, taught: Asked, vocabulary: Vocabulary, path: Path, *, data: str, seed: int,
    tell: Tell, learn: bool = True,
) -> Learned:  # fmt: skip
    """The recipe with its state: that of the file if it is there, else one learned now and kept there.

    Raises StateError where the file is of another model, recipe, vocabulary or training, or cut off, and RunError
    where there is none and nothing may be learned.
    """
    header = Header(
        model=model.name, model_sha256=model.sha256, task="questions", classes=vocabulary.answers, defence=blank.recipe,
        settings=blank.settings.model_dump(mode="json"), data=data, seed=seed,
    )  # fmt: skip
    generator = stream(seed, f"fit {blank.name}")
    if path.exists():
        shapes = start(model, taught, len(vocabulary.answers), blank.settings, generator)
        return replace(blank, state=load_answers(path, header, shapes))
    if not learn:
        raise RunError(f"{path} is missing; the same questions into another --out learn {blank.name} again")
    tell.say(f"fit {blank.name}: {len(taught.truths)} questions, {blank.settings.epochs} epochs")
    kept = Checkpoint(path.with_name(f"{path.stem}.checkpoint.safetensors"), header.model_dump(mode="json"))
    session = Session(lambda done, total: tell.progress(f"fit {blank.name}", done, total), tell.say, kept)
    state = learn_answers(model, taught, vocabulary, blank.recipe, blank.settings, generator=generator, session=session)
    save_state(path, state, header)
    kept.drop()
    return replace(blank, state=state)


def load_answers(path: Path, wanted: Header, shapes: State) -> State:
    """A state that is the one wanted. Raises StateError naming what differs, or what is missing."""
    state, found = load_state(path)
    if found.model_sha256 != wanted.model_sha256:
        told = f"{found.model} ({found.model_sha256[:12]}), asked for {wanted.model} ({wanted.model_sha256[:12]})"
        raise StateError(f"{path} was learned for model {told}; pass --model {found.model} or use another --out")
    for key in ("task", "defence", "settings", "classes", "data", "seed"):
        if getattr(found, key) != getattr(wanted, key):
            raise StateError(f"{path} was learned with another {key}; use another --out, or delete it to learn again")
    if {key: value.shape for key, value in state.items()} != {key: value.shape for key, value in shapes.items()}:
        raise StateError(f"{path} does not hold the tensors of {wanted.defence}; delete it to learn again")
    return state


def answer_batch(
    model: Clip, learned: Learned, questions: Sequence[Question], part: slice, vocabulary: Vocabulary,
    balls: Sequence[Ball], *, norm: Norm, steps: int, seed: int,
) -> list[AnsweredRow]:  # fmt: skip
    """Rows of the questions `part` of all: clean, then ball after ball, the smallest first, those that still stand."""
    rows = torch.arange(part.start, part.stop)
    images = learned.asked.images(rows).to(model.device)
    known = torch.tensor([learned.asked.truths[row] is not None for row in rows.tolist()], device=model.device)
    truths = torch.tensor([learned.asked.truths[row] or 0 for row in rows.tolist()], device=model.device)
    logits = answer(learned.classifier(model, rows), images)
    clean = _said(logits, vocabulary)
    standing = known & ~wrong(logits, truths)
    last, far, attacked, distances = list(clean), [0.0] * len(rows), [], []
    for ball in balls:
        places = standing.nonzero().squeeze(1)
        if len(places):
            randomness = [stream(seed, "attack", questions[place].id) for place in places.tolist()]
            classifier = learned.classifier(model, rows[places.cpu()])
            found = _attack(classifier, images[places], truths[places], ball, steps, randomness)
            for place, broken, distance, said in zip(places.tolist(), *found, strict=True):
                if broken:
                    standing[place], last[place], far[place] = False, vocabulary.answers[said], distance
        attacked.append(list(last))
        distances.append(list(far))
    return [
        AnsweredRow(
            id=question.id, image=question.image, kind=question.kind, recipe=learned.name, truth=question.truth,
            in_vocabulary=bool(known[row]), clean=clean[row], norm=norm, eps=tuple(ball.eps for ball in balls),
            attacked=tuple(said[row] for said in attacked), distance=tuple(one[row] for one in distances),
            steps=steps, seed=seed,
        )
        for row, question in enumerate(questions)
    ]  # fmt: skip


def _attack(
    classifier: Classifier, images: Images, truths: Labels, ball: Ball, steps: int, randomness: list[torch.Generator]
) -> tuple[list[bool], list[float], list[int]]:
    """The questions lost, the distances of their images, and the wrong answers given there."""
    points = climb_together(classifier, images, truths, ball=ball, steps=steps, generator=randomness)
    judged = judge(classifier, images, points, truths, ball=ball)
    others = answer(classifier, judged.images).nan_to_num().scatter(1, truths[:, None], -torch.inf)
    return judged.broken.tolist(), judged.distance.tolist(), others.argmax(dim=1).tolist()


def _said(logits: Logits, vocabulary: Vocabulary) -> list[str]:
    """The answers in words; empty where the logits are not finite."""
    finite = logits.isfinite().all(dim=1).tolist()
    places = logits.nan_to_num().argmax(dim=1).tolist()
    return [vocabulary.answers[place] if there else "" for place, there in zip(places, finite, strict=True)]
