"""Attack: every image of an experiment under every defence; rows in attacked.jsonl, resumable, told in the report."""

import time
from collections.abc import Sequence
from typing import Any

from medrobust.attacks import AttackError, masking
from medrobust.attacks.attack import in_batches
from medrobust.attacks.losses import wrong
from medrobust.attacks.search import answer
from medrobust.jobs.attack.notes import GatheredNotes
from medrobust.jobs.attack.settings import attack_of, attacks_of, check_attack, passes, sigma_of
from medrobust.jobs.attack.work import Attacking, attack_units, attack_work, black_box, read_batch
from medrobust.jobs.bench import environment_of, prepare_bench
from medrobust.jobs.experiment import Experiment
from medrobust.jobs.fitting import fit_all
from medrobust.jobs.folder import RunFolder
from medrobust.jobs.job import Kind, Notes, Opening
from medrobust.results import RunSummary
from medrobust.results.folder import republish
from medrobust.results.rows.attacked import ATTACKED, AttackedRow, read_attacked
from medrobust.tell import Tell
from medrobust.words import duration


def open_attack(opening: Opening[Experiment]) -> Attacking:
    """Load the model, learn the defences to attack, and check the clean answers.

    With several eps, an image broken at one counts as broken at all larger ones, and is not attacked there. The
    classifier attacked is the one deployed without noise. Where a prompt is tuned on the input, it is attacked frozen,
    as it was tuned on the clean image. Raises MedrobustError.
    """
    experiment, tell = opening.settings, opening.tell
    settings = attack_of(experiment)
    bench = prepare_bench(experiment, given=opening.given)
    attacks = attacks_of(settings, len(bench.task.classes))
    path = opening.folder.path / "attacked.jsonl"
    rows = read_attacked(path) if path.exists() else []
    opened = Attacking(bench, (), settings, attacks, sigma_of(experiment), rows=rows, tell=tell)
    if opening.learn:
        for line in attack_announcement(opened):
            tell.say(line)
    opened = opened._replace(fitted=fit_all(bench, opening.folder.path, tell, learn=opening.learn))
    return opened._replace(seconds=look(opened)) if opening.learn else opened


def attack_announcement(opened: Attacking) -> list[str]:
    """Sentences about the attack and its cost in passes of the encoder."""
    bench, settings = opened.bench, opened.settings
    classes = len(bench.task.classes)
    each = passes(opened.attacks, classes) * len(settings.eps)
    names = ", ".join(choice.name for choice in bench.experiment.defences)
    total = each * len(bench.data) * len(bench.experiment.defences)
    lines = [
        f"attack {len(bench.data)} images of {bench.data.source} ({bench.data.split}) with {bench.model.name} under "
        f"{names}: {settings.name} in {settings.told}, at most {total:,} encoder passes ({each:,} an image and defence)"
    ]
    if bench.data.skipped:
        skipped = bench.data.skipped
        lines.append(f"{len(skipped)} broken images are left out: {', '.join(skipped[:5])}")
    return lines


def look(opened: Attacking) -> float:
    """Check that every classifier answers steadily and some images rightly; returns the most seconds a row may take.

    Raises AttackError where the answers change by themselves, or where no image is answered rightly.
    """
    bench, began = opened.bench, time.perf_counter()
    right = dict.fromkeys((f.name for f in opened.fitted), 0)

    def ask(part: slice) -> None:
        _, images, labels = read_batch(bench, range(part.start, part.stop))
        for f in opened.fitted:
            unsteady = masking.randomness(f.classifier, images[:4]) if part.start == 0 else None
            if unsteady:
                raise AttackError(f"{f.name}: {unsteady}")
            right[f.name] += int((~wrong(answer(f.classifier, images), labels)).sum())

    in_batches(len(bench.data), opened.settings.batch, ask)
    total, tuned = len(bench.data), any(f.defence.tune is not None for f in opened.fitted)
    if not any(right.values()) and not tuned:
        raise AttackError(
            f"clean accuracy is 0: none of {total} images is answered rightly by {', '.join(right)}, so there is "
            "nothing to attack; check that the labels, the task and the model belong together"
        )
    told = [f"{name} {hits}" + (" (nothing to attack)" if not hits else "") for name, hits in right.items()]
    opened.tell.say(f"of {total} images, answered rightly without an attack: {', '.join(told)}")
    each = (time.perf_counter() - began) / (total * len(opened.fitted))
    return each * passes(opened.attacks, len(bench.task.classes))


def attack_cost(opened: Attacking, left: float) -> Sequence[str]:
    """The rows still to come, and how long they take at most."""
    total = sum(len(unit.keys) for unit in attack_units(opened))
    todo = round(left * total)
    return [
        f"{todo} of {total} to do; at most about {duration(opened.seconds * todo)} here, less where images break early"
    ]


def keep_notes(folder: RunFolder, notes: Notes) -> None:
    """Add the notes of a unit to attacked.json, before its rows are written."""
    there = GatheredNotes.open(folder.path)
    there.add(GatheredNotes(**notes))
    there.keep(folder.path)


def publish_attacked(folder: RunFolder, opened: Attacking, tell: Tell) -> RunSummary:
    """Flags over all rows, then summary and report; the flags are said."""
    notes, rows = GatheredNotes.open(folder.path), read_attacked(folder.path / "attacked.jsonl")
    largest = opened.settings.balls[-1].eps  # what was broken in a smaller ball is broken there too
    for f in opened.fitted:
        found = [row for row in rows if row.defence == f.name and row.eps == largest]
        notes.black_box[f.name] = black_box(opened.attacks, found)
    notes.keep(folder.path)
    summary = republish(folder.path)
    for defence, sentences in summary.attacked.flags.items():
        for sentence in sentences:
            tell.say(f"{defence}: {sentence}")
    return summary


def _environment(opened: Attacking) -> dict[str, Any]:
    return environment_of(opened.bench, {f.name: f.sha256 for f in opened.fitted})


def _told(experiment: Experiment) -> str:
    settings = attack_of(experiment)
    return f"attacked by {settings.name} in {settings.told}"


ATTACK: Kind[Experiment, Attacking, AttackedRow, RunSummary] = Kind(
    name="attack",
    settings=Experiment,
    settings_file="experiment.yaml",
    rows_file="attacked.jsonl",
    form=ATTACKED,
    told=_told,
    check=check_attack,
    open=open_attack,
    units=attack_units,
    cost=attack_cost,
    work=attack_work,
    keep=keep_notes,
    environment=_environment,
    publish=publish_attacked,
)
