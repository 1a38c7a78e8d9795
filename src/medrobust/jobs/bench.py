"""Model, task and images of an experiment, loaded and checked, and the record of the origin of its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from medrobust.data import Dataset, Task, load_task, open_dataset
from medrobust.defences import make_defence
from medrobust.errors import ConfigError
from medrobust.jobs.experiment import Experiment
from medrobust.jobs.job import NOTHING, Given
from medrobust.jobs.parts import CertifySettings
from medrobust.machine import checked_device, describe
from medrobust.models import load
from medrobust.smoothing.certify import Smoothing
from medrobust.smoothing.encoding import EncoderChoice
from medrobust.smoothing.noise import kernel
from medrobust.smoothing.sampling import Sampler
from medrobust.types import ImageModel, VisionLanguageModel


@dataclass(frozen=True)
class Bench:
    """Model, task and images of an experiment, loaded and checked."""

    experiment: Experiment
    model: VisionLanguageModel
    task: Task
    data: Dataset
    fit_data: Dataset | None = None  # what defences learn from, where a program has given it

    @property
    def levels(self) -> list[Smoothing]:
        """One setting a noise level; alpha is divided among findings, so that all answers of an image hold together."""
        return smoothings(certify_of(self.experiment), parts=max(1, len(self.task.absent)))

    @property
    def findings(self) -> list["Bench"]:
        """A bench of each finding alone; none where an image has one class."""
        return [replace(self, task=one, data=self.data.finding(at)) for at, one in enumerate(self.task.findings)]


def prepare_bench(
    experiment: Experiment, *, split: str | None = None, findings: bool = False, given: Given = NOTHING
) -> Bench:
    """Load the model and images of an experiment unless given; settings are checked first, so that errors come early.

    A task with findings is refused unless `findings` says that the caller asks for each of them. Raises MedrobustError.
    """
    check_settings(experiment)
    device = checked_device(experiment.device)
    task = load_task(experiment.task) if experiment.task else None
    model = given.model or load(experiment.model, device=device, revision=experiment.revision)
    data = given.data or open_dataset(
        experiment.data,
        task,
        preprocess=model.preprocess,
        split=split or experiment.split,
        skip_broken=experiment.skip_broken,
        limit=experiment.limit if split is None else None,
        findings=findings,
    )
    bench = Bench(experiment, model, data.task, data, given.fit_data)
    if bench.task.absent and not findings:
        raise ConfigError(f"{data.source} has several findings an image, and this asks for one class")
    if bench.task.absent and experiment.certify:
        _ = bench.levels  # the draws may be too few for a part of alpha
    return bench


def check_settings(experiment: Experiment) -> None:
    """Check the settings without model and images; raises SmoothingError or ConfigError."""
    if experiment.certify:
        smoothings(experiment.certify)
    for choice in experiment.defences:
        make_defence(choice.defence, choice.settings)


def certify_of(experiment: Experiment) -> CertifySettings:
    """The certification settings of an experiment. Raises ConfigError where it has none."""
    if experiment.certify is None:
        raise ConfigError("the experiment has no part `certify`")
    return experiment.certify


def smoothings(certify: CertifySettings, *, parts: int = 1) -> list[Smoothing]:
    """One setting a noise level, for one of `parts` answers that share alpha; raises SmoothingError."""
    return [
        Smoothing(
            sigma,
            certify.alpha / parts,
            certify.selection,
            certify.draws,
            certify.stopping,
            certify.radii,
            certify.look,
        )
        for sigma in certify.sigmas
    ]


def encoding_of(certify: CertifySettings, recorded: Mapping[str, Any]) -> EncoderChoice:
    """The wanted encoder; choices that the settings leave open are those in the record of a run that goes on."""
    before = recorded.get("environment", {})
    batch, compiled = certify.batch, certify.compile
    if "kernels" in before:  # not where the folder was begun by an attack
        batch = batch or before.get("batch")
        compiled = any("inductor" in kernel for kernel in before["kernels"]) if compiled is None else compiled
    return EncoderChoice(batch, certify.lean, compiled, getattr(torch, certify.dtype))


def model_record(model: ImageModel) -> dict[str, str | None]:
    """Name, hash, revision and licence of a model."""
    return {"name": model.name, "sha256": model.sha256, "revision": model.revision, "licence": model.licence}


def environment_of(bench: Bench, states: Mapping[str, str], sampler: Sampler | None = None) -> dict[str, Any]:
    """The origin of a run's numbers: versions, kernels, model, task and the hash of each defence's state.

    An attack has no `sampler`.
    """
    model, task = bench.model, bench.task
    environment = describe(model.device, threads=torch.get_num_threads())
    if sampler is not None:
        environment |= {
            "dtype": certify_of(bench.experiment).dtype,
            "batch": sampler.batch,
            "kernels": list(sampler.kernels),
            "noise": kernel(model.device),
        }
    return {
        "environment": environment,
        "model": model_record(model),
        "task": {
            "name": task.name,
            "title": task.title,
            "classes": list(task.classes),
            "source": task.source,
            "licence": task.licence,
        }
        | ({"absent": list(task.absent)} if task.absent else {}),
        "states": dict(states),
    }
