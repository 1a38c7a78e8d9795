"""What the command line writes as text: defences, NAME[:MODE][=STATE], settings, and radii."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrobust.errors import ConfigError
from medrobust.jobs.experiment import Choice

if TYPE_CHECKING:
    from medrobust.jobs.attack import AttackSettings


def chosen(texts: list[str], *, transfer: bool = False) -> list[Choice]:
    """Choices with the modes of their states, told apart; with `transfer`, of states learned on any task."""
    choices = [Choice.model_validate(text).model_copy(update={"transfer": transfer}) for text in texts]
    return _told_apart([_with_mode_of_state(choice) for choice in choices])


def numbers(text: str) -> list[float]:
    """Radii with commas between them. Raises ConfigError."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--radii takes numbers with commas between them, got {text!r}") from None


def attack_settings(
    attacks: list[str],
    norm: str,
    eps: list[str],
    batch: int,
    sigma: float | None = None,
    given: Mapping[str, Mapping[str, Any]] | None = None,
) -> "AttackSettings":
    """An attack as options name it, with settings by attack. Raises AttackError for what cannot be meant."""
    from medrobust.attacks import Ball
    from medrobust.jobs.attack import AttackSettings

    balls = [Ball.parse(norm, size) for size in eps]
    sizes = tuple(ball.eps for ball in balls)
    settings = {name: dict(values) for name, values in (given or {}).items() if values}
    return AttackSettings(
        attacks=tuple(attacks), norm=balls[0].norm, eps=sizes, sigma=sigma, batch=batch, settings=settings
    )


def settings_of_attacks(attacks: list[str], texts: list[str]) -> dict[str, dict[str, Any]]:
    """`--set` by attack: `KEY=VALUE` goes to all that have this setting, `ATTACK.KEY=VALUE` to one.

    Raises AttackError for an unknown attack, ConfigError for a setting that none has.
    """
    from medrobust.settings import spread

    return spread(fields_of_attacks(attacks), settings_of(texts))


def fields_of_attacks(attacks: list[str]) -> dict[str, list[str]]:
    """What may be set, by attack. Raises AttackError for an unknown one."""
    from medrobust.attacks import ATTACKS, make_attack

    for name in attacks:
        make_attack(name)
    return {name: list(ATTACKS[name].settings) for name in attacks}


def _with_mode_of_state(choice: Choice) -> Choice:
    """A state given without a mode is called after the mode it was learned in."""
    if choice.state is None or choice.settings:
        return choice
    from medrobust.defences.state import load_state

    mode = load_state(Path(choice.state))[1].settings.get("mode")
    return choice.model_copy(update={"settings": {"mode": mode}}) if mode else choice


def _told_apart(choices: list[Choice]) -> list[Choice]:
    """Two states of one defence are called after their folders."""
    called = [choice.called for choice in choices if choice.state]
    return [
        choice.model_copy(update={"label": f"{choice.called} ({Path(choice.state).parent.name or choice.state})"})
        if choice.state and called.count(choice.called) > 1
        else choice
        for choice in choices
    ]


def settings_of(texts: list[str]) -> dict[str, Any]:
    """KEY=VALUE texts as settings, the values read as YAML. Raises ConfigError for one without `=`."""
    import yaml

    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes KEY=VALUE, got {text!r}")
        settings[key.strip()] = yaml.safe_load(value)
    return settings
