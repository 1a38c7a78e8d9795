"""Classification heads on image features, without texts: a linear and an MLP probe, and full fine-tuning as reference.

A learned head is bound to the classes of its task, their number and order, so it answers no other task.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, Field
from torch import Tensor
from torch.func import functional_call

from medrobust.data.task import Dataset, Task
from medrobust.defences.adaptation import changed_weights, merged, on, starting_state
from medrobust.defences.adversarial import Batches, BatchTraining, Rows, check_learnable, optimiser_of, schedule_of
from medrobust.defences.defence import Apply, Change, Defence, Fit
from medrobust.errors import ConfigError, StateError
from medrobust.learning.loop import SILENT, Session, descend
from medrobust.types import Classifier, Features, Images, Logits, State, VisionLanguageModel

Hidden = Float[Tensor, "batch hidden"]
Scalar = Float[Tensor, ""]
Before = Callable[[Features, State], Hidden]  # what stands between the feature and the last layer


class Head(BaseModel):
    """Settings of every head; `unit` scales features to length one, otherwise they are as the encoder gives them.

    Number of epochs, batch and optimiser are those of RAN, so that heads differ in what they learn alone (ours).
    """

    epochs: int = Field(30, ge=1)
    batch: int = Field(64, ge=1)
    optimiser: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup: int = Field(0, ge=0)
    unit: bool = False


class LinearProbe(Head, BatchTraining):
    """Without `augment` every image is encoded once."""

    augment: bool = False


class MlpProbe(Head, BatchTraining):
    """One hidden layer with ReLU (ours in its width). Without `augment` every image is encoded once."""

    augment: bool = False
    hidden: int = Field(512, ge=1)


class FullFineTune(Head, BatchTraining):
    """`lr` is the head's, `tower_lr` that of the vision tower's weights (ours)."""

    tower_lr: float = Field(1e-5, gt=0)


@dataclass(frozen=True)
class LearnedHead:
    """logits = W r(f) + b; with a bias the length of a feature matters, so this is not a `DirectionHead`."""

    state: State
    before: Before
    unit: bool

    def __call__(self, features: Features) -> Logits:
        represented = self.before(F.normalize(features, dim=1) if self.unit else features, self.state)
        return F.linear(represented, *layer(self.state, "head"))


def linear_probe(settings: LinearProbe | None = None) -> Defence:
    """min CE( softmax(W f + b), y ) over W and b, f = I(x) frozen; state: `head.weight`, `head.bias`."""
    return _probe(settings or LinearProbe(), lambda _width, _generator: {}, as_it_is)


def mlp_probe(settings: MlpProbe | None = None) -> Defence:
    """The same for W relu(U f + a) + b; state: `hidden.weight`, `hidden.bias` too."""
    chosen = settings or MlpProbe()
    return _probe(chosen, lambda width, generator: dense("hidden", width, chosen.hidden, generator), hidden_layer)


def _probe(chosen: LinearProbe | MlpProbe, more: Callable[[int, torch.Generator], State], before: Before) -> Defence:
    def fit(
        model: VisionLanguageModel, data: Dataset, *, generator: torch.Generator, session: Session = SILENT
    ) -> State:
        batches = Batches.of(data, chosen, generator)
        seen, width = _features(model, batches, chosen), feature_width(model, batches)
        start = more(width, generator)
        last = start["hidden.weight"].shape[0] if start else width
        start |= dense("head", last, len(data.task.classes), generator)

        def loss(state: State, step: int) -> Scalar:
            rows = batches.rows(step)
            logits = LearnedHead(state, before, chosen.unit)(seen(step, rows))
            return F.cross_entropy(logits, batches.labels[rows].to(model.device))

        def student(state: State) -> Classifier:
            return Classifier(model.encode_image, LearnedHead(state, before, chosen.unit))

        return learn_in_batches(start, student, loss, batches, chosen, device=model.device, session=session)

    return head_defence(chosen, fit, partial(apply_head, before, chosen.unit))


def full_fine_tune(settings: FullFineTune | None = None) -> Defence:
    """min CE( softmax(W I(x) + b), y ) over W, b and all weights of the vision tower, on clean images.

    State: `weight.NAME`, `head.weight`, `head.bias`; the tower keeps its form.
    """
    chosen = settings or FullFineTune()

    def fit(
        model: VisionLanguageModel, data: Dataset, *, generator: torch.Generator, session: Session = SILENT
    ) -> State:
        batches = Batches.of(data, chosen, generator)
        tower = starting_state(model.vision, "all", generator=generator)
        start = tower | dense("head", feature_width(model, batches), len(data.task.classes), generator)

        def student(state: State) -> Classifier:
            weights = changed_weights(model.vision, state)
            return Classifier(
                lambda images: functional_call(model.vision, weights, (images,)),
                LearnedHead(state, as_it_is, chosen.unit),
            )

        def loss(state: State, step: int) -> Scalar:
            rows, now = batches.rows(step), student(state)
            images = batches.views(step, rows).to(model.device)
            features = encoder(now.encode, chosen, model.device)(images)
            return F.cross_entropy(now.head(features), batches.labels[rows].to(model.device))

        return learn_in_batches(
            start, student, loss, batches, chosen, device=model.device, session=session,
            factors=dict.fromkeys(tower, chosen.tower_lr / chosen.lr),
        )  # fmt: skip

    return head_defence(chosen, fit, partial(apply_head, as_it_is, chosen.unit), "vision")


def learn_in_batches(
    start: State,
    student: Callable[[State], Classifier],
    loss: Callable[[State, int], Scalar],
    batches: Batches,
    settings: BatchTraining,
    *,
    device: torch.device,
    session: Session = SILENT,
    factors: Mapping[str, float] = MappingProxyType({}),
) -> State:
    """min over the state of a loss that looks at a batch as a whole; `loss(state, step)` is differentiable by it.

    `factors`: by name, multiples of the learning rate; at 0 a tensor is not descended, but kept and restored with the
    others, because the loss itself moves it (running statistics). Raises ConfigError where several processes would
    share a batch, DataError for images of one class, AttackError for a model that answers unsteadily.
    """
    if session.workers.count > 1:
        raise ConfigError("a head is learned by one process, its loss is one of whole batches; run without torchrun")
    state = {
        key: value.detach().clone().to(device).requires_grad_(factors.get(key, 1.0) != 0)
        for key, value in start.items()
    }
    check_learnable(batches, student(state), device, what="a head")
    descend(
        partial(loss, state), optimiser_of(state, settings, factors), schedule_of(batches.per_epoch, settings),
        clip_norm=settings.clip_norm, session=session,
    )  # fmt: skip
    return {key: value.detach().cpu() for key, value in state.items()}


def apply_head(before: Before, unit: bool, model: VisionLanguageModel, task: Task, state: State) -> Classifier:
    """A learned head on the model, or on the vision tower that the state changes.

    Raises StateError where it was learned for another number of classes.
    """
    base, learned = merged(model, state), len(layer(state, "head").weight)
    if learned != len(task.classes):
        raise StateError(
            f"the head was learned for {learned} classes, {task.name} has {len(task.classes)}; learn it on {task.name}"
        )
    return Classifier(base.encode_image, LearnedHead(on(base.device, state), before, unit))


def head_defence(settings: BaseModel, fit: Fit, apply: Apply, *more: Change) -> Defence:
    """A defence that learns a head from labels, and other parts where its settings say so."""
    changes: frozenset[Change] = frozenset({"head", *more})
    return Defence(settings, fit, apply, learns_from="labels", changes=changes, class_bound=True)


def dense(name: str, inputs: int, outputs: int, generator: torch.Generator) -> State:
    """A linear layer as torch starts one: weight and bias uniform in +-1 / sqrt(inputs)."""
    shapes = {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    return {key: (2 * torch.rand(shape, generator=generator) - 1) / inputs**0.5 for key, shape in shapes.items()}


class HeadLayer(NamedTuple):
    """Weight and bias of one layer of a state."""

    weight: Tensor
    bias: Tensor


def layer(state: State, name: str) -> HeadLayer:
    """A layer by its name. Raises KeyError naming the tensor that is missing."""
    return HeadLayer(state[f"{name}.weight"], state[f"{name}.bias"])


def encoder(
    encode: Callable[[Images], Features], settings: BatchTraining, device: torch.device
) -> Callable[[Images], Features]:
    """The same encoder in the precision that is set; its features are float32."""

    def encoded(images: Images) -> Features:
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            return encode(images).float()

    return encoded


@torch.no_grad()
def feature_width(model: VisionLanguageModel, batches: Batches) -> int:
    """The width of a feature."""
    return model.encode_image(batches.read(torch.arange(1)).to(model.device)).shape[1]


@torch.no_grad()
def _features(
    model: VisionLanguageModel, batches: Batches, chosen: LinearProbe | MlpProbe
) -> Callable[[int, Rows], Features]:
    """Frozen features of the images of a step: encoded once, or anew for every view."""
    encode = encoder(model.encode_image, chosen, model.device)
    if chosen.augment:
        return torch.no_grad()(lambda step, rows: encode(batches.views(step, rows).to(model.device)))
    everything = torch.arange(len(batches.labels)).split(chosen.batch)
    once = torch.cat([encode(batches.read(rows).to(model.device)) for rows in everything])
    return lambda _step, rows: once[rows.to(once.device)]


def as_it_is(features: Features, _state: State) -> Hidden:
    """Nothing between the feature and the last layer."""
    return features


def hidden_layer(features: Features, state: State) -> Hidden:
    """One layer with ReLU."""
    return F.linear(features, *layer(state, "hidden")).relu()
