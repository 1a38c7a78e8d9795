"""AutoAttack's standard set for any number of classes, with its own judgement and signs of gradient masking.

Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020, section 6. The published set needs at least 4 classes; with 2 or 3, targeted DLR gives way to the
targeted scale-free margin (ours), and the report does not call itself standard.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medrobust.attacks import masking
from medrobust.attacks.apgd import Apgd
from medrobust.attacks.attack import Attack, in_batches, judge
from medrobust.attacks.ball import Ball
from medrobust.attacks.draws import Randomness, seeds_of
from medrobust.attacks.errors import AttackError, NoGradientError
from medrobust.attacks.fab import Fab
from medrobust.attacks.losses import wrong
from medrobust.attacks.report import Report, Stage
from medrobust.attacks.search import first_look
from medrobust.attacks.square import Square
from medrobust.seeds import stream
from medrobust.types import Classifier, Images, Labels

_Progress = Callable[[str, int, int], None]  # (attack, images done, images it tries)


@dataclass(frozen=True)
class AutoAttack:
    """The whole set as one attack, `batch` images at once; `run_suite` tells more about the same run."""

    batch: int = 64

    needs_gradients: ClassVar[bool] = False
    fewest_classes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise AttackError(f"batch is {self.batch}, must be at least 1")

    def members(self, classes: int) -> dict[str, Attack]:
        """The four attacks in their order."""
        return standard_set(classes)

    def cost(self, classes: int) -> int:
        """The members' costs, and the suite's own answers; FAB may save five answers, as said there."""
        return suite_cost(self.members(classes), classes)

    def __call__(
        self, classifier: Classifier, images: Images, labels: Labels, *, ball: Ball, generator: Randomness
    ) -> Images:
        """Attacked images in ball and box; the originals where no attack succeeded."""
        if not len(images):
            return images.clone()
        return run_suite(
            classifier, images, labels, ball=ball, generator=generator, batch=self.batch, probe=False
        ).images


def standard_set(classes: int) -> dict[str, Attack]:
    """The four attacks in their order: 100 steps, up to 9 targets, 5000 queries, one restart."""
    if classes >= 4:
        targeted: dict[str, Attack] = {"apgd-t": Apgd(loss="dlr", targets=9)}
    else:
        targeted = {"apgd-t-margin": Apgd(loss="margin", targets=9)}
    return {"apgd-ce": Apgd(), **targeted, "fab-t": Fab(), "square": Square()}


def suite_cost(attacks: Mapping[str, Attack], classes: int) -> int:
    """Forward passes at most of `run_suite`, without its `probe`, for one image that no attack breaks.

    Beside the attacks: one answer to the image as it is and two that must agree; and one to judge what each returned.
    """
    return 3 + sum(attack.cost(classes) + 1 for attack in attacks.values())


@torch.inference_mode(False)
def run_suite(
    classifier: Classifier,
    images: Images,
    labels: Labels,
    *,
    ball: Ball,
    generator: Randomness,
    attacks: Mapping[str, Attack] | None = None,
    batch: int = 64,
    probe: bool = True,
    progress: _Progress | None = None,
) -> Report:
    """Attack after attack, each at the images still answered rightly, `batch` at once; by default the standard set.

    Every image's random numbers depend on its own seed and the attack's name, so neither `batch` nor the other images
    change what is found, up to rounding. When memory runs out the batch is halved. An attack that needs gradients where
    there are none is skipped, and the report says so. `probe` looks for signs of masked gradients: about 25 gradients
    for up to 32 images and two for every image. Raises AttackError for what cannot be attacked.
    """
    if not len(images):
        raise AttackError("there are no images to attack; check the split, the limit and the folder")
    given = _Given(classifier, images, labels, ball, seeds_of(generator, len(images)), progress or _silent)
    right, classes, size = _clean(given, batch)
    chosen = dict(standard_set(classes) if attacks is None else attacks)
    worst = _Worst(images.clone(), torch.zeros(len(images), dtype=torch.float64, device=images.device), right.clone())
    by: list[str | None] = [None if still else "clean" for still in right.tolist()]
    stages: list[Stage] = []
    for name, attack in chosen.items():
        before = worst.standing.clone()
        stage, size = _attack(given, name, attack, worst, size)
        stages.append(stage)
        for row in (before & ~worst.standing).nonzero().squeeze(1).tolist():
            by[row] = name
    unsteady = masking.randomness(classifier, images[:size])
    flags = [*_troubles(stages, batch, size), *([unsteady] if unsteady else [])]
    flags += _signs(given, chosen, stages, right, size) if probe else []
    standard = _is_standard(chosen, stages, classes) and not unsteady
    title = _title(standard, stages, classes)
    return Report(ball, classes, standard, title, worst.images, tuple(by), worst.distance, tuple(stages), tuple(flags))


class _Given(NamedTuple):
    classifier: Classifier
    images: Images
    labels: Labels
    ball: Ball
    seeds: tuple[int, ...]
    progress: _Progress


class _Worst(NamedTuple):
    """Buffers that the attacks of the set write into."""

    images: Images
    distance: Float[Tensor, " batch"]
    standing: Bool[Tensor, " batch"]


def _clean(given: _Given, batch: int) -> tuple[Bool[Tensor, " batch"], int, int]:
    """Mask of the rightly answered images, the number of classes, and the number of images that fit into memory."""
    right = torch.ones(len(given.images), dtype=torch.bool, device=given.images.device)
    classes = 0

    def look(part: slice) -> None:
        nonlocal classes
        logits = first_look(given.classifier, given.images[part], given.labels[part])
        right[part], classes = ~wrong(logits, given.labels[part]), logits.shape[1]

    size = in_batches(len(given.images), batch, look)
    return right, classes, size


def _attack(given: _Given, name: str, attack: Attack, worst: _Worst, batch: int) -> tuple[Stage, int]:
    """One attack at all images that are still right."""
    open_rows = worst.standing.nonzero().squeeze(1)
    strayed = 0

    def work(part: slice) -> None:
        nonlocal strayed
        rows = open_rows[part]
        images, labels = given.images[rows], given.labels[rows]
        numbers = [stream(given.seeds[row], f"suite {name}") for row in rows.tolist()]
        returned = attack(given.classifier, images, labels, ball=given.ball, generator=numbers)
        found = judge(given.classifier, images, returned, labels, ball=given.ball)
        hit = rows[found.broken]
        worst.images[hit], worst.distance[hit] = found.images[found.broken], found.distance[found.broken]
        worst.standing[hit] = False
        strayed += found.strayed
        given.progress(name, part.stop, len(open_rows))

    try:
        batch, skipped = in_batches(len(open_rows), batch, work), None
    except NoGradientError as error:
        skipped = str(error)
    broken = len(open_rows) - int(worst.standing.sum())
    return Stage(name, len(open_rows), broken, strayed, skipped), batch


def _troubles(stages: Sequence[Stage], asked: int, size: int) -> list[str]:
    """Sentences about failures on the way that were mended."""
    found = [
        f"{stage.name} returned {stage.strayed} images outside of ball or box; they were brought back before judging."
        for stage in stages
        if stage.strayed
    ]
    found += [f"{stage.name} was skipped: {stage.skipped}." for stage in stages if stage.skipped]
    return found + ([f"Memory ran out with {asked} images at once; {size} fitted."] if size < asked else [])


def _signs(
    given: _Given, attacks: Mapping[str, Attack], stages: Sequence[Stage], right: Bool[Tensor, " batch"], batch: int
) -> list[str]:
    """Signs of masked gradients, over all images that are answered rightly without an attack."""
    rows = right.nonzero().squeeze(1)
    zero = [0, 0]

    def count(part: slice) -> None:
        entropy, logits = masking.flat(given.classifier, given.images[rows[part]], given.labels[rows[part]])
        zero[0], zero[1] = zero[0] + entropy, zero[1] + logits

    black = [stage for stage in stages if not attacks[stage.name].needs_gradients]
    white = [stage for stage in stages if attacks[stage.name].needs_gradients and not stage.skipped]
    found = [masking.black_box_better(stage.name, stage.broken, len(right)) for stage in black if white]
    try:
        in_batches(len(rows), batch, count)
    except NoGradientError:
        return [sentence for sentence in found if sentence]
    few = rows[: min(batch, masking.PROBED)]
    numbers = [stream(given.seeds[row], "suite probe") for row in few.tolist()]
    steps = masking.more_steps(
        given.classifier, given.images[few], given.labels[few], ball=given.ball, generators=numbers
    )
    return [sentence for sentence in (*found, masking.flatness((zero[0], zero[1]), len(rows)), steps) if sentence]


def _is_standard(attacks: Mapping[str, Attack], stages: Sequence[Stage], classes: int) -> bool:
    published = list(attacks.items()) == list(standard_set(classes).items())
    return published and classes >= 4 and not any(stage.skipped for stage in stages)


def _title(standard: bool, stages: Sequence[Stage], classes: int) -> str:
    """The name of these numbers in a table."""
    ran = ", ".join(stage.name for stage in stages if not stage.skipped) or "no attack"
    if standard:
        return f"AutoAttack standard ({ran})"
    why = "targeted DLR needs 4 classes" if classes < 4 else "the set or its settings differ, or the answers are random"
    return f"attacks for {classes} classes ({ran}), not AutoAttack's standard: {why}"


def _silent(attack: str, done: int, total: int) -> None:
    """Progress that is not shown."""
