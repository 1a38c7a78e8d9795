"""How an experiment is attacked: the attacks, the ball, and what decides the last bits; kept as attack.yaml."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medrobust.attacks import ATTACKS, STANDARD, Attack, AttackError, AttackSet, Ball, make_attack
from medrobust.attacks.suite import suite_cost
from medrobust.defences import make as make_defence
from medrobust.errors import RunError
from medrobust.files import replace_text
from medrobust.jobs.experiment import Experiment
from medrobust.words import eps_text


class AttackSettings(BaseModel):
    """Attacks by name, one after the other at the images still right; eps, one or several, in pixels of [0, 1].

    `sigma` is the noise with which prompts that are tuned on the input are tuned, on the clean image, before they are
    frozen and attacked. `batch` images are attacked at once; it decides the last bits of an attack. `settings` are
    those of each attack by its name, where they are not the usual ones: `{"pgd": {"steps": 20, "step": "2/255"}}`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attacks: tuple[str, ...] = Field((STANDARD,), min_length=1)
    norm: str = "linf"
    eps: tuple[float, ...] = Field((8 / 255,), min_length=1)  # ascending; a lone number is a tuple of one
    sigma: float | None = Field(None, gt=0)
    batch: int = Field(64, ge=1)
    settings: dict[str, dict[str, Any]] = {}

    @field_validator("eps", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)

    @field_validator("eps")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(value))

    @field_validator("settings")
    @classmethod
    def _checked(cls, value: dict[str, dict[str, Any]], info: Any) -> dict[str, dict[str, Any]]:
        """In the order of the attacks, without those that are usual anyway. Raises AttackError."""
        attacks = info.data.get("attacks", ())
        other = next((name for name in value if name not in attacks), None)
        if other is not None:
            raise AttackError(
                f"there are settings for {other}, which is not among the attacks ({', '.join(attacks)}); name it there "
                "too, or leave its settings out"
            )
        given = {name: value[name] for name in attacks if name in value}
        for name, part in given.items():
            make_attack(name, part)
        checked = {name: ATTACKS[name].checked(name, part) for name, part in given.items()}
        return {name: part for name, part in checked.items() if part}

    @property
    def balls(self) -> tuple[Ball, ...]:
        """The smallest first. Raises AttackError for an eps or a norm that cannot be meant."""
        return tuple(Ball.parse(self.norm, eps) for eps in self.eps)

    @property
    def told(self) -> str:
        """The balls in a sentence: `linf 1/255, 4/255`."""
        return f"{self.balls[0].norm} {', '.join(eps_text(ball.eps) for ball in self.balls)}"

    @property
    def name(self) -> str:
        """What tables call the set: `pgd(steps=20)+square`."""
        given = self.settings
        return "+".join(ATTACKS[one].called(one, given[one]) if one in given else one for one in self.attacks)

    def written(self) -> dict[str, Any]:
        """As attack.yaml keeps it: `settings` only where there are any."""
        return self.model_dump(mode="json", exclude=None if self.settings else {"settings"})


def tuned_in(experiment: Experiment) -> list[str]:
    """The defences that tune on the input."""
    return [one.called for one in experiment.defences if make_defence(one.name, one.settings).tune is not None]


def check(settings: AttackSettings, experiment: Experiment) -> None:
    """What can be told before anything is loaded. Raises AttackError."""
    tuned, written = tuned_in(experiment), [eps_text(ball.eps) for ball in settings.balls]
    twice = next((text for text in written if written.count(text) > 1), None)
    if twice:
        raise AttackError(f"eps {twice} is given twice; give each once")
    for name in settings.attacks:
        make_attack(name, settings.settings.get(name))
    if len(set(settings.attacks)) < len(settings.attacks):
        raise AttackError(f"an attack is named twice in {settings.name}; name each once")
    if tuned and settings.sigma is None:
        raise AttackError(
            f"{', '.join(tuned)} tunes on each image under noise; give its --sigma, and what is tuned is "
            "attacked as it was tuned on the clean image, or leave it out"
        )
    if settings.sigma is not None and not tuned:
        raise AttackError(
            f"--sigma {settings.sigma:g} is for defences that tune on the input, and none of these does; leave it out "
            f"({', '.join(choice.called for choice in experiment.defences)} are attacked as deployed without noise)"
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


def claim_settings(out: Path, settings: AttackSettings) -> None:
    """See that the attacked images in a folder, if any, were attacked in the same way. Raises RunError."""
    path = out / "attack.yaml"
    if not (path.exists() and (out / "attacked.jsonl").exists()):
        return
    try:
        before = AttackSettings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise RunError(f"{path} cannot be read ({' '.join(str(error).split())}); use another --out") from error
    if before.told != settings.told:
        raise RunError(f"{out} holds an attack in {before.told}, asked for {settings.told}; use another --out")
    held, asked = _flat(before), _flat(settings)
    for key in {**held, **asked}:
        if held.get(key) != asked.get(key):
            was, now = (str(values[key]) if key in values else "its usual value" for values in (held, asked))
            raise RunError(f"{out} holds an attack with {key} = {was}, asked for {now}; use another --out")


def _flat(settings: AttackSettings) -> dict[str, Any]:
    """All but the balls, the settings of an attack as `pgd.steps`."""
    values = settings.model_dump(exclude={"norm", "eps", "settings"})
    given = {f"{name}.{key}": value for name, part in settings.settings.items() for key, value in part.items()}
    return values | given


def keep_settings(out: Path, settings: AttackSettings) -> None:
    """Write attack.yaml."""
    replace_text(out / "attack.yaml", yaml.safe_dump(settings.written(), sort_keys=False))
