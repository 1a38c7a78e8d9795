"""Answers to single images: the class, its probability, and its certificate."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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


@dataclass(frozen=True)
class SmoothedAnswer:
    """The answer of the smoothed classifier, None where it abstains, and the record of its certificate."""

    answer: str | None
    radius: float
    sigma: float
    alpha: float
    votes: int
    trials: int
    scope: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"class" if name == "answer" else name: value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        if self.answer is None:
            return "; smoothed: abstains"
        return f"; smoothed: {self.answer}, certified within l2 radius {self.radius:.3f} ({self.scope})"


@dataclass(frozen=True)
class Answer:
    """The class of an image, or whether a finding is there, with the probability of each class."""

    answer: str
    probability: float
    probabilities: Mapping[str, float]
    certificate: SmoothedAnswer | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, without a certificate where there is none."""
        plain = {"class": self.answer, "probability": self.probability, "probabilities": dict(self.probabilities)}
        return plain if self.certificate is None else plain | {"certificate": self.certificate.to_json()}

    def __str__(self) -> str:
        return f"{self.answer} ({self.probability:.3f}){self.certificate or ''}"


@dataclass(frozen=True)
class AnsweredImage:
    """One image: its answer, or of a task with findings one for each of them by name."""

    path: str
    answers: Mapping[str, Answer]
    findings: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {name: answer.to_json() for name, answer in self.answers.items()}
        return {"path": self.path} | ({"findings": told} if self.findings else next(iter(told.values())))


@dataclass(frozen=True)
class Answers:
    """Images that were answered, and what answered them."""

    model: str
    model_sha256: str | None
    task: str
    defence: str
    images: tuple[AnsweredImage, ...]
    notice: str = "not a medical device"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model,
            "model_sha256": self.model_sha256,
            "task": self.task,
            "defence": self.defence,
            "images": [image.to_json() for image in self.images],
            "notice": self.notice,
        }


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
) -> Answers:
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
            answers = [
                replace(answer, certificate=_smoothed(certificate, one))
                for answer, certificate, one in zip(answers, certificates, asked, strict=True)
            ]
        items.append(AnsweredImage(item, dict(zip(known.classes, answers, strict=False)), bool(known.absent)))
    return Answers(loaded.name, loaded.sha256, known.name, choice.name, tuple(items))


def _smoothed(found: Certificate, task: Task) -> SmoothedAnswer:
    answer = None if found.prediction is None else task.classes[found.prediction]
    return SmoothedAnswer(answer, found.radius, found.sigma, found.alpha, found.votes, found.trials, found.scope)


@torch.inference_mode()
def _clean(classifier: Classifier, image: Image, task: Task) -> Answer:
    chances = classifier(image[None]).softmax(dim=1)[0].tolist()
    best = max(range(len(chances)), key=chances.__getitem__)
    return Answer(task.classes[best], chances[best], dict(zip(task.classes, chances, strict=True)))
