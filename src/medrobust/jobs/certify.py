"""Carry out an experiment: fit what is not fitted, certify image after image, tell the result, resume."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.data.pictures import png
from medrobust.errors import RunError
from medrobust.jobs.bench import (
    Bench,
    check_same,
    check_settings,
    claim,
    encoding_of,
    environment_of,
    keep_environment,
    keep_experiment,
    prepare,
    recorded_environment,
)
from medrobust.jobs.experiment import Experiment, load_experiment
from medrobust.jobs.fitting import Fitted, fit_all, tuned_on
from medrobust.results import CERTIFIED, CertifiedKey, CertifiedRow, Journal, RunSummary, read_rows
from medrobust.results.beside import Example, ExampleAnswer
from medrobust.results.findings import joint
from medrobust.results.folder import publish
from medrobust.smoothing.certify import Certificate, Smoothing, certify, clean_answers
from medrobust.smoothing.encoding import make_sampler, seconds_a_copy
from medrobust.smoothing.sampling import Sampler, encoders
from medrobust.tell import Tell
from medrobust.types import Classifier, Image
from medrobust.words import duration


def run(experiment: Experiment, out: Path, *, reporter: Tell | None = None) -> RunSummary:
    """Fit, certify and report one experiment into `out`; an interrupted one goes on where it stopped.

    The summary comes back. Raises MedrobustError, with everything already written intact.
    """
    tell = reporter or Tell()
    check_settings(experiment)
    claim(out, experiment)
    bench = prepare(experiment, findings=True)
    if bench.data.skipped:
        tell.say(f"{len(bench.data.skipped)} broken images are left out: {', '.join(bench.data.skipped[:5])}")
    names = ", ".join(choice.called for choice in experiment.defences)
    tell.say(
        f"certify {len(bench.data)} images of {bench.data.source} ({bench.data.split}) with {bench.model.name}: {names}"
    )
    fitted = fit_all(bench, out, tell)
    sampler = sampler_of(bench, fitted, recorded_environment(out), tell)
    environment = keep_environment(out, bench, {f.label: f.sha256 for f in fitted}, sampler)
    plan = [CertifiedKey(i, sigma, f.label) for i in bench.data.ids for sigma in experiment.sigmas for f in fitted]
    with Journal.open(out / "certified.jsonl", plan, CERTIFIED) as journal:
        keep_experiment(out, experiment)
        left = len(journal.remaining) / len(plan)
        for line in forecast(bench, fitted, sampler, left=left):
            tell.say(line)
        certify_all(bench, fitted, sampler, journal, tell)
    return publish(out, experiment.radii, environment, examples=gallery(bench, out))


def sampler_of(bench: Bench, fitted: Sequence[Fitted], recorded: Mapping[str, Any], tell: Tell) -> Sampler:
    """How this run encodes noisy copies: as it wants, as it was recorded, or as is fastest here."""
    return make_sampler(
        [f.classifier for f in fitted],
        bench.data.read(0).to(bench.model.device),
        encoding_of(bench.experiment, recorded),
        smoothings=bench.levels,
        images=len(bench.data),
        say=tell.say,
    )


class Reopened(NamedTuple):
    """A run's model, images, defences and way of encoding, as they were."""

    bench: Bench
    fitted: list[Fitted]
    sampler: Sampler


def reopen(folder: Path, reporter: Tell | None = None) -> Reopened:
    """Everything with which a run's certificates can be made again.

    Raises RunError where it is no run folder, or where something that decides its numbers is different here.
    """
    tell = reporter or Tell()
    recorded = recorded_environment(folder)
    if not recorded or not (folder / "certified.jsonl").exists():
        raise RunError(f"{folder} is no run folder: it has no certified.jsonl with its environment.json")
    bench = prepare(load_experiment(folder / "experiment.yaml"), findings=True)
    fitted = fit_all(bench, folder, tell, learn=False)
    sampler = sampler_of(bench, fitted, recorded, tell)
    check_same(folder, recorded, environment_of(bench, {f.label: f.sha256 for f in fitted}, sampler))
    return Reopened(bench, fitted, sampler)


