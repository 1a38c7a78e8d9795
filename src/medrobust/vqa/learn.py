"""Answers to questions about images: co-attention over frozen towers, and a head that learns, with or without RAN.

Fusion and head are learned together, the towers stay as they are. Reference: Han et al., Findings of EMNLP 2024, arXiv
2407.02716 (the task, RAN); losses as in `probe` and `ran`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from medrobust.defences.adversarial import Batches, Rows, detached
from medrobust.defences.probe import LearnedHead, Scalar, dense, learn_in_batches
from medrobust.defences.ran import STATISTICS, FeatureCopies, images_to_copy, rectification, start_rectifier
from medrobust.learning.loop import SILENT, Session
from medrobust.models.clip import Clip
from medrobust.types import Classifier, Features, Images, State
from medrobust.vqa.fusion import fused, fused_width, start_fusion
from medrobust.vqa.images import Gallery
from medrobust.vqa.questions import Vocabulary
from medrobust.vqa.recipes import RECIPES, MlpAnswer, NmTuneAnswer, RanAnswer, Settings
from medrobust.vqa.tokens import ImageTokens, Words, image_tokens, text_tokens

Loss = Callable[[State, int], Scalar]

GREY = 0.5  # every pixel that a blind model sees


@dataclass(frozen=True, eq=False)
class Asked:
    """Questions ready to be learned from or answered: each picture once, and the words in the text tower's states."""

    pictures: Images
    places: Int[Tensor, " questions"]  # of each question's picture
    words: Words
    truths: tuple[int | None, ...]  # answers' places in the vocabulary, None: not in it

    @classmethod
    def of(cls, model: Clip, gallery: Gallery, vocabulary: Vocabulary) -> "Asked":
        """Raises PromptError for a question that is longer than the text tower's context."""
        names = list(dict.fromkeys(question.image for question in gallery.questions))
        number = {name: place for place, name in enumerate(names)}
        return cls(
            torch.stack([gallery.images[name] for name in names]),
            torch.tensor([number[question.image] for question in gallery.questions]),
            text_tokens(model, [question.text for question in gallery.questions]),
            tuple(vocabulary.index_of(question.answer) for question in gallery.questions),
        )

    def images(self, rows: Rows) -> Images:
        """The picture of each of these questions."""
        return self.pictures[self.places[rows]]

    def blind(self) -> "Asked":
        """The same questions about a grey picture."""
        return Asked(torch.full_like(self.pictures[:1], GREY), torch.zeros_like(self.places), self.words, self.truths)


def answering(model: Clip, words: Words, state: State, name: str, chosen: Settings) -> Classifier:
    """A classifier from pixels to answers: `encode` gives the fused feature, `head` the learned logits.

    `words` of one question are asked about every image; those of several, each about the image in its place.
    """
    frozen = {key: value.to(model.device) for key, value in state.items()}

    def encode(images: Images) -> Features:
        asked = words if len(words.ids) == len(images) else words.of(torch.zeros(len(images), dtype=torch.int64))
        return fused(image_tokens(model, images), asked, frozen, chosen)

    return Classifier(encode, LearnedHead(frozen, RECIPES[name].before, chosen.unit))


def start(model: Clip, asked: Asked, answers: int, chosen: Settings, generator: torch.Generator) -> State:
    """Fusion and head as they begin; every state of the recipe has these names and shapes."""
    with torch.no_grad():
        image_width = image_tokens(model, asked.pictures[:1].to(model.device)).shape[-1]
    vocabulary, width = model.text.get_input_embeddings().num_embeddings, fused_width(chosen)
    state = start_fusion(asked.words, vocabulary, image_width, chosen, generator)
    if isinstance(chosen, NmTuneAnswer | RanAnswer):
        return state | start_rectifier(width, answers, generator)
    if isinstance(chosen, MlpAnswer):
        state |= dense("hidden", width, chosen.hidden, generator)
        width = chosen.hidden
    return state | dense("head", width, answers, generator)


def learn_answers(
    model: Clip,
    asked: Asked,
    vocabulary: Vocabulary,
    name: str,
    chosen: Settings,
    *,
    generator: torch.Generator,
    session: Session = SILENT,
) -> State:
    """min over fusion and head of the recipe's loss; views are not flipped, because left and right are answers.

    linear, mlp: CE. nmtune, ran: `rectification` of fused features, where the attack climbs CE through encoder, fusion,
    rectifier and head by the pixels alone. Every answer must be in the vocabulary.
    """
    labels = torch.tensor([truth for truth in asked.truths if truth is not None])
    begin = start(model, asked, len(vocabulary.answers), chosen, generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    batches = Batches(asked.images, labels, seed, chosen.batch, chosen.augment, flips=False)
    if isinstance(chosen, NmTuneAnswer | RanAnswer):
        loss = _rectification(model, asked, batches, name, chosen)
    else:
        loss = _cross_entropy(model, asked, batches, name, chosen)
    first = asked.words.of(torch.arange(min(2, len(labels)), device=model.device))
    return learn_in_batches(
        begin, lambda state: answering(model, first, state, name, chosen), loss, batches, chosen,
        device=model.device, session=session, factors=dict.fromkeys(STATISTICS, 0.0),
    )  # fmt: skip


def _cross_entropy(model: Clip, asked: Asked, batches: Batches, name: str, chosen: Settings) -> Loss:
    """CE on the images as they are, encoded once, or on a view of each."""
    frozen = _frozen(model, chosen)
    once = None if chosen.augment else torch.cat([frozen(part) for part in asked.pictures.split(chosen.batch)])

    def loss(state: State, step: int) -> Scalar:
        rows = batches.rows(step)
        here = rows.to(model.device)
        seen = frozen(batches.views(step, rows)) if once is None else once[asked.places[rows].to(once.device)]
        logits = LearnedHead(state, RECIPES[name].before, chosen.unit)(fused(seen, asked.words.of(here), state, chosen))
        return F.cross_entropy(logits, batches.labels[rows].to(model.device))

    return loss


def _rectification(model: Clip, asked: Asked, batches: Batches, name: str, chosen: NmTuneAnswer | RanAnswer) -> Loss:
    """`rectification` of fused features: of a view of each image, of another one, and of the attacked first one."""
    frozen = _frozen(model, chosen)

    def loss(state: State, step: int) -> Scalar:
        rows = batches.rows(step)
        labels, words = batches.labels[rows].to(model.device), asked.words.of(rows.to(model.device))
        student = answering(model, words, detached(state), name, chosen)
        first, *others = images_to_copy(student, batches, step, rows, labels, chosen, chosen.attack)
        more = [None if part is None else fused(frozen(part), words, state, chosen) for part in others]
        return rectification(state, FeatureCopies(fused(frozen(first), words, state, chosen), *more), labels, chosen)

    return loss


def _frozen(model: Clip, chosen: Settings) -> Callable[[Images], ImageTokens]:
    """The tokens of images without a gradient, in the precision that is set."""

    @torch.no_grad()
    def tokens(images: Images) -> ImageTokens:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=chosen.precision == "bfloat16"):
            return image_tokens(model, images.to(model.device))

    return tokens
