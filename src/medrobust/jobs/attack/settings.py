"""How an experiment is attacked: the attacks, the ball, and what decides the last bits; kept as attack.yaml."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medrobust.attacks import ATTACKS, Attack, AttackError, Ball, make
from medrobust.attacks.apgd import Apgd
from medrobust.attacks.fab import Fab
from medrobust.attacks.pgd import Pgd
from medrobust.attacks.square import Square
from medrobust.attacks.suite import standard_set
from medrobust.defences import make as make_defence
from medrobust.errors import RunError
from medrobust.files import replace_text
from medrobust.jobs.experiment import Experiment
from medrobust.words import eps_text

WHOLE = "autoattack"
_GRADIENT = 3  # a forward and a backward pass, in forward passes


class AttackSettings(BaseModel):
    """Attacks by name, one after the other at the images still right; eps, one or several, in pixels of [0, 1].

    `sigma` is the noise with which prompts that are tuned on the input are tuned, on the clean image, before they are
    frozen and attacked. `batch` images are attacked at once; it decides the last bits of an attack.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attacks: tuple[str, ...] = Field((WHOLE,), min_length=1)
    norm: str = "linf"
    eps: tuple[float, ...] = Field((8 / 255,), min_length=1)  # ascending; a lone number is a tuple of one
    sigma: float | None = Field(None, gt=0)
    batch: int = Field(64, ge=1)

    @field_validator("eps", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)

    @field_validator("eps")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(value))

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
        """What tables call the set."""
        return "+".join(self.attacks)


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
        make(name)
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


def attacks_of(settings: AttackSettings, classes: int) -> dict[str, Attack] | None:
    """The attacks in their order, None for the standard set; raises AttackError where there are too few classes."""
    if settings.attacks == (WHOLE,):
        return None
    chosen: dict[str, Attack] = {}
    for name in settings.attacks:
        if classes < ATTACKS[name].fewest_classes:
            raise AttackError(
                f"{name} needs {ATTACKS[name].fewest_classes} classes, the task has {classes}; take apgd-margin or "
                "apgd-t-margin"
            )
        chosen |= standard_set(classes) if name == WHOLE else {name: make(name)}
    return chosen


def passes(attacks: Mapping[str, Attack] | None, classes: int) -> int:
    """Forward passes for an image that nothing breaks; a gradient counts as three."""
    total = 0
    for attack in (standard_set(classes) if attacks is None else attacks).values():
        match attack:
            case Apgd(targets=targets, steps=steps, restarts=restarts):
                total += _GRADIENT * steps * restarts * max(1, min(targets, classes - 1))
            case Fab(targets=targets, steps=steps, restarts=restarts):
                total += (_GRADIENT + 1) * steps * restarts * min(targets, classes - 1)
            case Pgd(steps=steps, restarts=restarts):
                total += _GRADIENT * steps * restarts
            case Square(queries=queries, restarts=restarts):
                total += queries * restarts
    return total


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
    for key, was in before.model_dump().items():
        if key not in ("norm", "eps") and getattr(settings, key) != was:
            raise RunError(
                f"{out} holds an attack with {key} = {was}, asked for {getattr(settings, key)}; use another --out"
            )


def keep_settings(out: Path, settings: AttackSettings) -> None:
    """Write attack.yaml."""
    replace_text(out / "attack.yaml", yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
