"""The loop of adversarial training: attack a batch, learn from it. Student and objective are arguments."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Int
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor

from medrobust.attacks import AttackError, Ball, masking
from medrobust.attacks.ball import Norm, pixels_of
from medrobust.attacks.draws import ImageDraws
from medrobust.attacks.losses import PerImage, cross_entropy
from medrobust.attacks.pgd import ascend
from medrobust.data.augment import augment
from medrobust.data.sources import shots
from medrobust.data.task import Dataset
from medrobust.errors import DataError
from medrobust.learning.loop import SILENT, Schedule, Session, descend
from medrobust.seeds import stream
from medrobust.types import Classifier, Images, Labels, State

Rows = Int[Tensor, " rows"]
_RESIDENT = 2**30  # bytes of images that are kept decoded; more are read again in every epoch


PixelLength = Annotated[float, BeforeValidator(pixels_of)]  # `4/255` or a float, in pixels of [0, 1]


class BatchTraining(BaseModel):
    """Settings of every training on labelled batches."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    shots: int | None = Field(None, ge=1)  # images a class; None: all there are
    epochs: int = Field(10, ge=1)
    batch: int = Field(256, ge=1)  # over all processes together
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(1e-4, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)  # of sgd
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(1000, ge=0)  # steps, at most a tenth of all (ours)
    clip_norm: float | None = Field(None, gt=0)
    augment: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"  # of the forward passes; weights and sums stay float32


class TrainingAttack(NamedTuple):
    """Projected gradient ascent as a training runs it: `steps` of length `step` in the ball."""

    ball: Ball
    steps: int
    step: float

    def __call__(self, climb: Callable[[Images], PerImage], images: Images, start: Images) -> Images:
        """Images in the ball where `climb` is large, begun at `start`."""
        return ascend(climb, images, ball=self.ball, steps=self.steps, step=self.step, start=start)


