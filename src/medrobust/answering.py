"""Single images, answered: the class, its probability, and what is certain about it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medrobust.data import Task, load_task, open_image
from medrobust.defences import make
from medrobust.defences.state import check_header, load_state, settings_of
from medrobust.encoding import lean_sampler
from medrobust.environment import available_threads
from medrobust.errors import ConfigError
from medrobust.experiment import Choice
from medrobust.fitting import apply_state, tuned_on
from medrobust.models import load
from medrobust.preparation import checked_device
from medrobust.smoothing.certify import Smoothing, certify
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
    """Class and probabilities of each image; with `sigma` also a certificate.

    Raises MedrobustError.
    """
    smoothing = None if sigma is None else Smoothing(sigma, alpha, estimation=n, stopping="fixed")
    make(choice.name, choice.settings)
    torch.set_num_threads(available_threads())
    state, settings, path = dict[str, torch.Tensor](), dict(choice.settings), Path(choice.state or "")
    if choice.state:
        state, header = load_state(path)
        settings, task = settings_of(header, choice.name, settings, path=path), task or header.task
    defence = make(choice.name, settings)
    if task is None:
        raise ConfigError("which classes? pass --task NAME or --task FILE.yaml (see `medrobust tasks`)")
    known, loaded = load_task(task), load(model, device=checked_device(device))
    if choice.state:
        check_header(header, loaded, known, path=path, transfer=choice.transfer)
    fixed = apply_state(defence, loaded, known, state, called=choice.called)
    if defence.tune is not None and smoothing is None:
        raise ConfigError(f"{choice.called} tunes on each image under noise: pass --sigma")
    items, sampler = [], lean_sampler()
    for image_path in paths:
        image = open_image(image_path, loaded.preprocess).to(loaded.device)
        item, classifier = str(image_path), fixed
        if smoothing is not None:
            classifier = tuned_on(defence, fixed, image, sigma=smoothing.sigma, seed=seed, item=item)
        found = {"path": item, **_clean(classifier, image, known)}
        if smoothing is not None:
            (certificate,) = certify([classifier], image, smoothing, seed=seed, item=item, sampler=sampler)
            answer = certificate.prediction
            found["certificate"] = {
                "class": None if answer is None else known.classes[answer],
                "radius": certificate.radius,
                "sigma": certificate.sigma,
                "alpha": certificate.alpha,
                "votes": certificate.votes,
                "trials": certificate.trials,
                "scope": certificate.scope,
            }
        items.append(found)
    return {
        "model": loaded.name,
        "model_sha256": loaded.sha256,
        "task": known.name,
        "defence": choice.called,
        "images": items,
        "notice": "not a medical device",
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
