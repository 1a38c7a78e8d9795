"""What an experiment needs before it starts: model, task and images loaded, its folder claimed, settings checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from medrobust.data import Dataset, Task, load_task, open_dataset
from medrobust.defences import make
from medrobust.errors import RunError, cannot_write
from medrobust.files import replace_text
from medrobust.jobs.experiment import Experiment, to_yaml
from medrobust.machine import available_threads, checked_device, describe
from medrobust.models import load
from medrobust.smoothing.certify import Smoothing
from medrobust.smoothing.encoding import EncoderChoice
from medrobust.smoothing.noise import kernel
from medrobust.smoothing.sampling import Sampler
from medrobust.types import ImageModel, VisionLanguageModel

# of a run that goes on: more images; and what its environment.json, not its experiment.yaml, holds it to
MAY_CHANGE = {"limit", "batch", "compile", "threads"}
# how an experiment is certified: nothing to an attack on it
CERTIFYING = {"sigmas", "alpha", "selection", "n", "stopping", "look", "radii", "lean", "dtype"}
ROWS = ("certified.jsonl", "attacked.jsonl")


@dataclass(frozen=True)
class Bench:
    """Model, task and images of an experiment, loaded and checked."""

    experiment: Experiment
    model: VisionLanguageModel
    task: Task
    data: Dataset

    @property
    def levels(self) -> list[Smoothing]:
        """One setting a noise level; alpha is divided among findings, so that all answers of an image hold together."""
        return smoothings(self.experiment, parts=max(1, len(self.task.absent)))

    @property
    def findings(self) -> list["Bench"]:
        """A bench of each finding alone; none where an image has one class."""
        return [replace(self, task=one, data=self.data.finding(at)) for at, one in enumerate(self.task.findings)]


def prepare(experiment: Experiment, *, split: str | None = None, findings: bool = False) -> Bench:
    """Load what an experiment names, the settings first, so that bad ones cost no waiting.

    A task with findings is refused unless `findings` says that the caller asks for each of them. Raises MedrobustError.
    """
    check_settings(experiment)
    device = checked_device(experiment.device)
    torch.set_num_threads(experiment.threads or available_threads())
    task = load_task(experiment.task) if experiment.task else None
    model = load(experiment.model, device=device, revision=experiment.revision)
    data = open_dataset(
        experiment.data,
        task,
        preprocess=model.preprocess,
        split=split or experiment.split,
        skip_broken=experiment.skip_broken,
        limit=experiment.limit if split is None else None,
        findings=findings,
    )
    bench = Bench(experiment, model, data.task, data)
    if bench.task.absent:
        _ = bench.levels  # n may be too small for its part of alpha
    return bench


def check_settings(experiment: Experiment) -> None:
    """What can be told without model and images; raises SmoothingError or ConfigError."""
    smoothings(experiment)
    for choice in experiment.defences:
        make(choice.name, choice.settings)


def smoothings(experiment: Experiment, *, parts: int = 1) -> list[Smoothing]:
    """One setting a noise level, for one of so many answers that share alpha; raises SmoothingError."""
    return [
        Smoothing(
            sigma,
            experiment.alpha / parts,
            experiment.selection,
            experiment.n,
            experiment.stopping,
            experiment.radii,
            experiment.look,
        )
        for sigma in experiment.sigmas
    ]


def claim(out: Path, experiment: Experiment, *, attack: bool = False) -> None:
    """Make the run folder this experiment's own, or see that it is; a run may be extended, and told anew.

    Certificates and attacks of one experiment share a folder; how it is certified matters to certificates alone.
    Raises RunError where it is another's or cannot be written.
    """
    path = out / "experiment.yaml"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (path.exists() and begun(out)):
            replace_text(path, to_yaml(experiment))
            return
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise cannot_write(out, error) from error
    now = experiment.model_dump(mode="json")
    may_change = MAY_CHANGE | ({"radii"} if experiment.stopping == "fixed" else set())  # else they decide when to stop
    if attack or not (out / "certified.jsonl").exists():
        may_change |= CERTIFYING
    for key in (key for key in now if key not in may_change and before.get(key) != now[key]):
        raise RunError(f"{out} holds a run with {key} = {before.get(key)}, asked for {now[key]}; use another --out")


def begun(out: Path) -> bool:
    """Whether a folder holds rows of any kind."""
    return any((out / name).exists() for name in ROWS)


def keep_experiment(out: Path, experiment: Experiment) -> None:
    """Write experiment.yaml, once the rows that are there are known to be the beginning of what it asks for."""
    replace_text(out / "experiment.yaml", to_yaml(experiment))


def recorded_environment(out: Path) -> dict[str, Any]:
    """What a run that has begun says of where its numbers come from; empty where none has begun.

    Raises RunError where the file cannot be read.
    """
    path = out / "environment.json"
    if not (path.exists() and begun(out)):
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {part: dict(values) for part, values in found.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}); use another --out") from error


def encoding_of(experiment: Experiment, recorded: Mapping[str, Any]) -> EncoderChoice:
    """What an experiment wants of its encoder; what it leaves open is as in the record of a run that goes on."""
    before = recorded.get("environment", {})
    batch, compiled = experiment.batch, experiment.compile
    if "kernels" in before:  # not where the folder was begun by an attack
        batch = batch or before.get("batch")
        compiled = any("inductor" in kernel for kernel in before["kernels"]) if compiled is None else compiled
    return EncoderChoice(batch, experiment.lean, compiled, getattr(torch, experiment.dtype))


def keep_environment(
    out: Path, bench: Bench, states: Mapping[str, str], sampler: Sampler | None = None
) -> dict[str, Any]:
    """Write environment.json, or see that a resumed run has the same one.

    `states`: the hash of what each defence learned; an attack has no `sampler`. Raises RunError naming what differs.
    """
    found = environment_of(bench, states, sampler)
    recorded = recorded_environment(out)
    if recorded:
        certified = (out / "certified.jsonl").exists()
        check_same(out, recorded, found if certified else environment_of(bench, states))
        found = {part: {**recorded.get(part, {}), **values} for part, values in found.items()}
    replace_text(out / "environment.json", json.dumps(found, indent=2) + "\n")
    return found


def record_of(model: ImageModel) -> dict[str, str | None]:
    """What names a model, and under which licence it is."""
    return {"name": model.name, "sha256": model.sha256, "revision": model.revision, "licence": model.licence}


def environment_of(bench: Bench, states: Mapping[str, str], sampler: Sampler | None = None) -> dict[str, Any]:
    """Versions, kernels, model, task and states: what a run's numbers come from."""
    model, task = bench.model, bench.task
    environment = describe(model.device, threads=torch.get_num_threads())
    if sampler is not None:
        environment |= {
            "dtype": bench.experiment.dtype,
            "batch": sampler.batch,
            "kernels": list(sampler.kernels),
            "noise": kernel(model.device),
        }
    return {
        "environment": environment,
        "model": record_of(model),
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


def check_same(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise RunError naming what differs between a run's record and here."""
    for part, values in now.items():
        for key, value in values.items():
            was = before.get(part, {}).get(key)
            if was != value:
                raise RunError(
                    f"{out} was begun with {part} {key} = {was!r}, now it is {value!r}; rows of both must not be mixed"
                    ": use another --out"
                )
