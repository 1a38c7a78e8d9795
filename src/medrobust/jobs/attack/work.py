"""The work of an attack: a batch of images after another, under every defence, into rows."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from medrobust.attacks import Attack, Ball, masking
from medrobust.attacks.attack import in_batches
from medrobust.attacks.report import Report
from medrobust.attacks.search import answer
from medrobust.attacks.square import Square
from medrobust.attacks.suite import evaluate
from medrobust.jobs.attack.notes import Notes
from medrobust.jobs.attack.settings import AttackSettings
from medrobust.jobs.bench import Bench
from medrobust.jobs.fitting import Fitted, tuned_on
from medrobust.results import Journal
from medrobust.results.rows.attacked import AttackedKey, AttackedRow, read_attacked
from medrobust.seeds import stream
from medrobust.tell import Tell
from medrobust.types import Classifier, Images, Labels, Logits


class Siege(NamedTuple):
    """Everything an attack on a batch of images needs."""

    bench: Bench
    fitted: Sequence[Fitted]
    settings: AttackSettings
    attacks: Mapping[str, Attack] | None  # None: AutoAttack's standard set
    tell: Tell


class Batch(NamedTuple):
    """Some images of the data, read."""

    ids: Sequence[str]
    images: Images
    labels: Labels


def planned(siege: Siege, ids: Sequence[str]) -> list[AttackedKey]:
    """The rows to come, in their order."""
    return [AttackedKey(item, ball.eps, f.label) for item in ids for ball in siege.settings.balls for f in siege.fitted]


def attack_all(siege: Siege, out: Path, journal: Journal[AttackedRow]) -> None:
    """Append the rows that are not yet there, a batch of images at once.

    A batch that was torn is attacked again as a whole, because batch mates decide the last bits.
    """
    data, size = siege.bench.data, siege.settings.batch
    there, notes = journal.done, Notes.open(out)
    for start in range(0, len(data), size):
        numbers = range(start, min(start + size, len(data)))
        missing = [key for key in planned(siege, data.ids[start : numbers.stop]) if key not in there]
        if missing:
            batch = read(siege.bench, numbers)
            rows = {row.key: row for f in siege.fitted for row in attack_batch(siege, f, batch, notes)}
            notes.keep(out)
            journal.append([rows[key] for key in missing])
        siege.tell.progress("attack", numbers.stop, len(data))
    for f in siege.fitted:
        largest = siege.settings.balls[-1].eps  # what was broken in a smaller ball is broken there too
        rows_there = read_attacked(out / "attacked.jsonl")
        found = [row for row in rows_there if row.defence == f.label and row.eps == largest]
        notes.black_box[f.label] = _black_box(siege.attacks, found)
    notes.keep(out)


def attack_batch(siege: Siege, fitted: Fitted, batch: Batch, notes: Notes) -> list[AttackedRow]:
    """One batch under one defence; where prompts are tuned on the input, image by image."""
    if fitted.label not in notes.flags:
        notes.flag(fitted.label, *probe(siege, fitted))
    parts = _parts(siege, fitted, batch)
    return [row for classifier, part in parts for row in attack_part(siege, fitted.label, classifier, part, notes)]


def attack_part(
    siege: Siege, defence: str, classifier: Classifier, batch: Batch, notes: Notes
) -> Iterator[AttackedRow]:
    """Ball after ball, the smallest first, each at the images that those inside it have left.

    An image that was broken in a smaller ball is broken in all around it, by the same attacked image.
    """
    broken: dict[str, AttackedRow] = {}
    for ball in siege.settings.balls:
        yield from (replace(row, eps=ball.eps) for row in broken.values())
        standing = _without(batch, broken)
        if standing.ids:
            found = attack_in_ball(siege, defence, classifier, standing, ball, notes)
            broken |= {row.id: row for row in found if row.broken_by is not None}
            yield from found


def attack_in_ball(
    siege: Siege, defence: str, classifier: Classifier, batch: Batch, ball: Ball, notes: Notes
) -> list[AttackedRow]:
    """All attacks at these images, in one ball."""
    report = evaluate(
        classifier, batch.images, batch.labels, ball=ball, attacks=siege.attacks,
        generator=[stream(siege.bench.experiment.seed, "attack", item) for item in batch.ids],
        batch=siege.settings.batch, probe=False, progress=siege.tell.progress,
    )  # fmt: skip
    notes.titles.setdefault(defence, report.title)
    notes.flag(defence, *report.flags)
    rows = rows_of(siege, defence, classifier, batch, report)
    for row, clean, attacked in zip(rows, batch.images, report.images, strict=True):
        notes.show(row, clean, attacked)
    return rows


def rows_of(siege: Siege, defence: str, classifier: Classifier, batch: Batch, report: Report) -> list[AttackedRow]:
    """What was found, image by image; the answers agree with the report, which has seen them."""
    settings = siege.settings
    clean, attacked = (_logits(classifier, images, settings.batch) for images in (batch.images, report.images))
    rows = []
    for number, (item, label, by) in enumerate(zip(batch.ids, batch.labels.tolist(), report.broken_by, strict=True)):
        before = _said(clean[number], label, right=by != "clean")
        after = before if by in (None, "clean") else _said(attacked[number], label, right=False)
        rows.append(AttackedRow(
            id=item, label=label, defence=defence, scope=classifier.scope,
            sigma=None if classifier.scope == "model" else settings.sigma, norm=report.ball.norm,
            eps=report.ball.eps, attack=settings.name, standard=report.standard, clean=before, broken_by=by,
            answer=after, distance=float(report.distance[number]), seed=siege.bench.experiment.seed,
        ))  # fmt: skip
    return rows


def probe(siege: Siege, fitted: Fitted) -> list[str]:
    """Signs of masked gradients, at a few images spread over the data, in the smallest ball."""
    bench = siege.bench
    few = read(bench, range(0, len(bench.data), -(-len(bench.data) // masking.PROBED)))
    found = evaluate(
        fitted.classifier, few.images, few.labels, ball=siege.settings.balls[0], attacks={}, batch=siege.settings.batch,
        generator=[stream(bench.experiment.seed, "attack", item) for item in few.ids],
    )  # fmt: skip
    return list(found.flags)


def read(bench: Bench, numbers: Sequence[int]) -> Batch:
    """Those images, on the model's device."""
    device = bench.model.device
    labels = torch.tensor([bench.data.targets[number] for number in numbers], device=device)
    return Batch([bench.data.ids[number] for number in numbers], bench.data.images(numbers).to(device), labels)


