"""Heads on one or several models, side by side: clean accuracy, accuracy under attack, and the features' spectrum.

Reference: Han et al., Findings of EMNLP 2024, arXiv 2407.02716 (the comparison); Chen et al., ICLR 2024, arXiv
2309.17002, who read the effect of pre-training from the singular values of a model's features.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from medrobust.attacks.attack import in_batches
from medrobust.data import Dataset
from medrobust.defences import DEFENCES, make_defence
from medrobust.errors import ConfigError, nearest
from medrobust.files import replace_text
from medrobust.jobs.attack import ATTACK
from medrobust.jobs.attack.settings import attack_of, check_attack
from medrobust.jobs.bench import prepare_bench
from medrobust.jobs.executors import here
from medrobust.jobs.experiment import Choice, Experiment
from medrobust.jobs.job import Execute, Given, carry_out
from medrobust.results.sections.probed import probed_markdown, write_probe_page
from medrobust.results.upstream import AttackUsed, ProbedModel, ProbeSummary, Spectrum, read_upstream, upstream_curves
from medrobust.results.values import write_sorted
from medrobust.settings import spread
from medrobust.tell import SILENT, Tell
from medrobust.types import Features, ImageModel

RECIPES = ("linear-probe", "full-fine-tune", "nmtune", "ran")


def probe(
    models: Sequence[str], experiment: Experiment, out: Path, *, tell: Tell = SILENT, execute: Execute = here
) -> ProbeSummary:
    """Learn the experiment's heads on every model, attack them, and write probe.json, probe.md and probe.html.

    Every model has a run folder in `out`, as `medrobust attack` makes one; an interrupted comparison goes on where it
    stopped. Raises MedrobustError, with everything already written intact.
    """
    check_attack(experiment)
    settings = attack_of(experiment)
    told = ", ".join(choice.name for choice in experiment.defences)
    names = names_of(models)
    tell.say(f"probe {', '.join(names)} on {experiment.data}: {told}, attacked by {settings.name} in {settings.told}")
    noise = {name: read_upstream(model) for name, model in zip(names, models, strict=True)}
    found: dict[str, ProbedModel] = {}
    for name, model in zip(names, models, strict=True):
        own = experiment.model_copy(update={"model": model})
        bench = prepare_bench(own)
        given = Given(bench.model, bench.data)
        attacked = carry_out(ATTACK, own, out / name, execute=execute, tell=tell, given=given).attacked
        found[name] = ProbedModel(
            model=model,
            sha256=bench.model.sha256,
            noise=noise[name],
            images=attacked.images,
            clean_accuracy=attacked.clean_accuracy,
            robust_accuracy=attacked.robust_accuracy,
            flags=attacked.flags,
            spectrum=spectrum(frozen_features(bench.model, bench.data, settings.batch)),
        )
    used = AttackUsed(settings.name, settings.balls[0].norm, settings.eps)
    result = ProbeSummary(experiment.data, experiment.split, used, found, upstream_curves(found))
    write_sorted(out / "probe.json", result.to_json())
    replace_text(out / "probe.md", probed_markdown(result))
    write_probe_page(out, result)
    return result


def recipes_of(names: Sequence[str], settings: Mapping[str, Any]) -> list[Choice]:
    """Heads by name; a setting `KEY` goes to all of them that have it, `NAME.KEY` to one.

    Raises ConfigError for an unknown name, or a setting that no chosen head has.
    """
    heads = [name for name in DEFENCES if make_defence(name).class_bound]
    for name in names:
        if name not in heads:
            raise ConfigError(f"no recipe {name!r}{nearest(name, heads)}; there are {', '.join(heads)}")
    chosen = spread({name: DEFENCES[name].settings.model_fields for name in names}, settings)
    return [Choice(defence=name, settings=values) for name, values in chosen.items()]


def names_of(models: Sequence[str]) -> list[str]:
    """Names of the models in tables and sub-folders: the name of a folder, or the name with dashes.

    Raises ConfigError where two are called the same.

    >>> names_of(["builtin", "vinid/plip"])
    ['builtin', 'vinid-plip']
    """
    names = [Path(model).absolute().name if Path(model).is_dir() else model.replace("/", "-") for model in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"two models are called {twice}; give each once, from folders of different names")
    return names


def frozen_features(model: ImageModel, data: Dataset, batch: int) -> Features:
    """The frozen model's features of all images, `batch` encoded at once."""
    found: dict[int, Features] = {}

    def encode(part: slice) -> None:
        images = data.images(range(part.start, part.stop)).to(model.device)
        with torch.no_grad():
            found[part.start] = model.encode_image(images)

    in_batches(len(data), batch, encode)
    return torch.cat([found[start] for start in sorted(found)])


def spectrum(features: Features) -> Spectrum:
    """Singular values, largest first and as shares of their sum, and the entropy of these shares in nats.

    The features are neither centred nor scaled. Few large values: little of the space is used.
    """
    values = torch.linalg.svdvals(features.double().cpu())
    shares = values / values.sum().clamp(min=torch.finfo(torch.float64).tiny)
    entropy = -torch.special.xlogy(shares, shares).sum()
    return Spectrum(tuple(round(share, 8) for share in shares.tolist()), round(float(entropy), 6))
