"""The work of an attack: a batch of images after another, under every defence, into rows."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from medrobust.attacks import Attack, Ball, masking
from medrobust.attacks.attack import in_batches
from medrobust.attacks.report import Report
from medrobust.attacks.search import answer
from medrobust.attacks.suite import run_suite
from medrobust.jobs.attack.notes import GatheredNotes
from medrobust.jobs.bench import Bench
from medrobust.jobs.fitting import Fitted, tuned_on
from medrobust.jobs.job import Done, Unit, Work
from medrobust.jobs.parts import AttackSettings
from medrobust.results.rows.attacked import AttackedKey, AttackedRow
from medrobust.seeds import stream
from medrobust.tell import SILENT, Tell
from medrobust.types import Classifier, Images, Labels, Logits


class Attacking(NamedTuple):
    """Bench, settings, defences and attacks of a run."""

    bench: Bench
    fitted: Sequence[Fitted]
    settings: AttackSettings
    attacks: Mapping[str, Attack]
    sigma: float | None = None  # the noise under which prompts are tuned
    seconds: float = 0.0  # a row may take
    rows: Sequence[AttackedRow] = ()  # of an attack that has begun
    tell: Tell = SILENT


class AttackBatch(NamedTuple):
    """Some images of the data, read."""

    ids: Sequence[str]
    images: Images
    labels: Labels


def attack_units(opened: Attacking) -> list[Unit]:
    """A unit a block of images and defence: the defences in turn within a block, so that a crash loses minutes."""
    ids, units, start = opened.bench.data.ids, list[Unit](), 0
    kept = blocks_in(opened.rows, opened.settings.batch)
    while start < len(ids):
        block = ids[start : start + (kept.pop(0) if kept else opened.settings.batch)]
        for place, fitted in enumerate(opened.fitted):
            keys = [AttackedKey(item, ball.eps, fitted.name) for item in block for ball in opened.settings.balls]
            units.append(Unit(tuple(keys), (start, start + len(block), place)))
        start += len(block)
    return units


def blocks_in(rows: Sequence[AttackedRow], size: int) -> list[int]:
    """The number of images in each block of an attack that has begun, as its rows tell.

    A block that an earlier `limit` cut short stays as it was when there are more images, so that its rows stay the
    beginning of the plan. A block whose first defence is not finished has no number yet.
    """
    found, ids = list[int](), dict[str, None]()
    for row in rows:
        first = row.defence == rows[0].defence
        if ids and (not first or (row.id not in ids and len(ids) == size)):
            found.append(len(ids))
            ids = {}
        if first:
            ids[row.id] = None
    return found


def attack_work(opened: Attacking) -> Work[AttackedRow]:
    """Attacks the images of a unit under its defence; rounding depends on the batch, so a unit is whole."""

    @lru_cache(maxsize=1)
    def block(start: int, stop: int) -> AttackBatch:
        return read_batch(opened.bench, range(start, stop))

    def work(unit: Unit) -> Done[AttackedRow]:
        start, stop, place = (int(value) for value in unit.what)
        fitted, notes = opened.fitted[place], GatheredNotes.empty()
        if start == 0:
            notes.flag(fitted.name, *masking_signs(opened, fitted))
        rows = {row.key: row for row in attack_batch(opened, fitted, block(start, stop), notes)}
        return Done([rows[key] for key in unit.keys if isinstance(key, AttackedKey)], vars(notes))

    return work


def attack_batch(opened: Attacking, fitted: Fitted, batch: AttackBatch, notes: GatheredNotes) -> list[AttackedRow]:
    """One batch under one defence; where prompts are tuned on the input, image by image."""
    parts = _parts(opened, fitted, batch)
    return [row for classifier, part in parts for row in attack_part(opened, fitted.name, classifier, part, notes)]


def attack_part(
    opened: Attacking, defence: str, classifier: Classifier, batch: AttackBatch, notes: GatheredNotes
) -> Iterator[AttackedRow]:
    """Ball after ball, the smallest first, each at the images that those inside it have left.

    An image that was broken in a smaller ball is broken in all around it, by the same attacked image.
    """
    broken: dict[str, AttackedRow] = {}
    for ball in opened.settings.balls:
        yield from (replace(row, eps=ball.eps) for row in broken.values())
        standing = _without(batch, broken)
        if standing.ids:
            found = attack_in_ball(opened, defence, classifier, standing, ball, notes)
            broken |= {row.id: row for row in found if row.broken_by is not None}
            yield from found


def attack_in_ball(
    opened: Attacking, defence: str, classifier: Classifier, batch: AttackBatch, ball: Ball, notes: GatheredNotes
) -> list[AttackedRow]:
    """All attacks at these images, in one ball."""
    report = run_suite(
        classifier, batch.images, batch.labels, ball=ball, attacks=opened.attacks,
        generator=[stream(opened.bench.experiment.seed, "attack", item) for item in batch.ids],
        batch=opened.settings.batch, probe=False, progress=opened.tell.progress,
    )  # fmt: skip
    notes.titles.setdefault(defence, report.title)
    notes.flag(defence, *report.flags)
    rows = rows_of(opened, defence, classifier, batch, report)
    for row, clean, attacked in zip(rows, batch.images, report.images, strict=True):
        notes.show(row, clean, attacked)
    return rows


def rows_of(
    opened: Attacking, defence: str, classifier: Classifier, batch: AttackBatch, report: Report
) -> list[AttackedRow]:
    """Rows of a report, image by image; the answers are those that the report was made from."""
    settings = opened.settings
    clean, attacked = (_logits(classifier, images, settings.batch) for images in (batch.images, report.images))
    rows = []
    for number, (item, label, by) in enumerate(zip(batch.ids, batch.labels.tolist(), report.broken_by, strict=True)):
        before = _said(clean[number], label, right=by != "clean")
        after = before if by in (None, "clean") else _said(attacked[number], label, right=False)
        rows.append(AttackedRow(
            id=item, label=label, defence=defence, scope=classifier.scope,
            sigma=None if classifier.scope == "model" else opened.sigma, norm=report.ball.norm,
            eps=report.ball.eps, attack=settings.name, standard=report.standard, clean=before, broken_by=by,
            answer=after, distance=float(report.distance[number]), seed=opened.bench.experiment.seed,
        ))  # fmt: skip
    return rows


def masking_signs(opened: Attacking, fitted: Fitted) -> list[str]:
    """Signs of masked gradients, at a few images spread over the data, in the smallest ball."""
    bench, settings = opened.bench, opened.settings
    few = read_batch(bench, range(0, len(bench.data), -(-len(bench.data) // masking.PROBED)))
    found = run_suite(
        fitted.classifier, few.images, few.labels, ball=settings.balls[0], attacks={}, batch=settings.batch,
        generator=[stream(bench.experiment.seed, "attack", item) for item in few.ids],
    )  # fmt: skip
    return list(found.flags)


def read_batch(bench: Bench, numbers: Sequence[int]) -> AttackBatch:
    """Those images, on the model's device."""
    device = bench.model.device
    labels = torch.tensor([bench.data.targets[number] for number in numbers], device=device)
    return AttackBatch([bench.data.ids[number] for number in numbers], bench.data.images(numbers).to(device), labels)