def _without(batch: Batch, left_out: Container[str]) -> Batch:
    kept = [number for number, item in enumerate(batch.ids) if item not in left_out]
    if len(kept) == len(batch.ids):
        return batch
    return Batch([batch.ids[number] for number in kept], batch.images[kept], batch.labels[kept])


def _parts(siege: Siege, fitted: Fitted, batch: Batch) -> Iterator[tuple[Classifier, Batch]]:
    """The batch under the defence's classifier, or each image under its own, tuned on it."""
    sigma, seed = siege.settings.sigma, siege.bench.experiment.seed
    if fitted.defence.tune is None or sigma is None:
        yield fitted.classifier, batch
        return
    for number, item in enumerate(batch.ids):
        image = batch.images[number]
        frozen = tuned_on(fitted.defence, fitted.classifier, image, sigma=sigma, seed=seed, item=item)
        yield frozen, Batch([item], image[None], batch.labels[number : number + 1])


def _logits(classifier: Classifier, images: Images, batch: int) -> Logits:
    found: dict[int, Logits] = {}

    def ask(part: slice) -> None:
        found[part.start] = answer(classifier, images[part])

    in_batches(len(images), batch, ask)
    return torch.cat([found[start] for start in sorted(found)])


def _said(logits: Float[Tensor, " classes"], label: int, *, right: bool) -> int | None:
    """The answer, given whether it was right among other batch mates; None where the logits are not finite.

    At a border the last bits, and so the batch mates, decide. What an attack was judged by counts.
    """
    if right:
        return label
    if not bool(logits.isfinite().all()):
        return None
    others = logits.clone()
    others[label] = -torch.inf
    return int(others.argmax())


def _black_box(attacks: Mapping[str, Attack] | None, rows: Sequence[AttackedRow]) -> str | None:
    """Whether a black-box attack broke images that every white-box attack before it left standing, over all rows."""
    black = [name for name, one in (attacks or {"square": Square()}).items() if isinstance(one, Square)]
    if not black or (attacks is not None and len(attacks) == len(black)):
        return None
    return masking.black_box_better(black[0], sum(row.broken_by == black[0] for row in rows), len(rows))
