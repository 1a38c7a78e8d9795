"""The attacks that an experiment names, checked."""

from collections.abc import Mapping

from medrobust.attacks import ATTACKS, Attack, AttackError, AttackSet, make_attack
from medrobust.attacks.suite import suite_cost
from medrobust.defences import make_defence as make_defence
from medrobust.jobs.bench import check_settings
from medrobust.jobs.experiment import Experiment
from medrobust.jobs.parts import AttackSettings
from medrobust.words import eps_text


def tuned_in(experiment: Experiment) -> list[str]:
    """The defences that tune on the input."""
    return [one.name for one in experiment.defences if make_defence(one.defence, one.settings).tune is not None]


def attack_of(experiment: Experiment) -> AttackSettings:
    """The attack settings of an experiment. Raises AttackError where it has none."""
    if experiment.attack is None:
        raise AttackError("the experiment has no part `attack`")
    return experiment.attack


def sigma_of(experiment: Experiment) -> float | None:
    """The noise under which prompts are tuned before the attack: its own, or that of the first certificates."""
    settings = attack_of(experiment)
    if settings.sigma is None and experiment.certify is not None and tuned_in(experiment):
        return experiment.certify.sigmas[0]
    return settings.sigma


def check_attack(experiment: Experiment) -> None:
    """Check the settings before anything is loaded. Raises AttackError, or another MedrobustError."""
    check_settings(experiment)
    settings = attack_of(experiment)
    tuned, written = tuned_in(experiment), [eps_text(ball.eps) for ball in settings.balls]
    twice = next((text for text in written if written.count(text) > 1), None)
    if twice:
        raise AttackError(f"eps {twice} is given twice; give each once")
    for name in settings.attacks:
        make_attack(name, settings.settings.get(name))
    if len(set(settings.attacks)) < len(settings.attacks):
        raise AttackError(f"an attack is named twice in {settings.name}; name each once")
    if tuned and sigma_of(experiment) is None:
        raise AttackError(
            f"{', '.join(tuned)} tunes its prompt or tower on every image under noise. Pass --sigma (the noise level "
            "of that tuning): it is tuned on the clean image and then attacked unchanged. Or leave this defence out"
        )
    if settings.sigma is not None and not tuned:
        raise AttackError(
            f"--sigma {settings.sigma:g} is for defences that tune on the input, and none of these does; leave it out "
            f"({', '.join(choice.name for choice in experiment.defences)} are attacked as deployed without noise)"
        )


def attacks_of(settings: AttackSettings, classes: int) -> dict[str, Attack]:
    """The attacks in their order, a set by its members. Raises AttackError where there are too few classes for one."""
    chosen: dict[str, Attack] = {}
    for name in settings.attacks:
        attack = make_attack(name, settings.settings.get(name))
        if classes < attack.fewest_classes:
            enough = [other for other, entry in ATTACKS.items() if entry.default.fewest_classes <= classes]
            raise AttackError(
                f"{name} needs {attack.fewest_classes} classes, the task has {classes}; take another "
                f"({', '.join(enough)})"
            )
        found = attack.members(classes) if isinstance(attack, AttackSet) else {name: attack}
        twice = next((one for one in found if chosen.get(one, found[one]) != found[one]), None)
        if twice:
            raise AttackError(
                f"{twice} is named with settings of its own and is part of a set too; leave one of them out"
            )
        chosen |= found
    return chosen


def passes(attacks: Mapping[str, Attack], classes: int) -> int:
    """Forward passes at most, at one eps, for an image that nothing breaks; a gradient counts as three."""
    return suite_cost(attacks, classes)
