"""A full evaluation: the same images attacked and certified under the same defences, into one run folder."""

from pathlib import Path

from medrobust.jobs.attack import AttackSettings, attack
from medrobust.jobs.attack.settings import check, tuned_in
from medrobust.jobs.bench import check_settings, claim
from medrobust.jobs.certify import run
from medrobust.jobs.experiment import Experiment
from medrobust.results import RunSummary
from medrobust.tell import Tell


def evaluate(
    experiment: Experiment, settings: AttackSettings, out: Path, *, reporter: Tell | None = None
) -> RunSummary:
    """Attack, then certify every image under every defence; an interrupted evaluation goes on where it stopped.

    Prompts that are tuned on the input are attacked as they are tuned at the first sigma, whatever `settings` say. The
    summary of both comes back. Raises MedrobustError, with everything already written intact.
    """
    tell = reporter or Tell()
    check_settings(experiment)
    settings = settings.model_copy(update={"sigma": experiment.sigmas[0] if tuned_in(experiment) else None})
    check(settings, experiment)
    claim(out, experiment)
    tell.say(announcement(experiment, settings))
    attack(experiment, settings, out, reporter=tell)
    return run(experiment, out, reporter=tell)


def announcement(experiment: Experiment, settings: AttackSettings) -> str:
    """What will be done; what each half costs is said once the images are known."""
    names = ", ".join(choice.called for choice in experiment.defences)
    sigmas = ", ".join(f"{sigma:g}" for sigma in experiment.sigmas)
    copies = len(experiment.sigmas) * (experiment.n + experiment.selection)
    return (
        f"evaluate {names} with {experiment.model}: attacked by {settings.name} in {settings.told}, then "
        f"certified at sigma {sigmas} with at most {copies:,} noisy copies an image; each half says first what it costs"
    )
