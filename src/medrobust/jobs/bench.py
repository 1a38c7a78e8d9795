"""Model, task and images of an experiment, loaded and checked, and the record of the origin of its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
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
from medrobust.results.journal import Form, read_journal
from medrobust.smoothing.certify import Smoothing
from medrobust.smoothing.encoding import EncoderChoice
from medrobust.smoothing.noise import kernel
from medrobust.smoothing.sampling import Sampler
from medrobust.types import ImageModel, VisionLanguageModel

FROM_PYTHON = "from Python: "  # before the name of what no name opens


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
    model = given.model or load(named(experiment.model, "model"), device=device, revision=experiment.revision)
    data = given.data or open_dataset(
        named(experiment.data, "data"),
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


def as_given(experiment: Experiment, given: Given) -> Experiment:
    """The experiment with the names of what a program holds in memory, so that its run says where its numbers are from.

    Raises ConfigError for a `limit` on images that are given.
    """
    if given.data is not None and experiment.limit is not None:
        raise ConfigError(f"limit is {experiment.limit}, and data= is given; pass data.subset(..) and leave limit out")
    values: dict[str, Any] = {}
    if given.model is not None:
        values |= {"model": f"{FROM_PYTHON}{given.model.name}", "device": str(given.model.device)}
    if given.data is not None:
        values |= {"data": f"{FROM_PYTHON}{given.data.source}", "split": given.data.split}
    if given.fit_data is not None:
        values |= {"fit_data": f"{FROM_PYTHON}{given.fit_data.source}", "fit_split": given.fit_data.split}
    return experiment.model_copy(update=values)


def named(text: str, argument: str) -> str:
    """The name by which a model or data set can be opened; ConfigError where a program held it."""
    if text.startswith(FROM_PYTHON):
        raise ConfigError(
            f"the {argument.replace('_', ' ')} of this run, {text.removeprefix(FROM_PYTHON)}, was held by a Python "
            f"program and no name opens it; call mr.run(.., {argument}=..), or "
            f"mr.audit(.., given=mr.Given({argument}=..))"
        )
    return text


def as_begun(experiment: Experiment, rows: Path, form: Form[Any]) -> Experiment:
    """The experiment with a limit that covers every image with rows: a later part may have been asked for fewer."""
    if experiment.limit is None or not rows.exists():
        return experiment
    images = len({row.key.id for row in read_journal(rows, form)})
    return experiment.model_copy(update={"limit": max(images, experiment.limit)})


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
