"""Carry out an experiment: fit what is not fitted, certify image after image, tell the result, resume."""

import base64
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medrobust.experiment import Experiment
from medrobust.fitting import Fitted, fit_all, tuned_on
from medrobust.preparation import (
    Bench,
    Reporter,
    check_settings,
    claim,
    keep_environment,
    keep_experiment,
    prepare,
    smoothings,
)
from medrobust.results import Journal, Key, Row, read_rows
from medrobust.results.folder import publish
from medrobust.smoothing.certify import Certificate, Smoothing, certify, clean_answers
from medrobust.smoothing.sampling import encoders
from medrobust.types import Classifier, Image


def run(experiment: Experiment, out: Path, *, reporter: Reporter | None = None) -> dict[str, Any]:
    """Fit, certify and report one experiment into `out`; an interrupted one goes on where it stopped.

    The summary comes back. Raises MedrobustError, with everything already written intact.
    """
    tell = reporter or Reporter()
    check_settings(experiment)
    claim(out, experiment)
    bench = prepare(experiment)
    if bench.data.skipped:
        tell.say(f"{len(bench.data.skipped)} broken images are left out: {', '.join(bench.data.skipped[:5])}")
    names = ", ".join(choice.called for choice in experiment.defences)
    tell.say(
        f"certify {len(bench.data)} images of {bench.data.source} ({bench.data.split}) with {bench.model.name}: {names}"
    )
    fitted = fit_all(bench, out, tell)
    environment = keep_environment(out, bench, {f.label: f.sha256 for f in fitted})
    plan = [Key(i, sigma, f.label) for i in bench.data.ids for sigma in experiment.sigmas for f in fitted]
    with Journal.open(out / "certified.jsonl", plan) as journal:
        keep_experiment(out, experiment)
        for line in forecast(bench, [f.classifier for f in fitted], left=len(journal.remaining) / len(plan)):
            tell.say(line)
        certify_all(bench, fitted, journal, tell)
    return publish(out, experiment.radii, environment, examples=gallery(bench, out))


def certify_all(bench: Bench, fitted: Sequence[Fitted], journal: Journal, tell: Reporter) -> None:
    """Append the rows that are not yet there, one pass over the noise for each image and noise level."""
    experiment, levels, there = bench.experiment, smoothings(bench.experiment), journal.done
    total = len(bench.data) * len(levels)
    for number, (item, label) in enumerate(zip(bench.data.ids, bench.data.targets, strict=True)):
        missing = [[f for f in fitted if Key(item, s.sigma, f.label) not in there] for s in levels]
        image = bench.data.read(number).to(bench.model.device) if any(missing) else None
        for done, (smoothing, wanted) in enumerate(zip(levels, missing, strict=True), number * len(levels) + 1):
            if wanted and image is not None:
                journal.append(certify_image(image, item, label, wanted, smoothing, experiment))
            tell.progress("certify", done, total)


def certify_image(
    image: Image, item: str, label: int, fitted: Sequence[Fitted], smoothing: Smoothing, experiment: Experiment
) -> list[Row]:
    """Tune what is tuned on the image, then certify all classifiers in one pass."""
    seed = experiment.seed
    classifiers = [
        tuned_on(f.defence, f.classifier, image, sigma=smoothing.sigma, seed=seed, item=item) for f in fitted
    ]
    clean = clean_answers(classifiers, image)
    certificates = certify(classifiers, image, smoothing, seed=seed, item=item, batch=experiment.batch)
    return [
        _row(item, label, f.label, answer, certificate, smoothing, seed)
        for f, answer, certificate in zip(fitted, clean, certificates, strict=True)
    ]


def forecast(bench: Bench, classifiers: Sequence[Classifier], *, left: float = 1.0) -> list[str]:
    """What a run can reach at most, and what it will cost; the speed is measured on one batch."""
    experiment = bench.experiment
    lines = [
        f"sigma {s.sigma:g}: n = {s.estimation} and alpha = {s.alpha:g} let no radius exceed {s.largest_radius:.4f}"
        for s in smoothings(experiment)
    ]
    shared = encoders(classifiers)
    draws = len(bench.data) * len(experiment.sigmas) * (experiment.n + experiment.selection)
    side = bench.model.preprocess.size
    noisy = torch.zeros(experiment.batch, 3, side, side, device=bench.model.device)
    with torch.inference_mode():
        for encode, _ in shared:
            encode(noisy)
        began = time.perf_counter()
        for encode, _ in shared:
            encode(noisy)
        seconds = time.perf_counter() - began
    estimate = draws / experiment.batch * seconds * left * 1.2
    lines.append(
        f"{len(bench.data)} images, {len(classifiers)} defences, {len(shared)} encoder(s): {draws * len(shared):,} "
        f"encoder passes, about {_duration(estimate)}{' left' if left < 1 else ''}"
    )
    return lines


def gallery(bench: Bench, out: Path, count: int = 8) -> list[dict[str, Any]]:
    """A few of the certified images for the report: one a class as far as they go."""
    from PIL import Image as Picture

    answers: dict[str, dict[str, Any]] = {}
    for row in read_rows(out / "certified.jsonl"):
        if row.sigma == bench.experiment.sigmas[0]:
            answers.setdefault(row.id, {})[row.defence] = {"answer": row.prediction, "radius": row.radius}
    shown = []
    for number in range(min(count, len(bench.data))):
        pixels = (bench.data.read(number) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Picture.fromarray(pixels).save(file, "PNG")
        png = base64.b64encode(file.getvalue()).decode()
        item = bench.data.ids[number]
        shown.append({"png_base64": png, "label": bench.data.targets[number], "answers": answers.get(item, {})})
    return shown


def _row(
    item: str, label: int, defence: str, clean: int | None, found: Certificate, smoothing: Smoothing, seed: int
) -> Row:
    return Row(
        id=item, label=label, defence=defence, clean=clean, selection=smoothing.selection, seed=seed, **vars(found)
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
