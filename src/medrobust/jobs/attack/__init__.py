"""Every image of an experiment attacked under every defence: rows in attacked.jsonl, resumable, told in the report."""

import time
from pathlib import Path

from medrobust.attacks import AttackError, masking
from medrobust.attacks.attack import in_batches
from medrobust.attacks.losses import wrong
from medrobust.attacks.search import answer
from medrobust.jobs.attack.settings import AttackSettings as AttackSettings
from medrobust.jobs.attack.settings import attacks_of, check, claim_settings, keep_settings, passes
from medrobust.jobs.attack.work import Siege, attack_all, planned, read
from medrobust.jobs.bench import Bench, check_settings, claim, keep_environment, keep_experiment, prepare
from medrobust.jobs.experiment import Experiment
from medrobust.jobs.fitting import fit_all
from medrobust.results import Journal, RunSummary
from medrobust.results.folder import republish
from medrobust.results.rows.attacked import ATTACKED
from medrobust.tell import Tell
from medrobust.words import duration


def attack(
    experiment: Experiment,
    settings: AttackSettings,
    out: Path,
    *,
    reporter: Tell | None = None,
    bench: Bench | None = None,
) -> RunSummary:
    """Attack every image of an experiment under every defence; an interrupted attack goes on where it stopped.

    With several eps, an image broken at one counts as broken at all larger ones, and is not attacked there.
    The classifier attacked is the one deployed without noise. Where a prompt is tuned on the input, it is attacked
    frozen, as it was tuned on the clean image. `bench`: the experiment's, where it is prepared. The summary
    comes back. Raises MedrobustError, with everything already written intact.
    """
    tell = reporter or Tell()
    check_settings(experiment)
    check(settings, experiment)
    claim(out, experiment, attack=True)
    claim_settings(out, settings)
    bench = bench or prepare(experiment)
    siege = Siege(bench, (), settings, attacks_of(settings, len(bench.task.classes)), tell)
    for line in announcement(siege):
        tell.say(line)
    siege = siege._replace(fitted=fit_all(bench, out, tell))
    seconds = look(siege)
    keep_environment(out, bench, {f.label: f.sha256 for f in siege.fitted})
    plan = planned(siege, bench.data.ids)
    with Journal.open(out / "attacked.jsonl", plan, ATTACKED) as journal:
        keep_settings(out, settings)
        if not (out / "certified.jsonl").exists():
            keep_experiment(out, experiment)
        told = f"at most about {duration(seconds * len(journal.remaining))} here, less where images break early"
        tell.say(f"{len(journal.remaining)} of {len(plan)} to do; {told}")
        attack_all(siege, out, journal)
    summary = republish(out)
    for defence, sentences in summary.attacked.flags.items():
        for sentence in sentences:
            tell.say(f"{defence}: {sentence}")
    return summary


def announcement(siege: Siege) -> list[str]:
    """What will be done, and what it costs in passes of the encoder."""
    bench, settings = siege.bench, siege.settings
    classes = len(bench.task.classes)
    each = passes(siege.attacks, classes) * len(settings.eps)
    names = ", ".join(choice.called for choice in bench.experiment.defences)
    total = each * len(bench.data) * len(bench.experiment.defences)
    lines = [
        f"attack {len(bench.data)} images of {bench.data.source} ({bench.data.split}) with {bench.model.name} under "
        f"{names}: {settings.name} in {settings.told}, at most {total:,} encoder passes ({each:,} an image and defence)"
    ]
    if bench.data.skipped:
        skipped = bench.data.skipped
        lines.append(f"{len(skipped)} broken images are left out: {', '.join(skipped[:5])}")
    return lines


def look(siege: Siege) -> float:
    """See that every classifier answers steadily and some images rightly; the most seconds a row may take come back.

    Raises AttackError where the answers change by themselves, or where no image is answered rightly.
    """
    bench, began = siege.bench, time.perf_counter()
    right = dict.fromkeys((f.label for f in siege.fitted), 0)

    def ask(part: slice) -> None:
        _, images, labels = read(bench, range(part.start, part.stop))
        for f in siege.fitted:
            unsteady = masking.randomness(f.classifier, images[:4]) if part.start == 0 else None
            if unsteady:
                raise AttackError(f"{f.label}: {unsteady}")
            right[f.label] += int((~wrong(answer(f.classifier, images), labels)).sum())

    in_batches(len(bench.data), siege.settings.batch, ask)
    total, tuned = len(bench.data), any(f.defence.tune is not None for f in siege.fitted)
    if not any(right.values()) and not tuned:
        raise AttackError(
            f"clean accuracy is 0: none of {total} images is answered rightly by {', '.join(right)}, so there is "
            "nothing to attack; check that the labels, the task and the model belong together"
        )
    told = [f"{label} {hits}" + (" (nothing to attack)" if not hits else "") for label, hits in right.items()]
    siege.tell.say(f"of {total} images, answered rightly without an attack: {', '.join(told)}")
    each = (time.perf_counter() - began) / (total * len(siege.fitted))
    return each * passes(siege.attacks, len(bench.task.classes))
