"""RAN's rectification: frozen features made fit for a head, and for attacks on it; NMTune is its part without attacks.

References: Han et al., "Light-weight fine-tuning method for defending adversarial noise in pre-trained medical
vision-language models", Findings of EMNLP 2024, arXiv 2407.02716 (RAN); Chen et al., "Understanding and mitigating the
label noise in pre-training on downstream tasks", ICLR 2024, arXiv 2309.17002 (NMTune: consistency, covariance,
dominance).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor

from medrobust.data.task import Dataset
from medrobust.defences.adversarial import (
    AttackInTraining,
    Batches,
    BatchTraining,
    Rows,
    TrainingAttack,
    climb_cross_entropy,
    detached,
)
from medrobust.defences.defence import Defence
from medrobust.defences.probe import (
    Head,
    LearnedHead,
    Scalar,
    apply_head,
    dense,
    encoder,
    feature_width,
    head_defence,
    layer,
    learn_in_batches,
)
from medrobust.learning.loop import SILENT, Session
from medrobust.types import Classifier, Features, Images, Labels, State, VisionLanguageModel

STATISTICS = ("norm.mean", "norm.variance")  # moved by the batches, not by the gradient
_LEADING = 5  # singular values
_MOMENTUM = 0.1  # of the running statistics, torch's own
_SMALLEST = 1e-12


class Rectification(BaseModel):
    """Weights of the terms, 0 leaves one out; `ce_on`: the images of the cross-entropy, of both its mean (ours)."""

    batch: int = Field(64, ge=2)
    unit: bool = False
    consistency: float = Field(1.0, ge=0)
    covariance: float = Field(0.04, ge=0)
    dominance: float = Field(0.001, ge=0)
    adversarial: float = Field(1.0, ge=0)
    ce_on: Literal["clean", "adversarial", "both"] = "both"

    @property
    def attacks(self) -> bool:
        """True where any term uses attacked images."""
        return self.adversarial > 0 or self.ce_on != "clean"


class Ran(Rectification, Head, AttackInTraining, BatchTraining):
    """All terms. The attack in training has the numbers of adversarial training here, eps 1/255 (ours)."""


class NmTune(Rectification, Head, AttackInTraining, BatchTraining):
    """The same without a term that looks at attacked images, so the settings of the attack change nothing."""

    adversarial: float = Field(0.0, ge=0)
    ce_on: Literal["clean", "adversarial", "both"] = "clean"


class FeatureCopies(NamedTuple):
    """Frozen features of a batch: of a view of each image; of another view, and of the attacked one, where needed."""

    first: Features
    second: Features | None = None
    attacked: Features | None = None


def nmtune(settings: NmTune | None = None) -> Defence:
    """`ran` on clean images alone: cross-entropy, consistency, covariance and dominance."""
    return _rectifier(settings or NmTune())


def ran(settings: Ran | None = None) -> Defence:
    """min rectification(copies) over a residual MLP on frozen features and a linear head, see `rectification`.

    The attack climbs CE through encoder, MLP and head as they are deployed: their parameters without gradients, batch
    norm with its running statistics (ours). State: `in.*`, `norm.*`, `out.*`, `gate`, `head.*`.
    """
    return _rectifier(settings or Ran())


def _rectifier(chosen: Ran | NmTune) -> Defence:
    def fit(
        model: VisionLanguageModel, data: Dataset, *, generator: torch.Generator, session: Session = SILENT
    ) -> State:
        batches = Batches.of(data, chosen, generator)
        encode = encoder(model.encode_image, chosen, model.device)
        start = start_rectifier(feature_width(model, batches), len(data.task.classes), generator)

        def student(state: State) -> Classifier:
            return Classifier(encode, LearnedHead(detached(state), rectified, chosen.unit))

        def loss(state: State, step: int) -> Scalar:
            rows = batches.rows(step)
            labels = batches.labels[rows].to(model.device)
            copies = _copies(student(state), batches, step, rows, labels, chosen)
            return rectification(state, copies, labels, chosen)

        return learn_in_batches(
            start, student, loss, batches, chosen, device=model.device, session=session,
            factors=dict.fromkeys(STATISTICS, 0.0),
        )  # fmt: skip

    return head_defence(chosen, fit, partial(apply_head, rectified, chosen.unit))


def rectification(state: State, copies: FeatureCopies, labels: Labels, chosen: Rectification) -> Scalar:
    """CE + w1 mean(unit Z_2 - unit F_1)^2 + w2 covariance(Z_1) - w3 dominance(Z_1) + w4 mean(unit Z_adv - unit Z_1)^2.

    Z = rectified F; F_1 and Z_1 are teachers without a gradient in the first and the last square. All copies share one
    batch norm, and so one step of its running statistics; covariance and dominance are of the clean copies (ours).
    """
    there = {name: part for name, part in copies._asdict().items() if part is not None}
    if chosen.unit:
        there = {name: F.normalize(part, dim=1) for name, part in there.items()}
    parts = rectified(torch.cat(list(there.values())), state, training=True).split(len(labels))
    z, frozen = FeatureCopies(**dict(zip(there, parts, strict=True))), FeatureCopies(**there)
    used = {"clean": (z.first,), "adversarial": (z.attacked,), "both": (z.first, z.attacked)}[chosen.ce_on]
    logits = [F.linear(part, *layer(state, "head")) for part in used if part is not None]
    loss = torch.stack([F.cross_entropy(one, labels) for one in logits]).mean()
    if z.second is not None and chosen.consistency:
        loss = loss + chosen.consistency * _apart(z.second, frozen.first)
    if chosen.covariance:
        loss = loss + chosen.covariance * covariance(z.first)
    if chosen.dominance:
        loss = loss - chosen.dominance * dominance(z.first)
    if z.attacked is not None and chosen.adversarial:
        loss = loss + chosen.adversarial * _apart(z.attacked, z.first)
    return loss


def rectified(features: Features, state: State, *, training: bool = False) -> Features:
    """Z = F + gate * MLP(F); in training normalised by the batch, and the running statistics are moved.

    Otherwise by the running statistics, so that an image's Z does not depend on its batch mates. A batch of one image
    has no variance and is normalised by the running statistics as well.
    """
    hidden = F.linear(features, *layer(state, "in"))
    mean, variance = (state[name] for name in STATISTICS)
    weight, bias = layer(state, "norm")
    normed = F.batch_norm(
        hidden, mean, variance, weight, bias, training=training and len(features) > 1, momentum=_MOMENTUM
    )
    return features + state["gate"] * F.linear(normed.relu(), *layer(state, "out"))


def covariance(features: Features) -> Scalar:
    """1/D sum_{i != j} Cov_ij^2 over the batch (divided by n - 1); 0 for one image."""
    centred = features - features.mean(dim=0)
    matrix = centred.T @ centred / max(1, len(features) - 1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / features.shape[1]


def dominance(features: Features) -> Scalar:
    """Mean of the five largest singular values of the batch over the sum of all."""
    values = torch.linalg.svdvals(features)
    return values[:_LEADING].mean() / values.sum().clamp(min=_SMALLEST)


def _apart(student: Features, teacher: Features) -> Scalar:
    """Mean over all entries of the squared difference of unit rows; no gradient reaches the teacher."""
    return (F.normalize(student, dim=1) - F.normalize(teacher.detach(), dim=1)).square().mean()


def _copies(
    student: Classifier, batches: Batches, step: int, rows: Rows, labels: Labels, chosen: Ran | NmTune
) -> FeatureCopies:
    """The features for the loss of a step, encoded without a gradient."""
    frozen: Callable[[Images], Features] = torch.no_grad()(student.encode)
    first, *others = images_to_copy(student, batches, step, rows, labels, chosen, chosen.attack)
    return FeatureCopies(frozen(first), *(None if part is None else frozen(part) for part in others))


def images_to_copy(
    student: Classifier,
    batches: Batches,
    step: int,
    rows: Rows,
    labels: Labels,
    chosen: Rectification,
    attack: TrainingAttack,
) -> tuple[Images, Images | None, Images | None]:
    """The images of a step's copies: a view of each, another view and the attacked first one where they are needed."""
    images = batches.views(step, rows).to(labels.device)
    second = batches.views(step, rows, "second view").to(labels.device) if chosen.consistency else None
    attacked = None
    if chosen.attacks:
        climb = climb_cross_entropy(student, images, labels)
        attacked = attack(climb, images, batches.starts(step, rows, images, attack.ball))
    return images, second, attacked


def start_rectifier(width: int, classes: int, generator: torch.Generator) -> State:
    """MLP, batch norm and gate as they begin, and a linear head."""
    hidden = 4 * width
    norm: dict[str, Tensor] = {
        "norm.weight": torch.ones(hidden),
        "norm.bias": torch.zeros(hidden),
        "norm.mean": torch.zeros(hidden),
        "norm.variance": torch.ones(hidden),
    }
    return {
        **dense("in", width, hidden, generator),
        **norm,
        **dense("out", hidden, width, generator),
        "gate": torch.ones(width),
        **dense("head", width, classes, generator),
    }