class AttackInTraining(BaseModel):
    """Settings of the attack in a training. Lengths are in pixels of [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    norm: Norm = "linf"
    eps: PixelLength = 1 / 255
    attack_steps: int = Field(2, ge=1)
    attack_step: PixelLength = 1 / 255

    @model_validator(mode="after")
    def _lengths_can_be_meant(self) -> "AttackInTraining":
        for length in (self.eps, self.attack_step):
            Ball(self.norm, length)  # says what is wrong with 8, and what was meant
        return self

    @property
    def attack(self) -> TrainingAttack:
        """The attack that is set."""
        return TrainingAttack(Ball(self.norm, self.eps), self.attack_steps, self.attack_step)


class Objective(NamedTuple):
    """The loss that the attack climbs and the loss that the training descends, one number an image.

    `climb(student, images, labels)` gives a function of the attacked pixels; `score(student, images, attacked, labels)`
    is the loss. The student that is attacked has no gradient to its parameters.
    """

    climb: Callable[[Classifier, Images, Labels], Callable[[Images], PerImage]]
    score: Callable[[Classifier, Images, Images, Labels], PerImage]


def climb_cross_entropy(student: Classifier, images: Images, labels: Labels) -> Callable[[Images], PerImage]:  # noqa: ARG001
    """CE(student(x + e), y), through whatever the student has learned."""
    return lambda points: cross_entropy(student(points).float(), labels)


def score_attacked(student: Classifier, images: Images, attacked: Images, labels: Labels) -> PerImage:  # noqa: ARG001
    """CE(student(x_adv), y)."""
    return cross_entropy(student(attacked).float(), labels)


ON_ATTACKED = Objective(climb_cross_entropy, score_attacked)  # plain adversarial training


def learn(
    start: State,
    student: Callable[[State], Classifier],
    objective: Objective,
    data: Dataset,
    settings: BatchTraining,
    attack: TrainingAttack,
    *,
    device: torch.device,
    generator: torch.Generator,
    session: Session = SILENT,
) -> State:
    """min over the state of the mean score at attacked images; `student(state)` is differentiable by the state.

    Batches, views and starting points depend on the generator's next number and the step alone: neither the number of
    processes nor an interruption changes them. Where memory runs out the batch is worked off in halves, which gives
    the same gradient. Raises AttackError for a classifier that answers the same image differently, DataError for
    images of one class.
    """
    batches = Batches.of(data, settings, generator)
    state = {key: value.detach().clone().to(device).requires_grad_(True) for key, value in start.items()}
    check_learnable(batches, student(detached(state)), device)
    size = settings.batch

    def backward(step: int) -> float:
        nonlocal size
        rows = batches.rows(step)
        views, mine = batches.views(step, rows), session.workers.share(torch.arange(len(rows)))
        while True:
            try:
                parts = (part for part in mine.split(size) if len(part))
                return sum(_backward(step, rows[part], views[part], len(rows)) for part in parts)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                if size == settings.batch:
                    session.say("memory ran out; from here on batches are worked off in parts, with the same result")
                size = max(1, min(size, len(mine)) // 2)
                for value in state.values():
                    value.grad = None

    def _backward(step: int, rows: Rows, views: Images, whole: int) -> float:
        images, labels = views.to(device), batches.labels[rows].to(device)
        begin = batches.starts(step, rows, images, attack.ball)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            climb = objective.climb(student(detached(state)), images, labels)
            attacked = attack(climb, images, begin)
            loss = objective.score(student(state), images, attacked, labels).sum() / whole
        loss.backward()
        return float(loss.detach())

    descend(
        backward, optimiser_of(state, settings), schedule_of(batches.per_epoch, settings),
        clip_norm=settings.clip_norm, session=session,
    )  # fmt: skip
    return {key: value.detach().cpu() for key, value in state.items()}


class Batches(NamedTuple):
    """The images of every step and their views; all of it follows from one seed."""

    read: Callable[[Rows], Images]
    labels: Labels
    seed: int
    batch: int
    augmented: bool
    flips: bool = True  # whether the answer is the same in a mirror

    @classmethod
    def of(cls, data: Dataset, settings: BatchTraining, generator: torch.Generator) -> "Batches":
        """The images of a training, some of each class or all."""
        chosen = data if settings.shots is None else shots(data, settings.shots, generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        return cls(_reader(chosen), chosen.labels, seed, settings.batch, settings.augment)

    @property
    def per_epoch(self) -> int:
        """Steps until every image has been seen."""
        return -(-len(self.labels) // self.batch)

    def rows(self, step: int) -> Rows:
        """The images of a step; every epoch has an order of its own, and its last batch may be smaller."""
        epoch, place = divmod(step, self.per_epoch)
        order = torch.randperm(len(self.labels), generator=stream(self.seed, "order", epoch))
        return order[place * self.batch : (place + 1) * self.batch]

    def views(self, step: int, rows: Rows, use: str = "augment") -> Images:
        """Those images, turned and cut anew in every step; another `use` gives other views of them."""
        images = self.read(rows)
        if not self.augmented:
            return images
        return augment(images, stream(self.seed, use, step), flips=self.flips, scale=(0.8, 1.0), colour=0.0)

    def starts(self, step: int, rows: Rows, images: Images, ball: Ball) -> Images:
        """Starting points of the attack on each image, uniform in the ball."""
        numbers = ImageDraws(tuple(stream(self.seed, f"attack {step}", row) for row in rows.tolist()))
        return ball.random(images, numbers)


def detached(state: State) -> State:
    """The same numbers without their gradients."""
    return {key: value.detach() for key, value in state.items()}


def optimiser_of(
    state: State, settings: BatchTraining, factors: Mapping[str, float] = MappingProxyType({})
) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW; `factors`: by name, multiples of the learning rate, 1 where nothing is said."""
    by_factor: dict[float, list[Tensor]] = {}
    for key, value in state.items():
        by_factor.setdefault(factors.get(key, 1.0), []).append(value)
    groups = [{"params": values, "lr_factor": factor} for factor, values in by_factor.items()]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)


def schedule_of(per_epoch: int, settings: BatchTraining) -> Schedule:
    """A linear warm-up and half a cosine."""
    steps = per_epoch * settings.epochs
    return Schedule(settings.lr, steps, warmup=min(settings.warmup, steps // 10))


def check_learnable(
    batches: Batches, classifier: Classifier, device: torch.device, *, what: str = "adversarial training"
) -> None:
    """Check that there are several classes to learn, and that the classifier answers steadily.

    Raises DataError for images of one class, AttackError where the same image gets other logits.
    """
    if len(batches.labels.unique()) < 2:
        raise DataError(f"all images to learn from are of one class; {what} needs images of two at least")
    unsteady = masking.randomness(classifier, batches.read(torch.arange(min(2, len(batches.labels)))).to(device))
    if unsteady:
        raise AttackError(f"nothing can be learned from this model: {unsteady}")


def _reader(data: Dataset) -> Callable[[Rows], Images]:
    if data.read(0).nbytes * len(data) > _RESIDENT:
        return lambda rows: data.images(rows.tolist())
    everything = data.images()
    return lambda rows: everything[rows]