def _without(batch: AttackBatch, left_out: Container[str]) -> AttackBatch:
    kept = [number for number, item in enumerate(batch.ids) if item not in left_out]
    if len(kept) == len(batch.ids):
        return batch
    return AttackBatch([batch.ids[number] for number in kept], batch.images[kept], batch.labels[kept])


def _parts(opened: Attacking, fitted: Fitted, batch: AttackBatch) -> Iterator[tuple[Classifier, AttackBatch]]:
    """The batch under the defence's classifier, or each image under its own, tuned on it."""
    sigma, seed = opened.sigma, opened.bench.experiment.seed
    if fitted.defence.tune is None or sigma is None:
        yield fitted.classifier, batch
        return
    for number, item in enumerate(batch.ids):
        image = batch.images[number]
        frozen = tuned_on(fitted.defence, fitted.classifier, image, sigma=sigma, seed=seed, item=item)
        yield frozen, AttackBatch([item], image[None], batch.labels[number : number + 1])


def _logits(classifier: Classifier, images: Images, batch: int) -> Logits:
    found: dict[int, Logits] = {}

    def ask(part: slice) -> None:
        found[part.start] = answer(classifier, images[part])

    in_batches(len(images), batch, ask)
    return torch.cat([found[start] for start in sorted(found)])


def _said(logits: Float[Tensor, " classes"], label: int, *, right: bool) -> int | None:
    """The answer, given whether it was right among other batch mates; None where the logits are not finite.

    At a decision border rounding, and so the batch, decides; the answer by which the attack was judged counts.
    """
    if right:
        return label
    if not bool(logits.isfinite().all()):
        return None
    others = logits.clone()
    others[label] = -torch.inf
    return int(others.argmax())


def black_box(attacks: Mapping[str, Attack], rows: Sequence[AttackedRow]) -> str | None:
    """The flag where a black-box attack broke images that every white-box attack before it left, over all rows."""
    black = [name for name, one in attacks.items() if not one.needs_gradients]
    if not black or len(attacks) == len(black):
        return None
    return masking.black_box_better(black[0], sum(row.broken_by == black[0] for row in rows), len(rows))
