"""Certify: every image at every noise level under all defences, in one pass over the noise for each encoder."""

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.data.pictures import png
from medrobust.errors import RunError
from medrobust.jobs.bench import (
    Bench,
    as_begun,
    certify_of,
    check_settings,
    encoding_of,
    environment_of,
    prepare_bench,
)
from medrobust.jobs.experiment import Experiment
from medrobust.jobs.fitting import Fitted, fit_all, tuned_on
from medrobust.jobs.folder import RunFolder
from medrobust.jobs.job import Done, Kind, Opening, Unit, Work, reopen
from medrobust.results import CERTIFIED, CertifiedKey, CertifiedRow, RunSummary, read_rows
from medrobust.results.beside import Example, ExampleAnswer
from medrobust.results.findings import joint
from medrobust.results.folder import publish
from medrobust.smoothing.certify import Certificate, Smoothing, certify, clean_answers
from medrobust.smoothing.encoding import choose_sampler, seconds_a_copy
from medrobust.smoothing.sampling import Sampler, encoders
from medrobust.tell import SILENT, Tell
from medrobust.types import Classifier, Image
from medrobust.words import duration


class Certifying(NamedTuple):
    """A run's model, images, defences and way of encoding."""

    bench: Bench
    fitted: list[Fitted]
    sampler: Sampler


def open_certify(opening: Opening[Experiment]) -> Certifying:
    """Load the model, learn the defences, and choose the encoder of noisy copies. Raises MedrobustError."""
    experiment, tell, folder = opening.settings, opening.tell, opening.folder
    if not opening.learn:
        experiment = as_begun(experiment, folder.path / "certified.jsonl", CERTIFIED)
    bench = prepare_bench(experiment, findings=True, given=opening.given)
    if opening.learn:
        if bench.data.skipped:
            tell.say(f"{len(bench.data.skipped)} broken images are left out: {', '.join(bench.data.skipped[:5])}")
        names = ", ".join(choice.name for choice in experiment.defences)
        where = f"{bench.data.source} ({bench.data.split})"
        tell.say(f"certify {len(bench.data)} images of {where} with {bench.model.name}: {names}")
    fitted = fit_all(bench, folder.path, tell, learn=opening.learn)
    return Certifying(bench, fitted, sampler_of(bench, fitted, folder.environment, tell))


def sampler_of(bench: Bench, fitted: Sequence[Fitted], recorded: Mapping[str, Any], tell: Tell) -> Sampler:
    """The sampler of a run: as its settings want, as it was recorded, or as is fastest here."""
    return choose_sampler(
        [f.classifier for f in fitted],
        bench.data.read(0).to(bench.model.device),
        encoding_of(certify_of(bench.experiment), recorded),
        smoothings=bench.levels,
        images=len(bench.data),
        say=tell.say,
    )


def certify_units(opened: Certifying) -> list[Unit]:
    """A unit an image and noise level, with a row for each defence."""
    bench, fitted, _ = opened
    return [
        Unit(tuple(CertifiedKey(item, level.sigma, f.name) for f in fitted), (number, place))
        for number, item in enumerate(bench.data.ids)
        for place, level in enumerate(bench.levels)
    ]


def certify_work(opened: Certifying) -> Work[CertifiedRow]:
    """Certifies the image of a unit at its noise level under every defence; an image is read once for its levels."""
    (bench, fitted, sampler), levels = opened, opened.bench.levels

    @lru_cache(maxsize=1)
    def read(number: int) -> Image:
        return bench.data.read(number).to(bench.model.device)

    def work(unit: Unit) -> Done[CertifiedRow]:
        number, level = (int(value) for value in unit.what)
        item, label, seed = bench.data.ids[number], bench.data.targets[number], bench.experiment.seed
        return Done(certify_image(read(number), item, label, fitted, levels[level], sampler, seed=seed))

    return work


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
    """Tune the defences that tune on the image, then certify all classifiers in one pass; `label` is the image's."""
    classifiers = _tuned(fitted, image, item, smoothing, seed)
    clean = clean_answers(classifiers, image)
    certificates = certify(classifiers, image, smoothing, seed=seed, item=item, sampler=sampler)
    return [
        _row(item, f.target(label), f, answer, certificate, smoothing, seed)
        for f, answer, certificate in zip(fitted, clean, certificates, strict=True)
    ]


def _tuned(fitted: Sequence[Fitted], image: Image, item: str, smoothing: Smoothing, seed: int) -> list[Classifier]:
    return [tuned_on(f.defence, f.classifier, image, sigma=smoothing.sigma, seed=seed, item=item) for f in fitted]


def certify_forecast(opened: Certifying, left: float = 1.0) -> list[str]:
    """Sentences about a run's largest radius and largest cost; the speed is measured on a few batches.

    A defence that tunes on its image is tuned on the first one, for the time it takes and its encoder.
    """
    bench, fitted, sampler = opened
    experiment, levels, settings = bench.experiment, bench.levels, certify_of(bench.experiment)
    lines = [
        f"sigma {s.sigma:g}: n = {s.budget} and alpha = {s.alpha:g} let no radius exceed {s.largest_radius:.4f}"
        for s in levels
    ]
    image, item = bench.data.read(0).to(bench.model.device), bench.data.ids[0]
    began = time.perf_counter()
    classifiers = _tuned(fitted, image, item, levels[0], experiment.seed)
    tuning = time.perf_counter() - began
    shared, pairs = len(encoders(classifiers)), len(bench.data) * len(levels)
    draws = pairs * (settings.draws + settings.selection)
    seconds = (seconds_a_copy(classifiers, image, levels[0], sampler) * draws + tuning * pairs) * left
    early = "" if settings.stopping == "fixed" else "at most "
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
        if row.sigma == bench.levels[0].sigma:
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
        id=item, label=label, defence=fitted.choice, finding=fitted.finding, clean=clean, selection=smoothing.selection,
        seed=seed, **vars(found),
    )  # fmt: skip


def publish_certified(folder: RunFolder, opened: Certifying, _tell: Tell) -> RunSummary:
    """Summary, tables, curves and report of a run, with a few of its images."""
    radii = certify_of(opened.bench.experiment).radii
    return publish(folder.path, radii, folder.environment, examples=gallery(opened.bench, folder.path))


def _environment(opened: Certifying) -> dict[str, Any]:
    return environment_of(opened.bench, {f.name: f.sha256 for f in opened.fitted}, opened.sampler)


def _told(experiment: Experiment) -> str:
    settings = certify_of(experiment)
    sigmas = ", ".join(f"{sigma:g}" for sigma in settings.sigmas)
    copies = len(settings.sigmas) * (settings.draws + settings.selection)
    return f"certified at sigma {sigmas} with at most {copies:,} noisy copies an image"


CERTIFY: Kind[Experiment, Certifying, CertifiedRow, RunSummary] = Kind(
    name="certify",
    settings=Experiment,
    settings_file="experiment.yaml",
    rows_file="certified.jsonl",
    form=CERTIFIED,
    told=_told,
    check=check_settings,
    open=open_certify,
    units=certify_units,
    cost=certify_forecast,
    work=certify_work,
    environment=_environment,
    publish=publish_certified,
)


def reopen_certified(folder: Path, tell: Tell = SILENT) -> Certifying:
    """Model, images and defences of a run, to make its certificates again.

    Raises RunError where it is not a run folder, or where something that decides its numbers is different here.
    """
    if not (folder / "certified.jsonl").exists() or not (folder / "environment.json").exists():
        raise RunError(f"{folder} is not a run folder: it has no certified.jsonl with its environment.json")
    return reopen(CERTIFY, RunFolder(folder), tell)