def certify_all(
    bench: Bench, fitted: Sequence[Fitted], sampler: Sampler, journal: Journal[CertifiedRow], tell: Tell
) -> None:
    """Append the rows that are not yet there, one pass over the noise for each image and noise level."""
    experiment, levels, there = bench.experiment, bench.levels, journal.done
    total = len(bench.data) * len(levels)
    for number, (item, label) in enumerate(zip(bench.data.ids, bench.data.targets, strict=True)):
        missing = [[f for f in fitted if CertifiedKey(item, s.sigma, f.label) not in there] for s in levels]
        image = bench.data.read(number).to(bench.model.device) if any(missing) else None
        for done, (smoothing, wanted) in enumerate(zip(levels, missing, strict=True), number * len(levels) + 1):
            if wanted and image is not None:  # all of them again: heads in one product share its last bits
                rows = certify_image(image, item, label, fitted, smoothing, sampler, seed=experiment.seed)
                journal.append([row for row in rows if row.key not in there])
            tell.progress("certify", done, total)


def certify_image(
    image: Image,
    item: str,
    label: int,
    fitted: Sequence[Fitted],
    smoothing: Smoothing,
    sampler: Sampler,
    *,
    seed: int,
) -> list[CertifiedRow]:
    """Tune what is tuned on the image, then certify all classifiers in one pass; `label` is that of the image."""
    classifiers = _tuned(fitted, image, item, smoothing, seed)
    clean = clean_answers(classifiers, image)
    certificates = certify(classifiers, image, smoothing, seed=seed, item=item, sampler=sampler)
    return [
        _row(item, f.target(label), f, answer, certificate, smoothing, seed)
        for f, answer, certificate in zip(fitted, clean, certificates, strict=True)
    ]


def _tuned(fitted: Sequence[Fitted], image: Image, item: str, smoothing: Smoothing, seed: int) -> list[Classifier]:
    return [tuned_on(f.defence, f.classifier, image, sigma=smoothing.sigma, seed=seed, item=item) for f in fitted]


def forecast(bench: Bench, fitted: Sequence[Fitted], sampler: Sampler, *, left: float = 1.0) -> list[str]:
    """What a run can reach at most, and what it will cost at most; the speed is measured on a few batches.

    What is tuned on its image is tuned on the first one, for its price and for the encoders it will need.
    """
    experiment, levels = bench.experiment, bench.levels
    lines = [
        f"sigma {s.sigma:g}: n = {s.estimation} and alpha = {s.alpha:g} let no radius exceed {s.largest_radius:.4f}"
        for s in levels
    ]
    image, item = bench.data.read(0).to(bench.model.device), bench.data.ids[0]
    began = time.perf_counter()
    classifiers = _tuned(fitted, image, item, levels[0], experiment.seed)
    tuning = time.perf_counter() - began
    shared, pairs = len(encoders(classifiers)), len(bench.data) * len(levels)
    draws = pairs * (experiment.n + experiment.selection)
    seconds = (seconds_a_copy(classifiers, image, levels[0], sampler) * draws + tuning * pairs) * left
    early = "" if experiment.stopping == "fixed" else "at most "
    each = f" of {len(bench.task.absent)} findings each" if bench.task.absent else ""
    lines.append(
        f"{len(bench.data)} images, {len(experiment.defences)} defences{each}, {shared} encoder(s) by "
        f"{', '.join(sampler.kernels)}, batch {sampler.batch}: {early}{draws * shared:,} encoder passes, "
        f"{early or 'about '}{duration(seconds)}{' left' if left < 1 else ''}"
        f"{'; images stop as soon as they are decided' if early else ''}"
    )
    return lines


def gallery(bench: Bench, out: Path, count: int = 8) -> list[Example]:
    """A few of the certified images for the report: one a class as far as they go."""

    def named(label: int | None) -> int | str | None:
        return bench.task.says(label) if bench.task.absent and label is not None else label

    answers: dict[str, dict[str, ExampleAnswer]] = {}
    for row in joint(read_rows(out / "certified.jsonl")):
        if row.sigma == bench.experiment.sigmas[0]:
            answers.setdefault(row.id, {})[row.defence] = ExampleAnswer(named(row.prediction), row.radius)
    shown = []
    for number in range(min(count, len(bench.data))):
        item, picture = bench.data.ids[number], png(bench.data.read(number))
        label = bench.data.targets[number]
        shown.append(Example(picture, bench.task.says(label) if bench.task.absent else label, answers.get(item, {})))
    return shown


def _row(
    item: str, label: int, fitted: Fitted, clean: int | None, found: Certificate, smoothing: Smoothing, seed: int
) -> CertifiedRow:
    return CertifiedRow(
        id=item, label=label, defence=fitted.name, finding=fitted.finding, clean=clean, selection=smoothing.selection,
        seed=seed, **vars(found),
    )  # fmt: skip
