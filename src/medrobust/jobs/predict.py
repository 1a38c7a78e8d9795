"""Answers to single images: the class, its probability, and its certificate."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from medrobust.data import Task, load_task, open_image
from medrobust.defences import make_defence
from medrobust.defences.state import check_header, load_state, state_settings
from medrobust.errors import ConfigError
from medrobust.jobs.experiment import Choice
from medrobust.jobs.fitting import apply_state, tuned_on
from medrobust.machine import checked_device
from medrobust.models import load
from medrobust.smoothing.certify import Certificate, Smoothing, certify
from medrobust.smoothing.encoding import lean_sampler
from medrobust.types import Classifier, Image


def answer_images(
    paths: Sequence[Path],
    *,
    model: str,
    task: str | None,
    choice: Choice,
    sigma: float | None,
    n: int,
    alpha: float,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Class and probabilities of each image, or of each finding; with `sigma` also a certificate.

    Certificates of findings share the noise, and alpha. Raises MedrobustError.
    """
    smoothing = None if sigma is None else Smoothing(sigma, alpha, budget=n, stopping="fixed")
    make_defence(choice.defence, choice.settings)
    state, settings, path = dict[str, torch.Tensor](), dict(choice.settings), Path(choice.from_state or "")
    if choice.from_state:
        state, header = load_state(path)
        settings, task = state_settings(header, choice.defence, settings, path=path), task or header.task
    defence = make_defence(choice.defence, settings)
    if task is None:
        raise ConfigError("which classes? pass --task NAME or --task FILE.yaml (see `medrobust tasks`)")
    known, loaded = load_task(task), load(model, device=checked_device(device))
    if choice.from_state:
        check_header(header, loaded, known, path=path, transfer=choice.transfer)
    asked = known.findings or (known,)
    if smoothing is not None:  # all answers about an image hold together with probability 1 - alpha
        smoothing = replace(smoothing, alpha=alpha / len(asked))
    fixed = [apply_state(defence, loaded, one, state, name=choice.name) for one in asked]
    if defence.tune is not None and smoothing is None:
        raise ConfigError(f"{choice.name} tunes on each image under noise: pass --sigma")
    items, sampler = [], lean_sampler()
    for image_path in paths:
        image = open_image(image_path, loaded.preprocess).to(loaded.device)
        item, classifiers = str(image_path), fixed
        if smoothing is not None:
            classifiers = [tuned_on(defence, one, image, sigma=smoothing.sigma, seed=seed, item=item) for one in fixed]
        answers = [_clean(classifier, image, one) for classifier, one in zip(classifiers, asked, strict=True)]
        if smoothing is not None:
            certificates = certify(classifiers, image, smoothing, seed=seed, item=item, sampler=sampler)
            for answer, certificate, one in zip(answers, certificates, asked, strict=True):
                answer["certificate"] = _told(certificate, one)
        by_name = dict(zip(known.classes, answers, strict=False))
        items.append({"path": item, "findings": by_name} if known.absent else {"path": item, **answers[0]})
    return {
        "model": loaded.name,
        "model_sha256": loaded.sha256,
        "task": known.name,
        "defence": choice.name,
        "images": items,
        "notice": "not a medical device",
    }


def _told(certificate: Certificate, task: Task) -> dict[str, Any]:
    answer = certificate.prediction
    return {
        "class": None if answer is None else task.classes[answer],
        "radius": certificate.radius,
        "sigma": certificate.sigma,
        "alpha": certificate.alpha,
        "votes": certificate.votes,
        "trials": certificate.trials,
        "scope": certificate.scope,
    }


@torch.inference_mode()
def _clean(classifier: Classifier, image: Image, task: Task) -> dict[str, Any]:
    chances = classifier(image[None]).softmax(dim=1)[0].tolist()
    best = max(range(len(chances)), key=chances.__getitem__)
    return {
        "class": task.classes[best],
        "probability": chances[best],
        "probabilities": dict(zip(task.classes, chances, strict=True)),
    }
